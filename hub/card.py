"""The model card of a finished search: README.md of its repository on the Hub.

Candidates are text that a model wrote, and may hold anything. On a card they stand in blocks that
they cannot end, and what cannot be printed becomes a dot.
"""
from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
)

from reports.labels import IN_PYTHON, command_of, made_in_python
from runlog.errors import printable
from runlog.flags import without
from runlog.ledger import Evaluation, best_first

HERE = Path(__file__).resolve().parent.parent

CARD = """---
{metadata}
---

# {name}

LoRA weights of {base}, adapted by [MiGrATe](https://arxiv.org/abs/2508.08641) **while it searched
one problem** ({problem}). There was no training data: all that these weights learned from is what
the policy proposed and how the black box scored it. They are the memory of that search, and no
better at anything else.

![Score of every evaluation](search.svg)

{results}

Best candidates:

{best}

## Load it, draw from it, go on from it

{load}

{go_on}

## How it was made

{command}

{settings}

Versions: {versions}. Under `search/`: `config.json`, `summary.json`, every evaluation
(`evals.jsonl`) and every step (`steps.jsonl`). What a search found is as good as its scorer: check
it before use.{licence}
"""
LOAD = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
base = AutoModelForCausalLM.from_pretrained("{base}"{dtype})
policy = PeftModel.from_pretrained(base, "{repo}")"""


# ------------------------------------------------------------------------------- the base model

@dataclass(frozen=True)
class Base:
    """The base model of an adapter, as the card names it. The name is no path of this machine."""
    name: str               # name on the Hub; tiny/NAME, a path in every checkout; or a bare name
    on_hub: bool = False
    bundled: bool = False   # a policy under tiny/
    licence: dict = field(default_factory=dict)     # license, license_name, license_link, if known


def versions_in(record: dict) -> str:
    """torch 2.13.0, .. of a config.json; "" where it has none."""
    return ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())


def describe_base(trained_on: str, bundled: bool, hub_name: str = "") -> Base:
    """What a card says of the base. trained_on: folder or Hub name; hub_name: the user's word."""
    if bundled:         # the checkout may have been elsewhere when the run was made
        trained_on = str(HERE / "tiny" / Path(trained_on).name)
    known_as, licence = look_up(hub_name or trained_on)
    local_name = Path(trained_on).name
    if bundled:
        local_name = f"tiny/{local_name}"
    return Base(known_as or local_name, bool(known_as), bundled, licence)


def look_up(base: str) -> tuple[str | None, dict]:
    """(name on the Hub, what the base's card says of its licence).

    The name is None if the base is a local folder, or if the Hub does not know it.
    """
    local = Path(base).is_dir()
    if local and not (Path(base) / "README.md").exists():
        return None, {}
    try:
        card = ModelCard.load(Path(base) / "README.md" if local else base,
                              ignore_metadata_errors=True)
    except (GatedRepoError, EntryNotFoundError):        # it exists, but its licence cannot be read
        return base, {}
    except (RepositoryNotFoundError, HFValidationError, FileNotFoundError):
        return None, {}
    data = card.data.to_dict()
    keys = ("license", "license_name", "license_link")
    licence = {key: data[key] for key in keys if data.get(key)}
    return None if local else base, licence


# ------------------------------------------------------------------------------------- the card

