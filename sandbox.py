"""Runs a program that a language model wrote where it can do no harm: transform(grid) on numpy arrays, nothing else.

    with Sandbox() as sandbox:
        for number, result in sandbox.run([program, ..], grids): ...     # result.outputs: one grid per input, or None

A server process with numpy loaded, an empty environment and an empty working directory forks one child per program. A
child that has started a program is never trusted again; what it says is read as capped, checked JSON.

Covered, on Linux with seccomp (x86_64 and arm64), without any privilege:
  - endless loops, also in C and with every signal ignored: CPU limit, and SIGKILL at the end of the wall-clock limit
  - memory, stack, output size: limits on address space, recursion and bytes read
  - files, network, processes, threads, signals, ptrace, shared memory: a filter of system calls, set after the fork, allows
    only what computing needs; everything else fails with EPERM. There is no open, no socket, no fork, no kill, no exec.
  - survivors: nothing can be started, so nothing can survive; each child is killed and waited for in any case
  - one program spoiling the next (monkeypatched numpy, seeds): each runs in its own copy of the server's memory
  - cheating: a child holds the inputs and never the expected outputs; it has no file descriptor of the server's
  - hostile results (objects, NaN, ragged or huge arrays, wrong types): reduced to plain integers inside the child, checked
    again outside
Not covered:
  - faults of the kernel, or of the processor (Spectre and its kin)
  - a program that tells what it computes through the time it takes
  - systems without seccomp (macOS, Windows, some containers): CPU, memory and wall-clock limits only; said loudly, once
"""
from __future__ import annotations

import ast
import ctypes
import json
import os
import platform
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODULES = ("numpy", "math", "collections", "itertools", "functools", "copy", "typing", "random", "re", "heapq", "operator",
           "dataclasses", "enum", "abc", "string", "bisect", "fractions", "statistics")
MAX_SIDE, MAX_OUTPUT = 64, 1 << 20      # cells along a side of a result; bytes read from a child


@dataclass(frozen=True)
class Limits:
    """What one program may use, for all its inputs together."""
    seconds: float = 2.0            # wall clock
    cpu_seconds: int = 2            # rounded up by the kernel
    memory: int = 1 << 30           # bytes of address space, numpy's own included


@dataclass(frozen=True)
class Result:
    """outputs: one grid (list of rows of ints 0..9) for each input, None for an input that the program failed on.
    error: why, in one line; empty if every input has an output."""
    outputs: list
    error: str = ""


# ----------------------------------------------------------------------------------- before it runs

def refuse(program: str, modules: tuple[str, ...] = MODULES) -> str | None:
    """A reason not to run a program at all, None if there is none. A courtesy, not the protection: what gets through
    meets the walls of the process."""
    if len(program) > 20_000:
        return "the program is longer than 20,000 characters"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"no Python: {type(error).__name__}"
    for node in ast.walk(tree):
        names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                 [node.module or "."] if isinstance(node, ast.ImportFrom) else [])
        for name in names:
            if name.split(".")[0] not in modules:
                return f"imports {name}"
        if isinstance(node, ast.Attribute) and node.attr.startswith("__") and node.attr != "__name__":
            return f"touches {node.attr}"
        if isinstance(node, ast.Name) and node.id in ("exec", "eval", "compile", "open", "input", "breakpoint", "__import__",
                                                      "globals", "__builtins__", "__loader__"):
            return f"uses {node.id}"
    if not any(isinstance(node, ast.FunctionDef) and node.name == "transform" for node in tree.body):
        return "defines no function transform"
    return None


# -------------------------------------------------------------------------------- walls of the child

# What computing needs, by number on x86_64 and on arm64: memory, time, randomness, the pipe that is open already.
ALLOWED = {"x86_64": (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 28, 35, 39, 60, 96, 98, 100, 131, 186, 201, 202, 204,
                      219, 228, 229, 230, 231, 318, 334),
           "aarch64": (57, 62, 63, 64, 80, 93, 94, 98, 101, 113, 114, 115, 122, 123, 124, 128, 132, 134, 135, 139, 153, 165,
                       169, 172, 178, 214, 215, 216, 222, 226, 233, 278, 293)}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KILL_PROCESS, FAIL, ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000      # 1 = EPERM


