"""Runs programs that a language model wrote, and that nobody has read: transform(grid).

    with Sandbox() as sandbox:
        for number, result in sandbox.run([program, ..], grids):
            result.outputs          # one grid for each input, or None where the program failed

A server process, which runs this file, has numpy loaded, an empty environment and an empty working
directory. It forks one child for each program. The child is killed after its program, and what it
writes is read as JSON, at most a megabyte of it, and checked.

A child cannot open any file, so the server loads scipy before it forks. It loads only the parts
that a program names, when the first such program comes. This takes up to a second, once, and does
not count as time of the program. Without scipy the sandbox works, and refuses to import it.

Covered, on Linux with seccomp (x86_64 and arm64), without any privilege:
  - endless loops, also in C and with every signal ignored: a CPU limit, and SIGKILL when an input
    takes longer than the wall-clock limit
  - memory, stack and output size: limits on address space, recursion, stack and bytes read
  - files, network, processes, threads, signals, ptrace, shared memory: a filter of system calls is
    set after the fork. It allows only what computing needs. Everything else fails with EPERM: there
    is no open, no socket, no fork, no kill and no exec.
  - processes that survive: a program cannot start any, and its child is killed and waited for
  - one program that spoils the next (a changed numpy, seeds), or reads what it answered: each child
    has its own copy of the server's memory, in which nothing of earlier programs is reachable
  - chance: seeds, hashes and unseeded generators are the same in every child, so a program gives
    the same output whenever it runs, unless it looks at the clock or at addresses
  - cheating: a child gets the inputs and never the expected outputs, and it holds no file
    descriptor of the server
  - hostile results (objects, NaN, ragged or huge arrays, wrong types): the child turns them into
    plain integers, and the server checks these again
Not covered:
  - faults of the kernel or of the processor (Spectre, for example)
  - a program that shows what it computes by the time that it takes
  - systems without seccomp (macOS, some containers): only the limits on CPU time, memory
    and wall-clock time are left there. A warning says so once.
"""
from __future__ import annotations

import ast
import ctypes
import functools
import importlib.util
import itertools
import json
import math
import os
import platform
import random
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy

# This file imports nothing of the project: it runs as a script, in the server process.

MODULES = ("numpy", "math", "collections", "itertools", "functools", "copy", "typing", "random",
           "re", "heapq", "operator", "dataclasses", "enum", "abc", "string", "bisect", "fractions",
           "statistics", "__future__")  # what programs may import, besides scipy
SCIPY = ("ndimage", "spatial", "signal", "stats", "optimize", "interpolate", "integrate",
         "sparse.csgraph", "cluster.hierarchy", "linalg", "fft", "special")    # the parts that work
# What programs find without an import. Models that learned to write programs for a library of
# helpers rely on these names.
PREDEFINED = {"np": numpy, "numpy": numpy, "List": list, "Tuple": tuple}
NAMES = ("exec", "eval", "compile", "open", "breakpoint", "__import__", "globals",
         "__builtins__", "__loader__")  # what they may not use
