"""A number expression: come as close to a number as possible, as in the game Countdown.

    python migrate.py --task examples/task_expression.py --model Qwen/Qwen3-4B-Instruct-2507

The score is the distance to the number: any number from 0 on, and the lowest is the best.
"""
import ast
import operator
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

import tasks

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
             ast.Div: operator.truediv, ast.USub: operator.neg}
EXPRESSION = re.compile(r"[\d(][\d ()+*/-]{0,80}")


def value_of(node, used):
    """The value of a syntax tree, whose numbers are counted in `used`. Raises ValueError."""
    if isinstance(node, ast.Constant):
        used[node.value] += 1
        return Fraction(node.value)         # exact: 3125 is (25 + 50/3) * 75
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](value_of(node.operand, used))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        sides = value_of(node.left, used), value_of(node.right, used)
        return OPERATORS[type(node.op)](*sides)
    raise ValueError("only + - * / and numbers")


@dataclass
class Expression(tasks.Task):
    goal: int = 952                     # the number to reach
    numbers: str = "25 50 75 100 3 6"   # each may be used once

    name = "expression"
    lower_is_better = True      # the score is a distance ..
    solved_at = 0               # .. and ends the search at 0

    def prompt(self):
        return (f"Write an expression whose value is as close to {self.goal} as possible. Use each "
                f"of the numbers {self.numbers} at most once, with + - * / and parentheses. Answer "
                "with the expression alone.")

    def parse(self, completion):
        found = EXPRESSION.findall(re.sub("=.*", "", completion))
        return [re.sub(r"\s+", "", found[-1])] if found else []

    def score(self, candidates):
        allowed = Counter(map(int, self.numbers.split()))
        for text in candidates:
            used = Counter()
            try:
                distance = abs(value_of(ast.parse(text, mode="eval").body, used) - self.goal)
            except (SyntaxError, ValueError, ZeroDivisionError):
                distance = None
            if distance is None or used - allowed:
                yield text, tasks.INVALID           # no expression, or numbers that are not allowed
            else:
                yield text, float(distance)

    def warm_start(self, seed):         # scored before the search
        return self.numbers.split()
