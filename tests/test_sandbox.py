"""The sandbox: hostile programs have no effect, sane ones get what they return."""
import importlib.util
import os
import random
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy
import pytest
import torch

from domains import arc_prompts
from domains import sandbox as sandbox_module
from domains.sandbox import ALLOWED, Limits, Result, Sandbox
from domains.workers import open_sandbox
from runlog.errors import UserError
from tests.support import HERE, wait_until

GRID = [[1, 2], [3, 4]]
SANE = "import numpy as np\ndef transform(grid): return np.rot90(grid)"
TURNED = [[2, 4], [1, 3]]

# What a model may write by malice or by accident. In these texts {dir} stands for a folder that the
# test watches, {pid} for the process of the test, {port} for a port where it listens.
HOSTILE = {
    "endless loop":
        "def transform(g):\n"
        " while True: pass",
    "loop that swallows everything":
        "def transform(g):\n"
        " while True:\n"
        "  try:\n"
        "   while True: pass\n"
        "  except BaseException: pass",
    "signals ignored":
        "import signal\n"
        "def transform(g):\n"
        " for s in range(1, 65):\n"
        "  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except BaseException: pass\n"
        " while True: pass",
    "a C call that takes forever":
        "def transform(g): return [[len(str(7 ** (10 ** 8)))]]",
    "a regex that takes forever":
        "import re\n"
        "def transform(g): return re.match('(a+)+$', 'a' * 64 + 'b') or g",
    "fork bomb":
        "import os\n"
        "def transform(g):\n"
        " while True:\n"
        "  try: os.fork()\n"
        "  except OSError: pass",
    "fork and survive":
        "import os, time\n"
        "if os.fork() == 0:\n"
        " os.setsid()\n"
        " time.sleep(600)\n"
        "def transform(g): return g",
    "threads":
        "import threading, time\n"
        "def transform(g):\n"
        " for _ in range(99): threading.Thread(target=time.sleep, args=(600,)).start()\n"
        " return g",
    "subprocess":
        "import subprocess\n"
        "def transform(g):\n"
        " subprocess.Popen(['sleep', '600']); return g",
    "os.system":
        "import os\n"
        "def transform(g):\n"
        " os.system('touch {dir}/made'); return g",
    "exec":
        "import os\n"
        "def transform(g): os.execv('/bin/sleep', ['sleep', '600'])",
    "memory bomb":
        "def transform(g):\n"
        " x = []\n"
        " while True: x.append(bytearray(10 ** 8))",
    "numpy memory bomb":
        "import numpy as np\n"
        "def transform(g): return np.ones((10 ** 6, 10 ** 6))",
    "deep recursion":
        "def f(x): return f([x])\n"
        "def transform(g): return f(g)",
    "C stack":
        "import sys\n"
        "sys.setrecursionlimit(10 ** 9)\n"
        "def f(x): return f(x)\n"
        "def transform(g): return f(g)",
    "a crash":
        "import ctypes\n"
        "def transform(g): ctypes.string_at(0)",
    "huge output":
        "def transform(g): return [[1] * 10 ** 6] * 10 ** 6",
    "huge output past the checks":
        "import os\n"
        "def transform(g):\n"
        " while True: os.write(3, b'[' * 10 ** 6)",
    "write a file":
        "def transform(g):\n"
        " open('{dir}/made', 'w').write('x'); return g",
    "write a file by number":
        "import ctypes\n"
        "def transform(g):\n"
        " c = ctypes.CDLL(None)\n"
        " f = c.syscall(2, b'{dir}/made', 65, 511)\n"
        " c.write(f, b'x', 1)\n"
        " return g",
    "write by openat":
        "import ctypes\n"
        "def transform(g):\n"
        " c = ctypes.CDLL(None)\n"
        " f = c.syscall(257, -100, b'{dir}/made', 65, 511)\n"
        " c.write(f, b'x', 1)\n"
        " return g",
    "truncate by a descriptor left open":
        "import os\n"
        "def transform(g):\n"
        " for f in range(64):\n"
        "  try: os.ftruncate(f, 0)\n"
        "  except OSError: pass\n"
        " return g",
    "delete a file":
        "import os\n"
        "def transform(g):\n"
        " os.unlink('{dir}/victim'); return g",
    "rename":
        "import os\n"
        "def transform(g):\n"
        " os.rename('{dir}/victim', '{dir}/made'); return g",
    "read a file":
        "def transform(g): return [[int(open('{dir}/victim').read())]]",
    "read the environment":
        "import os\n"
        "def transform(g): return [[int(os.environ['SECRET'])]]",
    "read the parent's environment":
        "def transform(g):\n"
        " environment = open('/proc/{pid}/environ').read()\n"
        " return [[int(environment.split('SECRET=')[1][0])]]",
    "read the server's requests":
        "import os\n"
        "def transform(g):\n"
        " for f in range(64):\n"
        "  try:\n"
        "   if os.read(f, 9): return [[7]]\n"
        "  except OSError: pass",
    "a socket":
        "import _socket\n"
        "def transform(g):\n"
        " s = _socket.socket(); s.connect(('127.0.0.1', {port})); return [[7]]",
    "a socket by number":
        "import ctypes\n"
        "def transform(g): return [[7 if ctypes.CDLL(None).socket(2, 1, 0) >= 0 else 0]]",
    "kill the parent":
        "import os\n"
        "def transform(g):\n"
        " os.kill(os.getppid(), 9); return g",
    "kill everything":
        "import os, ctypes\n"
        "def transform(g):\n"
        " ctypes.CDLL(None).kill(-1, 9); os.killpg(0, 9); return g",
    "kill the test":
        "import ctypes\n"
        "def transform(g):\n"
        " ctypes.CDLL(None).syscall(62, {pid}, 9); return g",
    "ptrace":
        "import ctypes, os\n"
        "def transform(g):\n"
        " done = ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)\n"
        " return [[7 if done == 0 else 0]]",
    "at exit":
        "import atexit, os\n"
        "atexit.register(os.system, 'touch {dir}/made')\n"
        "def transform(g): return g",
    "monkeypatched numpy":
        "import numpy as np\n"
        "np.rot90 = lambda g: [[7]]\n"
        "np.asarray = lambda g: [[7]]\n"
        "def transform(g): return g",
    "monkeypatched builtins":
        "import builtins, json, os\n"
        "builtins.len = lambda x: 7\n"
        "json.dumps = lambda x: '7'\n"
        "os.write = None\n"
        "def transform(g): return g",
    "subclasses walk":
        "def transform(g):\n"
        " for c in ().__class__.__base__.__subclasses__():\n"
        "  if c.__name__ == '_wrap_close': c.__init__.__globals__['system']('touch {dir}/made')\n"
        " return g",
    "hostile __eq__ and __array__":
        "class A:\n"
        " def __eq__(self, o): return True\n"
        " def __array__(self, *a, **k):\n"
        "  while True: pass\n"
        "def transform(g): return A()",
    "an int that is none":
        "class I(int):\n"
        " def __eq__(self, o): return True\n"
        " def __repr__(self): return '7]], \"x\": [['\n"
        "def transform(g): return [[I(99)]]",
    "forged answers":
        "import os\n"
        "os.write(3, b'{{\"output\": [[true]]}}\\n{{\"output\": [[1e308]]}}\\n' + b'[' * 99999)\n"
        "os._exit(0)",
    "exits":
        "import sys\n"
        "def transform(g): sys.exit(0)",
    "interrupts":
        "def transform(g): raise KeyboardInterrupt",
    "raises something strange":
        "class E(BaseException):\n"
        " def __str__(self):\n"
        "  while True: pass\n"
        "def transform(g): raise E",
}

