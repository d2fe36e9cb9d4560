"""What becomes of a finished search: it is pushed to the Hub, drawn from, or starts another search.

    python migrate.py push runs/NAME USER/NAME      # adapter, model card, the search under search/
    python migrate.py sample runs/NAME -n 20        # a run, or USER/NAME from the Hub
    python migrate.py --task wordsearch --init-adapter USER/NAME    # start from these weights

Whatever goes wrong while pushing, the run is only read, and a token is neither written nor printed
anywhere. A repository from the Hub is data: its task is one of tasks.py or a file that the user
names, its weights are safetensors.
"""
from __future__ import annotations

import argparse
import collections
import json
import logging
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

import tasks
from hub.adapters import ADAPTER_CONFIG, BASE_NAME, adapter_folder, download
from hub.push import push
from runlog.errors import UserError, one_line, printable
from runlog.flags import Parser
from runlog.ledger import read_evaluations

# (record, adapter folder, n, seed, task file or "", model or "") -> the candidates of n completions
# as drawn, "" where a completion held none. record: config.json of the run. model: what to use
# instead of the record's base model.
Draw = Callable[[dict, Path, int, int, str, str], list[str]]


def main(argv: list[str], draw: Draw) -> None:
    """Runs `push ..` or `sample ..`. Raises UserError for what the user can mend."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    disable_progress_bars()
    args = command_parser().parse_args(argv)
    if args.command == "push":
        url = push(args.run, args.repo, args.base, args.private)
        print(f"pushed to {url}\nload it with --init-adapter {args.repo}")
    else:
        show(sample(args.source, args.n, args.seed, args.task, args.model, draw))


def command_parser() -> Parser:
    parser = Parser(prog="migrate.py", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("push", help="push a finished run to the Hub")
    one.add_argument("run", type=Path)
    one.add_argument("repo", metavar="USER/NAME")
    one.add_argument("--base", default="", help="the base model's name on the Hub, if the search "
                                                "used a local copy")
    one.add_argument("--private", action="store_true")
    two = commands.add_parser("sample", help="draw from the policy that a search left behind")
    two.add_argument("source", metavar="RUN_OR_REPO")
    two.add_argument("-n", type=int, default=20)
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--task", default="", help="the file of a task of your own; the one "
                                                "that the run names is not executed")
    two.add_argument("--model", default="", help="the base model, if it is elsewhere now")
    return parser


def sample(source: str, n: int, seed: int, task_file: str, model: str,
           draw: Draw) -> list[tuple[str, float | None, int]]:
    """n completions drawn under the task prompt of a search, the most frequent candidates first.

    source: a run or a Hub repository. Returns (candidate, its score in the search or None, times).
    """
    if n < 1:
        raise UserError("-n must be at least 1")
    adapter = adapter_folder(source)
    is_run = adapter.name == "adapter"
    try:
        record, scores = read_search(source, adapter.parent if is_run else None)
        check_task(source, record, task_file)
        base = str(json.loads((adapter / ADAPTER_CONFIG).read_text())[BASE_NAME])
    except UserError:
        raise
    except Exception as error:      # whatever is wrong with a stranger's files
        raise UserError(f"{source} holds no search that can be read: {one_line(error)}") from error
    if not is_run and not base.startswith("tiny/"):
        model = model or base       # the model in the record may be a folder on another machine
    candidates = draw(record, adapter, n, seed, task_file, model)
    counts = collections.Counter(candidates).most_common()
    return [(candidate, scores.get(candidate), times) for candidate, times in counts]


def read_search(source: str, run: Path | None) -> tuple[dict, dict[str, float]]:
    """config.json of a search, and {candidate: score} of all that it scored.

    run: the folder of the run; None: source is a repository, which holds both under search/.
    """
    names = ("config.json", "evals.jsonl")
    if run is not None:
        config, evaluations = (run / name for name in names)
    else:
        config, evaluations = (download(source, f"search/{name}") for name in names)
    if not evaluations.exists():
        raise FileNotFoundError(f"there is no {evaluations}")
    record = json.loads(config.read_text())
    return record, {e.candidate: e.score for e in read_evaluations(evaluations.parent)}


def check_task(source: str, record: dict, task_file: str) -> None:
    """Raises if draw() could not build the task, or if it is code that the user did not name: the
    run may be a stranger's, wherever it lies."""
    name = record["config"]["task"]
    if name not in tasks.TASKS and not task_file:
        raise UserError(f"{source} searched a task of its own ({name}), which is code: name the "
                        "file, --task path/to/file.py")
    tasks.load_task_class(task_file or name)(**record["options"])


def show(samples: list[tuple[str, float | None, int]]) -> None:
    print("times  score   candidate (score: what the search saw, - if it never saw it)")
    for candidate, score, times in samples:
        text = printable(candidate or "(no candidate)").replace("\n", "\n               ")
        shown = "-     " if score is None else f"{score:.4f}"
        print(f"{times:5}  {shown}  {text}")