def model_card(repo: str, record: dict, summary: dict, evaluations: list[Evaluation],
               base: Base) -> ModelCard:
    """The card of a run that goes to the repository `repo`.

    record: config.json of the run; summary: its summary.json. The numbers of the search are on the
    card twice: as a table and as model-index metadata.
    """
    results = {"best score": summary["best_score"],
               "proposals until the best": summary["best_at_proposal"],
               "evaluations": summary["evaluations"], "proposals": summary["proposals"]}
    task, target = (" ".join(str(summary[key]).split()) for key in ("task", "target"))
    problem = f"{task}: {target}" if target else task
    command = ["python", "migrate.py", *without(
        {"out", "init_adapter", "resume", "config", "track"}, command_of(record))]
    go_on = f"python migrate.py sample {repo} -n 20"
    if not made_in_python(record):
        go_on += "\n" + shlex.join([*command, "--init-adapter", repo])
    if record["config"].get("init_adapter"):
        command += ["--init-adapter", record["config"]["init_adapter"]]
    command = IN_PYTHON if made_in_python(record) else shlex.join(command)
    load = LOAD.format(base=base.name, repo=repo, dtype=', dtype="float32"' if base.bundled else "")
    settings = [f"{k}: {v}" for k, v in all_settings(record).items() if v not in ("", None)]
    return ModelCard(CARD.format(
        metadata=metadata(repo, task, problem, results, base).to_yaml(),
        name=repo.split("/")[-1],
        base=describe_in_text(base),
        problem=escaped(problem),
        results=table(results),
        best=fenced(best_lines(evaluations)),
        load=fenced(load, "python"),
        go_on=fenced(go_on, "bash"),
        command=fenced(command, "bash"),
        settings=fenced("\n".join(settings)),
        versions=versions_in(record),
        licence="" if base.licence else " The licence is that of the base model."))


def metadata(repo: str, task: str, problem: str, results: dict, base: Base) -> ModelCardData:
    """The YAML head of a card: how the Hub lists the repository, and the results of the search."""
    tags = ["lora", "migrate", "grpo", "test-time-training", "black-box-optimization",
            re.sub(r"[^\w-]+", "-", task)]
    eval_results = [
        EvalResult(task_type="text-generation", task_name="black-box search",
                   dataset_type=re.sub(r"[^\w.-]+", "-", problem), dataset_name=problem,
                   metric_type=name.replace(" ", "_"), metric_name=name, metric_value=value)
        for name, value in results.items() if value is not None]
    return ModelCardData(
        base_model=base.name if base.on_hub else None, library_name="peft",
        pipeline_tag="text-generation", model_name=repo.split("/")[-1], tags=tags,
        eval_results=eval_results, **({"license": "other"} | base.licence))


def describe_in_text(base: Base) -> str:
    """The base in a sentence, with what a reader needs to get it."""
    if base.on_hub:
        return f"[{base.name}](https://huggingface.co/{base.name})"
    if base.bundled:
        return (f"`{base.name}`, a policy bundled with MiGrATe (run what follows in a checkout of "
                "it)")
    return (f"a local folder named `{base.name}` on the machine of the search (to load the adapter "
            "you need the very same weights: put the folder that holds them in its place below, "
            "and after `--model`)")


def all_settings(record: dict) -> dict:
    """Every setting of a run: the method's, the machine's, each modifier's and the task's."""
    settings = record["config"] | record.get("run", {})
    for modifier, values in record.get("modifiers", {}).items():
        settings |= {f"{modifier} {name}": value for name, value in values.items()}
    return settings | {f"task {name}": value for name, value in record["options"].items()}


def table(results: dict) -> str:
    """A Markdown table of one row."""
    values = [f"{value:.4f}" if isinstance(value, float) else str(value)
              for value in results.values()]
    rows = [list(results), ["---"] * len(results), values]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def best_lines(evaluations: list[Evaluation]) -> str:
    """The ten best candidates with their scores; three where candidates have several lines."""
    best = best_first(evaluations)
    several_lines = any("\n" in e.candidate for e in best)
    shown = best[:3] if several_lines else best[:10]
    return "\n".join(f"{e.score:.4f}  {e.candidate}" for e in shown)


# ----------------------------------------------------------------------------------------- text

def fenced(text: str, kind: str = "") -> str:
    """A Markdown block that its content cannot end: its fence is longer than any run of backticks
    inside."""
    text = printable(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def escaped(text: str) -> str:
    """Text for a line of Markdown: nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(text.split()))