def filter_program(machine: str) -> bytes:
    """Classic BPF over struct seccomp_data (number at offset 0, architecture at 4): allow what is listed, else EPERM."""
    load, equal, done = 0x20, 0x15, 0x06
    numbers = ALLOWED[machine]
    code = [(load, 0, 0, 4), (equal, 1, 0, AUDIT_ARCH[machine]), (done, 0, 0, KILL_PROCESS), (load, 0, 0, 0)]
    code += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]      # jump to the last line
    code += [(done, 0, 0, FAIL), (done, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in code)


def forbid_system_calls() -> None:
    """From here on this process can compute, write to what it has open, and exit. Irrevocable. Raises OSError."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ALLOWED:
        raise OSError(f"no filter of system calls for {sys.platform} on {machine}")
    code = filter_program(machine)
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("H6xQ", len(code) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0)):
        if libc.prctl(*(ctypes.c_ulong(a) for a in arguments)):
            raise OSError(ctypes.get_errno(), "prctl: " + os.strerror(ctypes.get_errno()))


def limit_resources(limits: Limits) -> None:
    import resource
    for what, most in ((resource.RLIMIT_CPU, limits.cpu_seconds), (resource.RLIMIT_AS, limits.memory),
                       (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(what, (most, most))


# ------------------------------------------------------------------------------------------ the child

def child(request: dict, pipe: int, modules: dict) -> None:
    """Runs one program and writes one line of JSON for each input to the pipe. Never returns."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.dup2(pipe, 3)
    os.closerange(4, 256)       # the server's own pipes among them: requests and answers of others
    limit_resources(Limits(**request["limits"]))
    try:
        forbid_system_calls()
    except OSError:
        if request["strict"]:
            os._exit(9)
    import random
    import numpy
    random.seed(0)
    numpy.random.seed(0)
    sys.setrecursionlimit(500)
    write, dumps, leave = os.write, json.dumps, os._exit       # the program may replace what the modules hold
    # float results that are whole numbers are common (np.zeros) and meant as integers
    def plain(grid):
        a = numpy.asarray(grid)
        if a.ndim != 2 or not 1 <= a.shape[0] <= MAX_SIDE or not 1 <= a.shape[1] <= MAX_SIDE:
            raise ValueError(f"the result has shape {a.shape}")
        if a.dtype.kind not in "biuf" or not ((a >= 0) & (a <= 9) & (a == numpy.floor(a))).all():
            raise ValueError("the result holds something else than whole numbers from 0 to 9")
        return [[int(x) for x in row] for row in a]
    space = {"__name__": "program", **modules}
    try:
        exec(compile(request["program"], "program", "exec"), space)
    except BaseException as error:
        write(3, (dumps({"error": f"{type(error).__name__}: {error}"[:200]}) + "\n").encode())
        leave(0)
    for grid in request["inputs"]:
        try:
            line = {"output": plain(space["transform"](numpy.array(grid, dtype=int)))}
        except BaseException as error:      # SystemExit and KeyboardInterrupt are no way out
            line = {"error": f"{type(error).__name__}: {error}"[:200]}
        write(3, (dumps(line) + "\n").encode())
    leave(0)


def read_capped(pipe: int, deadline: float) -> bytes:
    """What a child wrote until it ended, the deadline passed or it had said too much."""
    data = b""
    while len(data) <= MAX_OUTPUT:
        ready = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]
        block = os.read(pipe, 65536) if ready else b""
        if not block:
            break
        data += block
    return data[:MAX_OUTPUT]


def checked(data: bytes, n: int) -> dict:
    """A child's lines -> outputs and the first error. Everything in them is untrusted."""
    outputs, errors = [], []
    for line in data.split(b"\n")[:n]:
        try:
            said = json.loads(line)
            grid = said.get("output")
            good = (isinstance(grid, list) and 1 <= len(grid) <= MAX_SIDE and all(
                isinstance(row, list) and 1 <= len(row) <= MAX_SIDE and len(row) == len(grid[0]) and
                all(type(x) is int and 0 <= x <= 9 for x in row) for row in grid))
            outputs.append(grid if good else None)
            if not good:
                errors.append(str(said.get("error", "no grid"))[:200])
        except (ValueError, AttributeError, RecursionError):
            break
    if len(outputs) < n:
        errors.append("it was stopped: time, memory or a crash")
    return {"outputs": outputs + [None] * (n - len(outputs)), "error": errors[0] if errors else ""}


