"""How well do surrogates foretell the scores of a search?

    python -m tools.foretell runs/a runs/b

They are fitted to the first 100, 300 and 600 evaluations of a run, and each time they rank the next
200. Printed is the rank correlation (Spearman) of what they expect with the scores, for the
surrogate that works for every task, on the policy's hidden states, and for the task's own one, if
it has one. A run without screening is fairer: what passed a screen is what a surrogate thought well
of.
"""
from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path

from scipy.stats import spearmanr

import migrate
import tasks
from hub.commands import check_task
from methods.screen import Surrogate, hidden_states
from runlog.errors import UserError, exit_code, one_line
from runlog.ledger import Evaluation, read_evaluations
from runlog.settings import RunOptions, is_bundled, model_source

FITTED, ASKED = (100, 300, 600), 200


def correlation(surrogate, evaluations: list[Evaluation], n: int) -> float:
    """Of the scores of the ASKED evaluations after the first n, and what is expected of them."""
    told, asked = evaluations[:n], evaluations[n:n + ASKED]
    try:
        surrogate.fit([e.candidate for e in told], [e.worth if e.valid else None for e in told])
        expected, _ = surrogate.rank([e.candidate for e in asked])
    except Exception as error:      # a run may hold anything
        raise UserError(f"the surrogate does not understand the candidates of this run: "
                        f"{one_line(error)}") from error
    return spearmanr(expected, [e.worth for e in asked]).statistic


def surrogates_for(folder: Path) -> dict:
    """{name: a function that makes it}, for the task and the policy of a run, which may be a
    stranger's: of a task that is a file, nothing is run."""
    try:
        record = json.loads((folder / "config.json").read_text())
        check_task(str(folder), record, "")
        task = tasks.TASKS[record["config"]["task"]](**record["options"])
        config = migrate.resolve({"model": record["config"]["model"]}, task)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder} is no run of a search that can be read, such as those in runs/: "
                        f"{one_line(error)}") from error
    used = record.get("run", {})
    options = RunOptions(quantize=used.get("quantize", "auto"), dtype=used.get("dtype", "auto"))
    policy = migrate.load_policy(config, model_source(config.model, task), options)
    task.meet(is_bundled(config.model, task), policy.n_parameters)      # it decides on the style
    features = hidden_states(policy, task)
    made = {"hidden states": lambda: Surrogate(features)}
    if hasattr(task, "surrogate"):
        made["the task's own"] = task.surrogate
    return made


def main(argv: list[str]) -> None:
    folders = [Path(name) for name in argv]
    if not folders:
        raise UserError("give the folders of runs: python -m tools.foretell runs/..")
    found: dict[str, list[float]] = {}
    for folder in folders:
        surrogates = surrogates_for(folder)
        evaluations = sorted(read_evaluations(folder), key=lambda e: e.index)
        if len(evaluations) < FITTED[0] + ASKED:
            raise UserError(f"{folder} holds {len(evaluations)} evaluations; a longer search is "
                            f"needed, of {FITTED[0] + ASKED} at least")
        for name, make in surrogates.items():
            values = [correlation(make(), evaluations, n) for n in FITTED
                      if n + ASKED <= len(evaluations)]
            found.setdefault(name, []).extend(filter(math.isfinite, values))   # nan: all alike
            print(f"{folder}  {name}:", *(f"{value:.2f}" for value in values), flush=True)
    for name, values in found.items():
        if values:
            print(f"mean of {len(values)}  {name}: {statistics.mean(values):.2f}")


if __name__ == "__main__":
    sys.exit(exit_code(main, sys.argv[1:]))