WRONG_RESULTS = {
    "a string": "'x'", "None": "None", "a number": "7", "three dimensions": "[[[1]]]",
    "ragged": "[[1], [1, 2]]", "empty": "[]", "NaN": "[[float('nan')]]",
    "infinite": "[[float('inf')]]", "negative": "[[-1]]", "ten": "[[10]]", "half": "[[0.5]]",
    "complex": "[[1j]]", "text": "[['1']]", "object": "[[object()]]",
    "generator": "(row for row in g)", "a type": "list", "too large": "[[1] * 65]",
    "a date": "np.array([['2020']], dtype='M8')"}


@pytest.fixture(scope="module")
def sandbox():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = Sandbox(Limits(seconds=1.0), workers=2, check=False)
    with opened:
        if not opened.strict:
            pytest.skip(f"no seccomp on this system: {caught}")
        yield opened


def processes(sandbox) -> set[str]:
    """The processes in the sessions of the sandbox's servers, and those that have left these
    sessions but not the servers' folder."""
    sessions = {server.pid for server in sandbox.servers}
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = int(stat.read_text().rsplit(")", 1)[1].split()[3])
            inside = os.readlink(stat.parent / "cwd").startswith(sandbox.folder.name)
        except OSError:
            continue
        if session in sessions or inside:
            found.add(stat.parent.name)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_have_no_effect(name, sandbox, tmp_path, monkeypatch):
    """Asserted on what happens outside: files, processes, secrets, the next program. Never on how
    the program ends."""
    monkeypatch.setenv("SECRET", "7")
    (tmp_path / "victim").write_text("7")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        program = HOSTILE[name]
        values = dict(dir=tmp_path, pid=os.getpid(), port=listening.getsockname()[1])
        for slot, value in values.items():
            program = program.replace(f"{{{slot}}}", str(value))
        program = program.replace("{{", "{").replace("}}", "}")
        before = processes(sandbox)
        started = time.monotonic()
        [(_, result)] = sandbox.run([program], [GRID])
        assert time.monotonic() - started < 5
        assert result.outputs in ([None], [GRID], [[[0]]]), result
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert wait_until(lambda: processes(sandbox) <= before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["victim"]
    assert (tmp_path / "victim").read_text() == "7"
    assert list(Path(sandbox.folder.name).iterdir()) == []
    expected = dict.fromkeys(range(4), Result([TURNED]))
    assert dict(sandbox.run([SANE] * 4, [GRID])) == expected


@pytest.mark.parametrize("name", WRONG_RESULTS)
def test_what_is_no_grid_is_no_output(name, sandbox):
    """Catches: a result that the score cannot be computed from, or that only looks like a grid."""
    program = f"import numpy as np\ndef transform(g): return {WRONG_RESULTS[name]}"
    [(_, result)] = sandbox.run([program], [GRID])
    assert result.outputs == [None] and result.error


def test_the_sandbox_gives_what_programs_return(sandbox):
    """A failure on one input leaves the others. Bool and whole floats count. The input may be
    modified in place. Random numbers are the same in every run."""
    program = "def transform(g):\n g[0, 0] = 9\n return g if g.shape == (2, 2) else 1 / 0"
    [(_, result)] = sandbox.run([program], [GRID, [[1]], GRID])
    assert result.outputs == [[[9, 2], [3, 4]], None, [[9, 2], [3, 4]]]
    assert "ZeroDivisionError" in result.error
    draws = ("import random, numpy as np\n"
             "def transform(g): return [[random.randrange(10), np.random.randint(10)]]")
    answers = {str(result.outputs) for _, result in sandbox.run([draws] * 6, [GRID])}
    assert len(answers) == 1
    for cast in ("g > 2", "g * 1.0", "g.astype('uint8')", "g.tolist()", "[tuple(r) for r in g]"):
        [(_, result)] = sandbox.run([f"def transform(g): return {cast}"], [GRID])
        assert result.error == ""


def test_leaving_a_run_early_does_not_mix_up_answers(sandbox):
    """Catches: the next run reads the answers to the programs of this one."""
    for _ in sandbox.run([SANE] * 5, [GRID]):
        break
    [(_, result)] = sandbox.run(["def transform(g): return [[5]]"], [GRID])
    assert result.outputs == [[[5]]]
    # whoever keeps the exception of a Ctrl-C keeps the generator, too
    left = sandbox.run(["def transform(g): return [[7]]"] * 3, [GRID])
    next(left)
    again = sandbox.run([f"def transform(g): return [[{n}]]" for n in (5, 6)], [GRID])
    assert [result.outputs for _, result in sorted(again)] == [[[[5]]], [[[6]]]]


def test_the_main_process_keeps_its_random_state(sandbox):
    """Catches: an evaluation that seeds the generators of the search (the authors' code does)."""
    random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), torch.get_rng_state()
    list(sandbox.run([SANE, HOSTILE["monkeypatched numpy"]], [GRID]))
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])