NO_FILTER = 9                           # exit status of a child that cannot filter system calls
STOPPED = "it was stopped: time, memory or a crash"
UNFILTERED = "there is no filter of system calls"
MAX_SIDE = 64                           # rows and columns of a result, at most
MAX_OUTPUT = 1 << 20                    # bytes read from a child, at most
MAX_INPUTS = 10                         # the time limit grows with the inputs, up to this many
# A recursion through Python alone needs no stack of C. Through numpy, scipy or sorted() it needs up
# to 3 kB for each level (measured), so this stack is enough for twice as much.
RECURSION = 10_000                      # levels; a flood fill of a grid of 30 x 30 needs 900
STACK = 64 << 20                        # bytes


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    The time limit is for each input: a program is stopped when it has worked on one input for
    longer than `seconds` (on the first, the start of the program is included). In all it gets
    `seconds` for each input, for 10 inputs at most. The limit on CPU time is the same total,
    rounded up to whole seconds.
    """
    seconds: float = 2.0            # wall clock, for each input
    memory: int = 1 << 30           # bytes of address space, those of numpy and scipy included

    def total_seconds(self, n: int) -> float:
        """The time limit for n inputs together."""
        return self.seconds * min(n, MAX_INPUTS)


@dataclass(frozen=True)
class Result:
    """What a program returned. outputs: for each input a grid (rows of integers from 0 to 9), or
    None if the program failed on it. error: the first reason, in one line; empty if none failed.
    errors: for each input the reason there, or ""; empty if the program did not run."""
    outputs: list
    error: str = ""
    errors: tuple[str, ...] = field(default=(), compare=False)


# ------------------------------------------------------------------------- before a program runs

def refuse(program: str, modules: tuple[str, ...] = MODULES) -> str | None:
    """The reason why a program should not run at all; None if there is none.

    It is there for clear error messages only. The limits of the child process, below, protect.
    """
    if len(program) > 20_000:
        return "the program is longer than 20,000 characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"no Python: {type(error).__name__}"
    for node in ast.walk(tree):
        reason = refuse_node(node, modules)
        if reason:
            return reason
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if "transform" not in functions:
        return "defines no function transform"
    return None


def refuse_node(node: ast.AST, modules: tuple[str, ...]) -> str | None:
    """The reason to refuse a program for one node of its syntax tree; None if there is none."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        for name in imported_names(node):
            package = name.split(".")[0]
            if package == "scipy" and not scipy_is_installed():
                return f"imports {name}, and scipy is not installed"
            if package not in (*modules, "scipy"):
                return f"imports {name}"
    if isinstance(node, ast.Attribute):
        if node.attr.startswith("__") and node.attr != "__name__":
            return f"touches {node.attr}"
    if isinstance(node, ast.Name) and node.id in NAMES:
        return f"uses {node.id}"
    return None


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that an import statement names; "." for `from . import x`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "."]


@functools.cache
def scipy_is_installed() -> bool:
    return importlib.util.find_spec("scipy") is not None


# ---------------------------------------------------------------------------- limits of the child

# The system calls that computing needs, by their numbers on x86_64 and on arm64: for memory, time,
# randomness, and for what is open already.
ALLOWED = {
    "x86_64": (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 60, 96, 98, 100, 131,
               186, 201, 202, 204, 219, 228, 229, 230, 231, 318, 334),
    "aarch64": (57, 62, 63, 64, 80, 93, 94, 98, 101, 113, 114, 115, 123, 124, 128, 132, 134, 135,
                 139, 153, 165, 169, 172, 178, 214, 215, 216, 222, 226, 233, 278, 293)}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2
CAPABILITY_VERSION = 0x20080522
KILL_PROCESS, FAIL, ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000      # 1 = EPERM


def filter_program(machine: str) -> bytes:
    """The filter as a program of classic BPF: allow the listed system calls, EPERM for the others.

    It reads struct seccomp_data: the number of the call at offset 0, the architecture at 4.
    """
    load, equal, done = 0x20, 0x15, 0x06
    numbers = ALLOWED[machine]
    code = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (done, 0, 0, KILL_PROCESS),
            (load, 0, 0, 0)]
    for i, number in enumerate(numbers):
        code.append((equal, len(numbers) - i, 0, number))       # if equal, jump to the last line
    code += [(done, 0, 0, FAIL), (done, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in code)


def forbid_system_calls() -> None:
    """Sets the filter. From here on this process can compute, write to what it has open, and exit.
    It cannot be undone. Raises OSError where there is no such filter."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ALLOWED:
        raise OSError(f"no filter of system calls for {sys.platform} on {machine}")
    code = filter_program(machine)
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(
        struct.pack("H6xQ", len(code) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0)):
        if libc.prctl(*(ctypes.c_ulong(argument) for argument in arguments)):
            raise OSError(ctypes.get_errno(), "prctl: " + os.strerror(ctypes.get_errno()))


def end_with_parent(parent: int) -> None:
    """Lets the kernel kill this process when its parent ends, however it ends. parent: the process
    that forked this one. Does nothing where there is no such call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, (PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)))
    if os.getppid() != parent:          # it ended before the call
        os._exit(1)


def drop_capabilities() -> None:
    """Gives up what root may do and others may not: with madvise it could mark memory as broken.
    Does nothing where there are no capabilities."""
    if sys.platform != "linux":
        return
    header = ctypes.create_string_buffer(struct.pack("Ii", CAPABILITY_VERSION, 0))
    none = ctypes.create_string_buffer(24)      # effective, permitted and inheritable, 64 bits each
    ctypes.CDLL(None).capset(header, none)


