"""What can go wrong, as one line with a way out, and the exit code that goes with it."""
from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path

from runlog.ledger import best_first, read_evaluations
from runlog.slow import torch


class UserError(Exception):
    """Something that the user can mend. The command line prints one line and exits with 2."""


class RunStopped(Exception):
    """The run cannot go on; what it found is on disk. One line, exit code 1."""


class TaskFailed(Exception):
    """The code of a task raised, or returned what it should not. The run stops: a fault of the
    scorer is never a low score. One line, exit code 1."""


def one_line(error: Exception) -> str:
    """The message of an error without line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]


def printable(value) -> str:
    """Text with a dot for what cannot be printed (control characters, surrogates, direction marks),
    but for ends of lines."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in text)


def printable_in(value):
    """A JSON value with all of its texts printable."""
    if isinstance(value, dict):
        return {printable(name): printable_in(one) for name, one in value.items()}
    if isinstance(value, list):
        return [printable_in(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def exit_code(main, argv: list[str]) -> int:
    """Runs main(argv). 0: done; 1: the run had to stop; 2: the user can mend it; 130: Ctrl-C; 141:
    what reads the output has gone, as `| head` does."""
    for stream in (sys.stdout, sys.stderr):     # a model may write what a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        main(argv)
        return 0
    except KeyboardInterrupt as error:
        if not error.args:          # a search has said more
            print("\nstopped", file=sys.stderr)
        return 130
    except UserError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: {error}: pip install -r requirements.txt", file=sys.stderr)
        return 2
    except (RunStopped, TaskFailed) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)        # Python flushes it once more at the end
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {printable(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def endings(folder: Path, again: str):
    """What ends a run early: the user reads what was found, where it is and how to go on. An error
    of the user passes, as does a fault of this program.

    again: what continues the run.
    """
    try:
        yield
    except (KeyboardInterrupt, RunStopped, TaskFailed, MemoryError, RuntimeError,
            BrokenPipeError) as error:
        out_of_memory = is_out_of_memory(error)
        if isinstance(error, (RuntimeError, MemoryError)) and not out_of_memory:
            raise
        print(describe_stop(folder, "" if isinstance(error, RunStopped) else again),
              file=sys.stderr)
        if isinstance(error, TaskFailed):
            log = folder / "error.log"
            with contextlib.suppress(OSError):      # the disk may be full
                log.write_text("".join(traceback.format_exception(error)), encoding="utf-8",
                               errors="backslashreplace")
                print(f"the traceback is in {log}", file=sys.stderr)
        if out_of_memory:
            raise RunStopped(f"out of memory: {one_line(error)[:160]}. Continue with "
                             "--micro-batch 1, or choose a smaller group or model") from error
        error.args = error.args or ("stopped",)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG,
                               errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EISDIR,
                               errno.EIO):
            raise
        raise UserError(f"cannot use {error.filename or folder}: {error.strerror}; make room or "
                        "choose another folder, then --resume") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Also of the CPU, of pinned memory and of cuBLAS, for which torch has no error of its own."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error).lower() for words in ("out of memory", "not enough memory",
                                                  "can't allocate memory", "alloc_failed"))


def describe_stop(folder: Path, again: str) -> str:
    """What a run that ended early has found, and what continues it ("": nothing does)."""
    best = best_first(read_evaluations(folder), 1)
    found = "nothing scored yet"
    if best:
        found = f"best so far: {best[0].candidate!r} with score {best[0].score:.4f}"
    text = f"\nstopped; {found}. Everything scored is in {folder}"
    return f"{text}; continue with\n  {again}" if again else text


def explain_loading(name: str, error: Exception) -> str:
    """One line on why a model could not be loaded, and what to do."""
    chain = repr(error) + repr(error.__cause__) + repr(error.__context__)
    if "GatedRepo" in chain or "gated repo" in chain:
        return (f"{name} is gated: accept its licence on its Hub page and run `hf auth login`, or "
                "use an ungated model, for example --model Qwen/Qwen3-4B-Instruct-2507")
    if Path(name).is_dir():
        return (f"{name} holds no causal language model that transformers can load: "
                f"{one_line(error)}")
    if os.sep in name and name.count("/") != 1 or name.startswith((".", "~")):
        return f"there is no model folder {name}"
    if "Unrecognized" in chain or "does not recognize" in chain or not isinstance(error, OSError):
        return f"transformers cannot load {name}: {one_line(error)}"
    return (f"model {name} is neither a local folder nor a Hub model that can be reached (check "
            "the name, the network, HF_TOKEN; --model tiny needs none of them)")
