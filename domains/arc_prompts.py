"""Prompts for ARC. They hold the training pairs and the first test input, never a test output.

Colours are digits in prompts for real models. They are words for the bundled policy and for the
BARC models, which learned from such prompts.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from domains import prompts
from domains.grids import COLOR_NUMBERS, COLORS, DIGITS, Grid, Pair, in_words, number_of_cells
from domains.prompts import Parents, Prompt, turns
from domains.sandbox import Result

STYLES = (*prompts.STYLES, "barc")
LARGEST = 30        # rows or columns of a grid of ARC; a larger output is only described


class Failure(NamedTuple):
    """A training pair that a program gets wrong, with the program's output (None: there is none,
    because of this error)."""
    pair: Pair
    output: Grid | None
    error: str = ""


class Request(NamedTuple):
    """What a prompt asks: a program for these pairs. tried: programs with their scores, worst to
    best. failure: one of the best of them."""
    pairs: list[Pair]
    test: Grid
    tried: Parents = []
    failure: Failure | None = None


def smallest_failure(pairs: list[Pair], result: Result) -> Failure | None:
    """What a program did on the smallest training pair that it gets wrong; None if it gets all
    right. result: of the program on the inputs of the pairs, and perhaps on more."""
    errors = result.errors or [result.error] * len(pairs)       # a refused program has one reason
    failures = [Failure(pair, output, error)
                for pair, output, error in zip(pairs, result.outputs, errors) if output != pair[1]]
    return min(failures, key=lambda failure: number_of_cells(failure.pair), default=None)


def fitted(style: str, request: Request, fits: Callable[[Prompt], bool]) -> Prompt:
    """The prompt for a request, shortened until it fits the model's context: first examples are
    left out, down to one, then the largest training pairs, down to one, then the last example.

    For several programs no training pair is left out: then the prompt stays too long, and the
    search leaves out the worst program. The bundled policy reads the last one alone."""
    n_shots = len(SHOTS) if style == "few-shot" else 0
    pairs, several = list(request.pairs), len(request.tried) > 1 and style != "bundled"
    while True:
        prompt = program(style, request._replace(pairs=pairs), n_shots)
        if fits(prompt) or (n_shots < 2 and several) or (len(pairs) == 1 and n_shots == 0):
            return prompt
        if n_shots > 1 or len(pairs) == 1:
            n_shots -= 1
        else:
            pairs.remove(max(pairs, key=number_of_cells))


def program(style: str, request: Request, n_shots: int) -> Prompt:
    """A request for a program. n_shots: how many examples a few-shot prompt has."""
    if style == "bundled":
        return bundled_program(request)
    if style == "barc":
        return barc_program(request)
    if style == "instruct":
        return turns(CONTRACT, [], f"{task_text(request)}\n\n{full_request(request)}")
    shots = []
    for example, answer in SHOTS[:n_shots]:
        if not request.tried:
            example = Request(example.pairs, example.test)
        shots.append((short_request(example), write_program(style, answer)))
    return turns(SHORT_CONTRACT, shots, short_request(request))


def write_program(style: str, text: str) -> str:
    """An answer in the form that a style asks for."""
    if style in ("bundled", "few-shot"):
        return text
    opening = BARC_ANSWER if style == "barc" else ""
    return f"{opening}```python\n{text}\n```"


def bundled_program(request: Request) -> str:
    """The wording that tiny/arc was trained on."""
    wish = "Write the rule in one or two comment lines, then the function."
    if request.tried:
        programs = "\n".join(f"```python\n{text}\n```" for text, _ in request.tried)
        which = "this program, which is close"
        if len(request.tried) > 1:
            which = "these programs, the last the closest"
        wish = (f"Improve on {which}:\n{programs}\nWrite the better rule in one or two comment "
                "lines, then the function.")
    return ("A rule turns each input grid into its output grid. Find it.\n\n"
            f"{task_text(request, COLORS)}\n\n"
            "Answer with Python: a function transform(grid) from a numpy array of integers to "
            f"another ({COLOR_NUMBERS}). {wish}")


def task_text(request: Request, names=DIGITS) -> str:
    """The training pairs and the test input. names: what the ten colours are called."""
    examples = "\n\n".join(
        f"Example {i}\nInput:\n{in_words(grid, names)}\nOutput:\n{in_words(output, names)}"
        for i, (grid, output) in enumerate(request.pairs, 1))
    return f"{examples}\n\nTest input:\n{in_words(request.test, names)}"


def failure_text(request: Request, names=DIGITS) -> str:
    """What the best of the programs that were tried does wrong; "" if it does not, or if the pair
    was left out of the prompt."""
    failure = request.failure
    if failure is None or failure.pair not in request.pairs:
        return ""
    where = f"For example {request.pairs.index(failure.pair) + 1} it"
    if failure.output is None:
        return f"{where} fails: {failure.error}\n"
    rows, columns = len(failure.output), len(failure.output[0])
    output = f"\n{in_words(failure.output, names)}\n"
    if max(rows, columns) > LARGEST:
        output = f" a grid of {rows} x {columns} cells "
    return f"{where} returns{output}instead of\n{in_words(failure.pair[1], names)}\n"


def tried_text(request: Request) -> str:
    """The programs that were tried, with their scores, and a failure of the best one."""
    programs = "".join(f"This program scores {score:.2f}:\n```python\n{text}\n```\n"
                       for text, score in request.tried)
    return programs + failure_text(request)


# ----------------------------------------------------------------- large models: the whole contract

CONTRACT = """\
You solve puzzles by writing Python. In a puzzle, one rule turns each input grid into its output \
grid. A grid is printed as one line for each row, with one digit from 0 to 9 for each cell. Digits \
are colours, and 0 is usually the background.
Answer with one block of Python and nothing else:
- first one or two comment lines that say the rule,
- then a function transform(grid). It takes a numpy array of integers and returns another one, \
which may have another shape. It must work for the examples and for the test input.
numpy is imported as np. You may use scipy and the standard library. A program cannot read files."""


def full_request(request: Request) -> str:
    """What to do, in sentences."""
    if not request.tried:
        return "Find the rule and write transform(grid)."
    order = " The last one is the best." if len(request.tried) > 1 else ""
    return (f"{tried_text(request)}A score of 1.00 means that all examples are right.{order} Find "
            "out what is wrong and write a better transform(grid).")


# --------------------------------------------------------------------------- small models: examples

SHORT_CONTRACT = ("A rule turns each input grid into its output grid. Write the rule as a comment "
                  "and as a Python function transform(grid) on a numpy array.")


def short_request(request: Request) -> str:
    """The task and what to do, in a few words, as often as there are examples."""
    if not request.tried:
        return f"{task_text(request)}\n\nThe program:"
    return f"{task_text(request)}\n\n{tried_text(request)}A better program:"


# Solved puzzles, none of ARC, each with a program that fails. Tests run all of them, and hold the
# scores and the outputs to what is written here.
SHOTS = (
    (Request([([[8, 0], [8, 2]], [[8, 0, 8, 2], [8, 2, 8, 0]]),
              ([[1, 1, 0], [0, 1, 9]], [[1, 1, 0, 0, 1, 9], [0, 1, 9, 1, 1, 0]])],
             [[6, 0], [0, 6], [6, 6]],
             [("# Put the grid beside itself, the first one upside down.\ndef transform(grid):\n"
               "    return np.hstack([np.flipud(grid), grid])", 0.42)],
             Failure(([[8, 0], [8, 2]], [[8, 0, 8, 2], [8, 2, 8, 0]]),
                     [[8, 2, 8, 0], [8, 0, 8, 2]])),
     "# Put the grid beside itself, the second one upside down.\ndef transform(grid):\n"
     "    return np.hstack([grid, np.flipud(grid)])"),
    (Request([([[4, 4, 0], [4, 6, 4], [0, 6, 6], [6, 6, 4]], [[4, 6, 4], [6, 6, 4]]),
              ([[5, 0], [0, 5], [5, 5]], [[5, 5]])],
             [[7, 0, 7], [7, 7, 7], [1, 1, 7]],
             [("# Keep the lower half.\ndef transform(grid):\n"
               "    return grid[grid.shape[0] // 2:]", 0.33)],
             Failure(([[5, 0], [0, 5], [5, 5]], [[5, 5]]), [[0, 5], [5, 5]])),
     "# Keep the rows without 0.\ndef transform(grid):\n"
     "    return grid[(grid != 0).all(axis=1)]"),
    (Request([([[3, 0, 1], [0, 3, 0], [1, 1, 0]], [[1, 1, 0], [0, 2, 0], [2, 0, 1]]),
              ([[0, 0, 3], [4, 3, 3]], [[4, 2, 2], [0, 0, 2]])],
             [[3, 1], [0, 3], [3, 0]],
             [("# 3 becomes 2.\ndef transform(grid):\n"
               "    return np.where(grid == 3, 2, grid)", 0.33)],
             Failure(([[0, 0, 3], [4, 3, 3]], [[4, 2, 2], [0, 0, 2]]), [[0, 0, 2], [4, 2, 2]])),
     "# 3 becomes 2, and the grid is turned upside down.\ndef transform(grid):\n"
     "    return np.flipud(np.where(grid == 3, 2, grid))"))


# ----------------------------------------------------------------------------------- models of BARC

# The models barc0/Llama-3.1-ARC-.. were trained on prompts of exactly this layout and wording (Li
# et al. 2024, github.com/xu3kev/BARC, finetune/alignment-handbook/gen_dataset_both.py). They
# answer others badly. So these four texts are theirs, word for word.
BARC_COLORS = "Black Blue Red Green Yellow Gray Pink Orange Purple Brown".split()
BARC_SYSTEM = (
    "You are a world-class puzzle solver with exceptional pattern recognition skills and expertise "
    "in Python programming. Your task is to analyze puzzles and provide Python solutions.")
BARC_TASK = (
    "Given input-output grid pairs as reference examples, carefully observe the patterns to "
    "predict the output grid for new test input. Each pair follows the same transformation rule. "
    "Grids are 2D arrays represented as strings, with cells (colors) separated by spaces and rows "
    "by newlines.\nHere are the input and output grids for the reference examples:\n"
    "{examples}Here is the input grid for the test example:\nInput:\n{test}\n\n"
    "Write a Python function `transform` that can convert any given input grid to its "
    "corresponding output grid based on the pattern observed in the reference examples.")
BARC_ANSWER = (
    "Let's solve this puzzle using Python code with the common library functions. We'll first "
    "reason about the problem and then write the code to solve it. The `transform` function will "
    "take the input grid and return the output grid. Here is the Python code with the comments "
    "describing how to solve the problem:\n")


def barc_program(request: Request) -> Prompt:
    """The prompt of BARC. Programs that were tried are the model's own earlier answers, and each is
    followed by its score."""
    examples = "".join(
        f"Example {i}\nInput:\n{in_words(grid, BARC_COLORS)}\n\n"
        f"Output:\n{in_words(output, BARC_COLORS)}\n\n\n"
        for i, (grid, output) in enumerate(request.pairs, 1))
    question = BARC_TASK.format(examples=examples, test=in_words(request.test, BARC_COLORS))
    shots = []
    for text, score in request.tried:
        shots.append((question, write_program("barc", text)))
        failure = failure_text(request, BARC_COLORS) if len(shots) == len(request.tried) else ""
        question = (f"This program scores {score:.2f}; 1.00 means that all reference examples are "
                    f"right.\n{failure}Write a better Python function `transform`.")
    return turns(BARC_SYSTEM, shots, question)