def limit_resources(limits: Limits, n: int) -> None:
    """Sets the limits of this process, which runs a program on n inputs: on CPU time, memory,
    stack, files written and files open. That on the stack is raised: most systems have 8 MB."""
    stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if stack == resource.RLIM_INFINITY or stack > STACK:
        stack = STACK
    for kind, most in ((resource.RLIMIT_CPU, max(1, math.ceil(limits.total_seconds(n)))),
                       (resource.RLIMIT_AS, limits.memory),
                       (resource.RLIMIT_STACK, stack),
                       (resource.RLIMIT_FSIZE, 0),
                       (resource.RLIMIT_CORE, 0),
                       (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(kind, (most, most))


def confine(pipe: int, limits: Limits, n: int, strict: bool, parent: int) -> None:
    """Takes everything from this process but `pipe`, which becomes file descriptor 3.

    limits, n: for a program on n inputs. strict: without a filter of system calls the process ends,
    with status NO_FILTER. parent: the server.
    """
    end_with_parent(parent)
    drop_capabilities()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.dup2(pipe, 3)
    os.closerange(4, 256)       # the server's pipes too: they carry the requests for other programs
    limit_resources(limits, n)
    try:
        forbid_system_calls()
    except OSError:
        if strict:
            os._exit(NO_FILTER)


# ------------------------------------------------------------------------------------- the child

def child(request: dict, pipe: int, modules: dict, parent: int) -> None:
    """Runs one program and writes one line of JSON for each input to the pipe. Never returns."""
    confine(pipe, Limits(**request["limits"]), len(request["inputs"]), request["strict"], parent)
    random.seed(0)
    numpy.random.seed(0)
    sys.setrecursionlimit(RECURSION)
    # The program may replace what the modules hold, so these are kept before it starts.
    write, dumps, leave, plain = os.write, json.dumps, os._exit, plain_grid
    program = sys.modules["program"] = types.ModuleType("program")      # dataclasses look for it
    space = vars(program)
    space.update(PREDEFINED, **modules)
    # BaseException: SystemExit and KeyboardInterrupt are failures of the program, too.
    try:
        exec(compile(request["program"], "program", "exec", dont_inherit=True), space)
    except BaseException as error:
        line = dumps({"error": f"{type(error).__name__}: {error}"[:400]}) + "\n"
        write(3, (line * len(request["inputs"])).encode())
        leave(0)
    for grid in request["inputs"]:
        try:
            line = {"output": plain(space["transform"](numpy.array(grid, dtype=int)))}
        except BaseException as error:
            line = {"error": f"{type(error).__name__}: {error}"[:400]}
        write(3, (dumps(line) + "\n").encode())
    leave(0)


def plain_grid(result) -> list[list[int]]:
    """What a program returned, as rows of integers. Raises ValueError if it is no grid.

    Floats that are whole numbers count: programs often return np.zeros and mean integers.
    """
    array = numpy.asarray(result)
    if array.dtype.kind == "O":         # numbers in a grid of objects are numbers
        array = numpy.array(array.tolist())
    if array.ndim != 2 or not 1 <= min(array.shape) <= max(array.shape) <= MAX_SIDE:
        raise ValueError(f"the result has shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise ValueError("the result holds something else than whole numbers from 0 to 9")
    if not ((array >= 0) & (array <= 9) & (array == numpy.floor(array))).all():
        raise ValueError("the result holds something else than whole numbers from 0 to 9")
    return [[int(cell) for cell in row] for row in array]


# ------------------------------------------------------------------------------------ the server

def serve(prelude: str) -> None:
    """Reads requests from standard input, a line of JSON each, and writes an answer to each as a
    line of JSON on standard output. Ends when its input ends."""
    import_for_programs()
    try:
        modules = load_prelude(Path(prelude)) if prelude else {}
    except Exception as error:
        reason = f"{prelude} cannot be imported: {type(error).__name__}: {error}"
        print(json.dumps({"outputs": None, "errors": [reason]}))
        return
    for text in sys.stdin:
        # In a function of its own: when the next program runs, no variable holds this answer.
        answer(json.loads(text), modules)


def answer(request: dict, modules: dict) -> None:
    """Runs the program of a request in a child and prints what it returned."""
    import_scipy(request["program"])
    output, into = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        try:
            child(request, into, modules, parent)
        finally:
            os._exit(1)
    os.close(into)
    data = read_lines(output, len(request["inputs"]), Limits(**request["limits"]))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(output)
    found = checked(data, len(request["inputs"]))
    if os.waitstatus_to_exitcode(status) == NO_FILTER:
        found["errors"] = [UNFILTERED] * len(request["inputs"])
    print(json.dumps(found | {"number": request["number"]}), flush=True)


def import_for_programs() -> None:
    """Imports what programs may import, before there is a filter that forbids opening files, and
    takes chance out of it."""
    for name in (*MODULES, "unicodedata"):      # this one for "\N{BULLET}"
        importlib.import_module(name)
    # numpy imports some of its parts when they are first used: np.unique, for one, needs numpy.ma
    for name in ("random", "ma", "linalg", "fft", "polynomial", "char", "typing"):
        importlib.import_module("numpy." + name)
    exec("from numpy import *", {})
    numpy.zeros((2, 2), int) @ numpy.zeros((2, 2), int)
    # What is seeded with nothing takes its seed from here: default_rng(), random.Random() ..
    numpy.random.bit_generator.randbits = lambda n: 0
    random.Random = random.SystemRandom = Seeded
    random.seed = lambda a=None, version=2: random._inst.seed(0 if a is None else a, version)


class Seeded(random.Random):
    """random.Random, but seeded with 0 where it would be seeded by chance."""

    def __init__(self, x=None):
        super().__init__(0 if x is None else x)

    def seed(self, a=None, version=2):
        super().seed(0 if a is None else a, version)


def import_scipy(text: str) -> None:
    """Imports scipy if a program or a file of helpers names it; else it would only make each fork
    slower. All parts at once: what a program finds must not depend on those before it. Does nothing
    without scipy: then the program's own import fails."""
    if "scipy" not in text:
        return
    for part in SCIPY:
        try:
            importlib.import_module("scipy." + part)
        except Exception:           # a broken scipy raises anything, and the server must go on
            return


def load_prelude(path: Path) -> dict:
    """The public names of the user's file of helpers. It becomes a module under its file's name,
    too: programs may say `from common import *`. Raises what the file raises.

    Helpers may import scipy when they are called. It is too late then, so it is imported now."""
    import_scipy(path.read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def read_lines(pipe: int, n: int, limits: Limits) -> bytes:
    """What a child writes until there are n lines, or until it ends, or until its time is over, or
    until there are MAX_OUTPUT bytes. Each new line gives it limits.seconds for the next one."""
    data, lines, now = bytearray(), 0, time.monotonic()
    deadline, end = now + limits.seconds, now + limits.total_seconds(n)
    while lines < n and len(data) <= MAX_OUTPUT and now < min(deadline, end):
        ready, _, _ = select.select([pipe], [], [], min(deadline, end) - now)
        block = os.read(pipe, 65536) if ready else b""
        if not block:
            break
        data += block
        now = time.monotonic()
        if b"\n" in block:
            lines += block.count(b"\n")
            deadline = now + limits.seconds
    return bytes(data[:MAX_OUTPUT])


def checked(data: bytes, n: int) -> dict:
    """What a child wrote for n inputs -> {"outputs": .., "errors": ..}, as in Result. Nothing in
    the data is trusted."""
    outputs, errors = [], []
    for line in data.split(b"\n")[:n]:
        try:
            said = json.loads(line)
            grid = said.get("output")
            outputs.append(grid if is_grid(grid) else None)
            errors.append("" if is_grid(grid) else plain_text(str(said.get("error", "no grid"))))
        except (ValueError, AttributeError, RecursionError):
            break
    left = n - len(outputs)
    return {"outputs": outputs + [None] * left, "errors": errors + [STOPPED] * left}


def plain_text(error: str) -> str:
    """What an error says, without what differs from process to process (where an object lies in
    memory), and without half characters, which no tokenizer takes."""
    return re.sub(r"0x[0-9a-fA-F]+", "0x..", error).encode(errors="replace").decode()[:200]


def is_grid(value) -> bool:
    """Whether a JSON value is a grid: rows of equal length, of integers from 0 to 9."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_SIDE:
        return False
    for row in value:
        if not isinstance(row, list) or not 1 <= len(row) <= MAX_SIDE:
            return False
        if len(row) != len(value[0]):
            return False
        if not all(type(cell) is int and 0 <= cell <= 9 for cell in row):
            return False
    return True


# ------------------------------------------------------------------------------------ the client

class Sandbox:
    """Servers, each of which runs one program at a time. A context manager; else call close()."""

    def __init__(self, limits: Limits | None = None, prelude: str = "", workers: int = 1,
                 check: bool = True):
        """prelude: a Python file of helpers that programs may use. workers: how many servers.
        check: whether refuse() looks at programs first."""
        self.limits, self.check = limits or Limits(), check
        self.prelude, self.modules = "", MODULES
        if prelude:
            self.prelude = str(Path(prelude).resolve())
            self.modules = (*MODULES, Path(prelude).stem)
        self.numbers = itertools.count()
        self.folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        self.servers = [self._start() for _ in range(workers)]
        self.strict = True
        result = self._ask(self.servers[0], "def transform(g): return g", [[[1]]])
        if result.error == UNFILTERED:
            self.strict = False
            warnings.warn("no filter of system calls here (seccomp): programs run with limits on "
                          "time and memory only, and can reach files and the network. Run this on "
                          "Linux, or in a container of its own.", stacklevel=2)

    def _start(self) -> subprocess.Popen:
        environment = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
                       "MKL_NUM_THREADS": "1"}
        for name in "PYTHONPATH", "LD_LIBRARY_PATH":        # numpy may be found by them alone
            if name in os.environ:
                environment[name] = os.environ[name]
        return subprocess.Popen(
            # not -I: it ignores PYTHONHASHSEED. There is nothing more in the environment.
            [sys.executable, "-s", "-P", __file__, self.prelude], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=self.folder.name,
            start_new_session=True, env=environment)

    def _send(self, server: subprocess.Popen, program: str, inputs: list) -> int:
        """Returns the number of the request, which its answer has, too."""
        number = next(self.numbers)
        request = {"number": number, "program": program, "inputs": inputs,
                   "limits": vars(self.limits), "strict": self.strict}
        server.stdin.write((json.dumps(request) + "\n").encode())
        server.stdin.flush()
        return number

    def _receive(self, server: subprocess.Popen, number: int) -> Result:
        """The answer to the request of this number. The caller of `run` may have left early: then
        the answers to earlier ones come first."""
        answer = {"number": -1}
        while answer["number"] != number:
            line = server.stdout.readline()
            if not line:
                raise RuntimeError("the server of the sandbox has died")
            answer = json.loads(line)
            answer.setdefault("number", number)         # none: it has not even begun
        if answer["outputs"] is None:
            raise RuntimeError(answer["errors"][0])
        first = next(filter(None, answer["errors"]), "")
        return Result(answer["outputs"], first, tuple(answer["errors"]))

    def _ask(self, server: subprocess.Popen, program: str, inputs: list) -> Result:
        return self._receive(server, self._send(server, program, inputs))

    def run(self, programs: list[str], inputs: list) -> Iterator[tuple[int, Result]]:
        """Runs every program on every input grid. Yields (number of the program, Result) as they
        finish. Raises RuntimeError if a server has died or cannot import the prelude."""
        waiting, busy, idle = list(enumerate(programs))[::-1], {}, list(self.servers)
        while waiting or busy:
            while waiting and idle:
                i, program = waiting.pop()
                reason = refuse(program, self.modules) if self.check else None
                if reason:
                    yield i, Result([None] * len(inputs), f"refused: {reason}")
                    continue
                server = idle.pop()
                busy[server.stdout] = server, self._send(server, program, inputs), i
            for stdout in select.select(list(busy), [], [])[0] if busy else []:
                server, number, i = busy.pop(stdout)
                idle.append(server)
                yield i, self._receive(server, number)

    def close(self) -> None:
        for server in self.servers:
            server.stdin.close()
            server.stdout.close()
            server.kill()
            server.wait()
            wait_for_group(server.pid)          # the kernel kills its child with it
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def wait_for_group(leader: int, seconds: float = 1.0) -> None:
    """Waits until the processes of a group have ended, for a second at most."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            os.killpg(leader, signal.SIGKILL)
            time.sleep(0.001)
    except (ProcessLookupError, PermissionError):
        pass


if __name__ == "__main__":
    serve(sys.argv[1])