def serve(prelude: str) -> None:
    """Reads requests from standard input, a line of JSON each, and answers on standard output. Ends with its input."""
    import importlib.util
    for name in MODULES:
        importlib.import_module(name)
    import numpy
    numpy.zeros((2, 2), int) @ numpy.zeros((2, 2), int)         # loads what numpy loads late
    for name in ("random", "ma", "linalg", "fft", "polynomial"):        # np.unique, for one, imports numpy.ma when it is called
        importlib.import_module("numpy." + name)
    modules = {}
    if prelude:     # the user's own library, under its file's name, too: programs say "from common import *"
        path = Path(prelude)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            print(json.dumps({"outputs": None, "error": f"{path} cannot be imported: {type(error).__name__}: {error}"}))
            return
        modules = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    for text in sys.stdin:
        request = json.loads(text)
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                child(request, into, modules)
            finally:
                os._exit(1)
        os.close(into)
        data = read_capped(out, time.monotonic() + request["limits"]["seconds"])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
        answer = checked(data, len(request["inputs"]))
        print(json.dumps(answer), flush=True)


# ----------------------------------------------------------------------------------------- the client

class Sandbox:
    """Servers, each of which runs one program at a time. Use it as a context manager, or call close()."""

    def __init__(self, limits: Limits = Limits(), prelude: str = "", workers: int = 1, check: bool = True):
        """check: whether refuse() looks at programs first. prelude: a file of helpers that programs may use.
        workers: how many servers."""
        self.limits, self.prelude, self.check = limits, str(Path(prelude).resolve()) if prelude else "", check
        self.modules = MODULES + ((Path(prelude).stem,) if prelude else ())
        self.folder = tempfile.TemporaryDirectory(prefix="sandbox-")
        self.servers = [self._start() for _ in range(workers)]
        self.strict = True
        result = self._ask(self.servers[0], "def transform(g): return g", [[[1]]])
        if result.outputs == [None]:
            self.strict = False
            warnings.warn("no filter of system calls here (seccomp): programs run with limits on time and memory only, and "
                          "can reach files and the network. Run this on Linux, or in a container of its own.", stacklevel=2)

    def _start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-I", __file__, self.prelude], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd=self.folder.name, start_new_session=True,
            env={"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

    def _send(self, server: subprocess.Popen, program: str, inputs: list) -> None:
        request = {"program": program, "inputs": inputs, "limits": vars(self.limits), "strict": self.strict}
        server.stdin.write((json.dumps(request) + "\n").encode())
        server.stdin.flush()

    def _receive(self, server: subprocess.Popen, n: int) -> Result:
        answer = json.loads(server.stdout.readline() or '{"outputs": null, "error": "the server of the sandbox has died"}')
        if answer["outputs"] is None:
            raise RuntimeError(answer["error"])
        return Result(answer["outputs"], answer["error"])

    def _ask(self, server: subprocess.Popen, program: str, inputs: list) -> Result:
        self._send(server, program, inputs)
        return self._receive(server, len(inputs))

    def run(self, programs: list[str], inputs: list) -> Iterator[tuple[int, Result]]:
        """Runs every program on every input grid; yields (number of the program, Result) as they finish."""
        waiting, busy, idle = list(enumerate(programs))[::-1], {}, list(self.servers)
        try:
            while waiting or busy:
                while waiting and idle:
                    number, program = waiting.pop()
                    reason = refuse(program, self.modules) if self.check else None
                    if reason:
                        yield number, Result([None] * len(inputs), f"refused: {reason}")
                    else:
                        server = idle.pop()
                        self._send(server, program, inputs)
                        busy[server.stdout] = (server, number)
                if busy:
                    for stdout in select.select(list(busy), [], [])[0]:
                        server, number = busy.pop(stdout)
                        idle.append(server)
                        yield number, self._receive(server, len(inputs))
        finally:        # the caller may leave early: the next run must not read the answers of this one
            for server, _ in busy.values():
                self._receive(server, len(inputs))

    def close(self) -> None:
        for server in self.servers:
            server.stdin.close()
            server.stdout.close()
            server.kill()
            server.wait()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


if __name__ == "__main__":
    serve(sys.argv[1])