@pytest.mark.parametrize("program, reason", [
    ("import os\ndef transform(g): return g", "imports os"),
    ("from subprocess import run\ndef transform(g): return g", "subprocess"),
    ("def transform(g): return eval('g')", "eval"),
    ("def transform(g): return g.__class__", "__class__"),
    ("def transform(g) return g", "SyntaxError"),
    ("def f(g): return g", "no function transform"),
    ("x" * 30_000, "longer"),
    ("(" * 5000, "no Python"),
    ("def transform(g): return g\0", "no Python"),
    (SANE, None),
    ("# rotate it\nfrom collections import Counter\ndef transform(grid):\n    return grid.copy()",
     None)])
def test_the_obvious_is_refused_before_it_runs(program, reason):
    """Catches: a program that cannot work and gets no clear message, or a sane one that is
    refused."""
    refused = sandbox_module.refuse(program)
    if reason is None:
        assert refused is None
    else:
        assert reason in refused


def copy_of_the_sandbox(folder: Path, old: str, new: str):
    """The module of the sandbox with some of its text replaced, from a file of its own: the server
    process runs this file, too."""
    source = Path(sandbox_module.__file__).read_text()
    assert old in source
    path = folder / "sandbox_elsewhere.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("sandbox_elsewhere", path)
    module = sys.modules["sandbox_elsewhere"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_seccomp_a_warning_says_so_and_limits_remain(tmp_path):
    """The same file on a system that has no such filter: a copy that takes itself to be on another
    platform."""
    elsewhere_module = copy_of_the_sandbox(tmp_path, 'sys.platform != "linux"',
                                           'sys.platform != "plan9"')
    with pytest.warns(UserWarning, match="seccomp"):
        elsewhere = elsewhere_module.Sandbox(elsewhere_module.Limits(seconds=1.0), workers=1)
    with elsewhere:
        assert next(elsewhere.run([SANE], [GRID]))[1].outputs == [TURNED]
        assert next(elsewhere.run([HOSTILE["endless loop"]], [GRID]))[1].outputs == [None]


def test_a_prelude_is_there_for_programs_under_its_name(tmp_path):
    """Catches: helpers that programs cannot import, and a broken file of helpers that goes
    unnoticed."""
    (tmp_path / "common.py").write_text("import numpy as np\n"
                                        "def turn(g): return np.rot90(g)\n"
                                        "class Color: BLACK = 0\n")
    with Sandbox(prelude=str(tmp_path / "common.py"), workers=1) as sandbox:
        for start in ("from common import *\n", "import common\nturn = common.turn\n", ""):
            program = start + "def transform(g): return turn(g)"
            assert next(sandbox.run([program], [GRID]))[1].outputs == [TURNED]
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind")
    reason = "broken.py cannot be imported: ModuleNotFoundError"
    with pytest.raises(RuntimeError, match=reason):
        Sandbox(prelude=str(tmp_path / "broken.py"), workers=1)
    with pytest.raises(UserError, match="broken.py cannot be imported"):
        open_sandbox(2.0, str(tmp_path / "broken.py"))


@pytest.mark.parametrize("imports, call", [
    ("from scipy.ndimage import label", "label(g > 0)[0]"),
    ("from scipy import ndimage", "ndimage.binary_fill_holes(g)"),
    ("import scipy.ndimage as nd", "nd.rotate(g, 90, order=0)"),
    ("import scipy", "scipy.ndimage.convolve(g > 1, np.ones((3, 3)), mode='constant')"),
    ("from scipy.spatial.distance import cdist", "cdist(g, g) > 1"),
    ("from scipy.spatial import KDTree", "[KDTree(g).query(g)[1]]"),
    ("from scipy.signal import convolve2d", "convolve2d(g > 1, np.ones((2, 2)))"),
    ("from scipy import stats", "[[stats.mode(g, axis=None).mode]]"),
    ("from scipy.optimize import linear_sum_assignment as best", "[best(g)[0]]"),
    ("from scipy.sparse.csgraph import connected_components", "[connected_components(g)[1]]"),
    ("import scipy.linalg", "scipy.linalg.block_diag(g, g)")])
def test_programs_may_use_scipy(imports, call, sandbox):
    """Catches: an import that is refused, and parts of scipy that are loaded too late, when no file
    can be opened any more."""
    program = f"import numpy as np\n{imports}\ndef transform(g): return {call}"
    assert sandbox_module.refuse(program) is None
    space = {}
    exec(program, space)
    expected = numpy.array(space["transform"](numpy.array(GRID))).astype(int).tolist()
    assert dict(sandbox.run([program], [GRID])) == {0: Result([expected])}


def test_without_scipy_programs_run_and_its_import_is_refused_clearly(tmp_path):
    """Catches: a sandbox that needs scipy. Here is a copy of the file that looks for a package of
    another name, which nobody has."""
    elsewhere = copy_of_the_sandbox(tmp_path, '"scipy', '"no_such_scipy')
    program = "from no_such_scipy.ndimage import label\ndef transform(g): return g"
    reason = "refused: imports no_such_scipy.ndimage, and scipy is not installed"
    with elsewhere.Sandbox(workers=1) as sandbox:
        assert next(sandbox.run([program], [GRID]))[1].error == reason
        sandbox.check = False
        [(_, result)] = sandbox.run([program], [GRID])
        assert result.outputs == [None] and "No module named" in result.error
        assert next(sandbox.run([SANE], [GRID]))[1].outputs == [TURNED]


FLOOD_FILL = """
def fill(grid, i, j):
    if {outside} or grid[i, j] != 1:
        return
    grid[i, j] = 2
    for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
        fill(grid, a, b)

def transform(grid):
    fill(grid, 0, 0)
    return grid
"""


@pytest.mark.parametrize("outside", [
    "not (0 <= i < grid.shape[0] and 0 <= j < grid.shape[1])",
    "np.any(np.array([i, j]) < 0) or (np.array([i, j]) >= grid.shape).any()"])
@pytest.mark.parametrize("side", [30, 64])
def test_a_recursive_flood_fill_reaches_every_cell(side, outside, sandbox):
    """Catches: a limit on recursion below the number of cells. The fill goes up one column and down
    the next, so it is as deep as there are cells."""
    program = "import numpy as np\n" + FLOOD_FILL.format(outside=outside)
    [(_, result)] = sandbox.run([program], [[[1] * side] * side])
    assert result == Result([[[2] * side] * side])


@pytest.mark.parametrize("body", [
    "return f(x + 1)",
    "return f(x.copy())",
    "return sorted([x, x], key=f)",
    "return np.frompyfunc(f, 1, 1)([1])",
    "return np.vectorize(f)(np.ones(2))",
    "return ndimage.generic_filter(np.ones((2, 2)), f, size=1)",
    "return [f(y) for y in (1, 2)]"])
def test_endless_recursion_is_an_error_and_no_crash(body, sandbox):
    """Catches: a stack that is too small for the limit on recursion. Each level may use a part of
    it in C, too. The failure on the first input leaves the second. (scipy hides the RecursionError
    behind an error of its own.)"""
    program = (f"import numpy as np\nfrom scipy import ndimage\ndef f(x): {body}\n"
               "def transform(g): return f(g) if g[0, 0] else g")
    [(_, result)] = sandbox.run([program], [GRID, [[0]]])
    assert result.outputs == [None, [[0]]]
    assert "RecursionError" in result.error or "SystemError" in result.error


def test_a_real_overflow_of_the_stack_ends_its_program_only(sandbox):
    """Catches: a crash of the server. A program that lifts the limit on recursion crashes."""
    program = ("import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return sorted([x], key=f)\n"
               "def transform(g): return f(1)")
    [(_, result)] = sandbox.run([program], [GRID])
    assert result.outputs == [None] and "stopped" in result.error
    assert dict(sandbox.run([SANE], [GRID])) == {0: Result([TURNED])}


@pytest.mark.parametrize("program", [
    "def transform(input): return input[::-1]",
    "def transform(g):\n input = g.copy()\n return input[::-1]",
    "input = -1\ndef transform(g): return g[::input]"])
def test_a_variable_may_be_called_input(program, sandbox):
    """Catches: the usual name of the usual parameter is refused."""
    assert sandbox_module.refuse(program) is None
    assert dict(sandbox.run([program], [GRID])) == {0: Result([[[3, 4], [1, 2]]])}


def test_asking_for_input_gets_none(sandbox):
    """Catches: a program that waits for input, or reads what the server is sent."""
    program = "def transform(g): return [[int(input()[0])]]"
    assert sandbox_module.refuse(program) is None
    for number, result in sandbox.run([program, SANE] * 3, [GRID]):
        if number % 2:
            assert result == Result([TURNED])
        else:
            assert result.outputs == [None] and "EOFError" in result.error


def test_programs_find_numpy_without_an_import(sandbox):
    """Catches: NameError, where a model leaves out the imports that it always sees."""
    program = ("def turn(g: List[List[int]]) -> Tuple[np.ndarray, int]: return np.rot90(g), 1\n"
               "def transform(g: numpy.ndarray) -> np.ndarray: return turn(g)[0]")
    assert dict(sandbox.run([program], [GRID])) == {0: Result([TURNED])}


# Works for as many seconds as the first cell says, in tenths.
WORK = ("import time\n"
        "def transform(g):\n"
        " end = time.monotonic() + g[0, 0] / 10\n"
        " while time.monotonic() < end: pass\n"
        " return g")


def test_the_time_limit_is_for_each_input(sandbox):
    """Catches: a program that is stopped though it takes less than the limit (1 second here) on
    each input."""
    grids = [[[6]], [[7]], [[6]], [[7]]]
    assert dict(sandbox.run([WORK], grids)) == {0: Result(grids)}


@pytest.mark.parametrize("stuck", [0, 2])
def test_an_endless_loop_costs_the_limit_of_one_input(stuck, sandbox):
    """Catches: the loop gets the time of all inputs, and answers before it are lost."""
    program = f"def transform(g):\n while g[0, 0] == {stuck}: pass\n return g"
    started = time.monotonic()
    [(_, result)] = sandbox.run([program], [[[0]], [[1]], [[2]], [[3]]])
    assert 0.9 < time.monotonic() - started < 2
    assert result.outputs == [[[number]] if number < stuck else None for number in range(4)]
    assert "stopped" in result.error


def test_the_time_limit_grows_up_to_ten_inputs():
    """Catches: a task with very many inputs, on which a slow program takes for ever."""
    with Sandbox(Limits(seconds=0.25), workers=1, check=False) as sandbox:
        started = time.monotonic()
        [(_, result)] = sandbox.run([WORK], [[[1]]] * 60)
        assert time.monotonic() - started < 4
    assert result.outputs[0] == [[1]] and result.outputs[-1] is None


def test_a_program_cannot_lengthen_its_time(sandbox):
    """Catches: lines that are no answers and start the time limit anew, for ever."""
    program = ("import os, time\n"
               "def transform(g):\n"
               " while True:\n"
               "  os.write(3, b'\\n')\n"
               "  time.sleep(0.5)")
    started = time.monotonic()
    [(_, result)] = sandbox.run([program], [GRID] * 3)
    assert time.monotonic() - started < 3
    assert result.outputs == [None] * 3


# What programs for the library of BARC look like, and a library of that kind.
COMMON = """
import numpy as np
import random

class Color:
    BLACK, BLUE, RED, GREEN = 0, 1, 2, 3

def objects_of(grid, background=Color.BLACK, connectivity=4):
    from scipy.ndimage import label
    structure = np.ones((3, 3)) if connectivity == 8 else None
    labels, n = label(grid != background, structure=structure)
    return [np.where(labels == i + 1, grid, background) for i in range(n)]

def flood_fill(grid, x, y, color):
    old = grid[x, y]
    if old == color:
        return
    grid[x, y] = color
    for a, b in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
        if 0 <= a < grid.shape[0] and 0 <= b < grid.shape[1] and grid[a, b] == old:
            flood_fill(grid, a, b, color)
"""
LIKE_BARC = """
from common import *

from typing import *
from scipy.ndimage import binary_dilation

# concepts:
# objects, flood fill, counting

# description:
# Paint the largest object green, and the background around all of them blue.

def largest(objects: List[np.ndarray]) -> np.ndarray:
    return max(objects, key=lambda obj: np.sum(obj != Color.BLACK))

def transform(input: np.ndarray) -> np.ndarray:
    output = np.copy(input)
    output[largest(objects_of(input, connectivity=8)) != Color.BLACK] = Color.GREEN
    flood_fill(output, 0, 0, Color.BLUE)
    assert binary_dilation(input).sum() > np.count_nonzero(input)
    return output
"""


def test_programs_for_a_library_like_that_of_barc_run(tmp_path):
    """Catches: what stopped such programs. scipy in the program, scipy that the library imports
    when it is called, deep recursion, a variable called input, numpy without an import."""
    (tmp_path / "common.py").write_text(COMMON)
    grid = numpy.zeros((30, 30), int)
    grid[5:8, 5:8] = 2
    grid[20, 20] = 2
    expected = numpy.where(grid, grid, 1)
    expected[5:8, 5:8] = 3
    first_object = numpy.where(expected == 3, 2, 0)
    short = "from common import *\ndef transform(input): return objects_of(input)[0]"
    with Sandbox(prelude=str(tmp_path / "common.py"), workers=1) as sandbox:
        answers = dict(sandbox.run([short, LIKE_BARC], [grid.tolist()] * 4))
    assert answers[0] == Result([first_object.tolist()] * 4)
    assert answers[1] == Result([expected.tolist()] * 4)


def test_searches_of_one_process_share_a_sandbox():
    """Catches: new servers for every task. They end with the process only, so a sweep would collect
    hundreds of them."""
    first = open_sandbox(1.5, "", 1)
    assert open_sandbox(1.5, "", 1) is first and len(first.servers) == 1
    assert first.limits == Limits(seconds=1.5)
    assert next(first.run([SANE], [GRID]))[1].outputs == [TURNED]


# ------------------------------------------------------------------------- what was found by attack

PEEKS = """import dataclasses
def transform(grid):
    system = dataclasses.sys
    gc, frame, found = system.modules.get("gc"), system._getframe(), []
    seen = list(gc.get_objects()) if gc else []
    while frame is not None:
        seen += list(frame.f_locals.values()) + list(frame.f_globals.values())
        frame = frame.f_back
    for module in list(system.modules.values()):
        try:
            seen += list(vars(module).values())
        except TypeError:
            pass
    for thing in seen:
        text = thing if isinstance(thing, str) else ""
        if isinstance(thing, (bytes, bytearray)):
            text = bytes(thing).decode("latin1")
        is_answer = type(thing) is list and thing == [[7, 1, 8, 2, 8, 1]]
        if is_answer or "7, 1, 8, 2, 8, 1" in text and "peek" not in text:
            found.append(type(thing).__name__)
    return grid if not found else [[9]]       # peek
"""


def test_a_program_cannot_read_the_answer_of_the_one_before(sandbox):
    """Catches: an answer that is still in a variable of the server when it forks."""
    secret = "def transform(grid):\n    return [[7, 1, 8, 2, 8, 1]]"
    for _ in range(2):
        assert dict(sandbox.run([secret], [[[1]]])) == {0: Result([[[7, 1, 8, 2, 8, 1]]])}
        assert dict(sandbox.run([PEEKS], [[[1]]])) == {0: Result([[[1]]])}


def processes_of(session: int) -> list[int]:
    """The processes of a session, but for those that have ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if entry.name.isdigit() and int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("close", [False, True])
def test_a_sleeping_program_does_not_outlive_its_server(close):
    """However the server ends: killed from outside, or by close()."""
    sandbox = Sandbox(Limits(seconds=30))
    [server] = sandbox.servers
    sandbox._send(server, "def transform(grid):\n    while True: pass", [[[1]]])
    while len(processes_of(server.pid)) < 2:
        time.sleep(0.01)
    if close:
        sandbox.close()
    else:
        server.kill()
        server.wait()
        for _ in range(200):
            if not processes_of(server.pid):
                break
            time.sleep(0.01)
    assert processes_of(server.pid) == []
    sandbox.close()


CHANCE = """import random
import numpy as np
def transform(grid):
    numbers = [hash("oak") % 10, random.Random().randrange(10), random.randrange(10),
               random.SystemRandom().randrange(10),
               np.random.default_rng().integers(10), np.random.RandomState().randint(10),
               np.random.randint(10), random.choice(list({"a", "b", "c", "d"})) == "a"]
    random.seed()
    np.random.seed()
    numbers += [random.randrange(10), np.random.randint(10)]
    return [[int(n) for n in numbers]]
"""


def test_chance_gives_the_same_in_every_process_and_order(sandbox):
    """Catches: a search for programs that no seed can repeat."""
    other = "import random\ndef transform(grid):\n    return [[random.randrange(10)]]"
    first = dict(sandbox.run([CHANCE], [[[1]]]))[0]
    assert first.outputs != [None]
    with Sandbox() as fresh:
        results = dict(fresh.run([other, CHANCE], [[[1]]]))
    assert results[1] == first


def test_what_ran_before_and_where_it_lies_in_memory_makes_no_difference(sandbox):
    """Catches: a part of scipy that is there once another program has asked for more; an address or
    half a character in an error, which goes into the ledger and into prompts."""
    programs = ["from scipy.integrate import quad\n"
                "def transform(g): return [[int(quad(abs, 0, 2)[0])]]",
                "names = {}\ndef transform(g): return names[transform]",
                "def transform(g): raise ValueError(chr(0xD800))"]
    with Sandbox() as fresh:
        results = dict(fresh.run(programs, [[[1]]]))
    stats = "from scipy import stats\ndef transform(g): return g"
    assert results == {i - 1: result for i, result in sandbox.run([stats, *programs], [[[1]]]) if i}
    assert results[0].outputs == [[[2]]] and results[2].error == "ValueError: ?"
    assert results[1].error == "KeyError: <function transform at 0x..>"


@pytest.mark.parametrize("body", [
    "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 1\n"
    "def transform(grid): return grid * P().x",
    "from __future__ import annotations\ndef transform(grid: Unknown) -> Unknown: return grid",
    "from numpy import *\ndef transform(grid): return array(grid)",
    "import numpy as np\ndef transform(grid):\n    assert np.char.upper('a') == 'A'\n"
    "    return grid",
    "import numpy.typing as npt\ndef transform(grid: npt.NDArray): return grid",
    "def transform(grid):\n    assert '\\N{BULLET}' == '\u2022'\n    return grid",
    "import numpy as np\ndef transform(grid): return np.array(grid, dtype=object)",
    "def transform(input): return input",
    "def deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
    "def transform(grid):\n    assert deep(5000) == 5000\n    return grid"])
def test_honest_programs_of_every_kind_run(body, sandbox):
    result = dict(sandbox.run([body], [GRID]))[0]
    assert result.outputs == [GRID], result.error


def test_each_input_has_its_own_error(sandbox):
    """Catches: a prompt that shows the error of another example."""
    program = ("def transform(grid):\n    if grid[0][0] == 1: return 1 / 0\n"
               "    if grid[0][0] == 2: return [][0]\n    return grid")
    result = dict(sandbox.run([program], [[[1]], [[3]], [[2]]]))[0]
    assert [error.split(":")[0] for error in result.errors] == ["ZeroDivisionError", "",
                                                                "IndexError"]
    assert result.error == result.errors[0]
    pairs = [([[1, 1]], [[1]]), ([[3]], [[3]]), ([[2]], [[4]])]
    assert arc_prompts.smallest_failure(pairs, result).error.startswith("IndexError")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_capabilities_are_dropped():
    program = ("from domains.sandbox import drop_capabilities; drop_capabilities()\n"
               "print([line for line in open('/proc/self/status') if line.startswith('CapEff')])")
    done = subprocess.run([sys.executable, "-c", program], cwd=HERE, capture_output=True, text=True)
    assert "0000000000000000" in done.stdout, done.stderr


def test_the_filter_allows_the_same_calls_on_both_machines():
    """By the numbers of Linux's two tables. Catches: 122 on arm64, which sets the affinity."""
    assert 122 not in ALLOWED["aarch64"] and 123 in ALLOWED["aarch64"]
    assert 203 not in ALLOWED["x86_64"] and 204 in ALLOWED["x86_64"]
