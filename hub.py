"""What becomes of a finished search: its adapter goes to the Hugging Face Hub, is drawn from, starts another search.

    python migrate.py push runs/NAME USER/NAME                   # adapter, model card, and the search under search/
    python migrate.py sample runs/NAME -n 20                     # a run, or USER/NAME from the Hub
    python migrate.py --task wordsearch --init-adapter USER/NAME # start from these weights instead of fresh ones

Whatever goes wrong while pushing, the run is only read, and a token is neither written nor printed anywhere. A repository
from the Hub is data: its task is one of tasks.py or a file that the user names, its weights are safetensors.
"""
from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import logging
import re
import shlex
import time
from pathlib import Path

from huggingface_hub import (CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData, get_token,
                             hf_hub_download)
from huggingface_hub.errors import (EntryNotFoundError, GatedRepoError, HfHubHTTPError, HFValidationError, HTTPError,
                                    LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError)
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

import page
import tasks
from runs import Parser
from tasks import UserError, one_line

HERE = Path(__file__).parent
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
SEARCH = ("config.json", "summary.json", "evals.jsonl", "steps.jsonl")      # a config.json on top would be a model's
WAITS = (1, 4, 15)      # seconds before each further try, after a fault that may pass


# -------------------------------------------------------------------------------------------------- push

def push(folder: Path, repo: str, base: str = "", private: bool = False) -> str:
    """Pushes a finished run in one commit and returns its URL. Raises UserError, with the command to try again."""
    again = "python migrate.py " + shlex.join(["push", str(folder), repo, *(["--base", base] if base else []),
                                               *(["--private"] if private else [])])
    check_pushable(folder, repo)
    if not get_token():
        raise UserError(f"there is no Hub token here: run `hf auth login` or set HF_TOKEN, then {again}")
    for wait in (*WAITS, None):
        try:
            files = artifact(folder, repo, base)
            if not claim(repo, files, private):
                raise UserError(f"the name {repo} is taken by a repository that holds something else; choose another: "
                                f"python migrate.py push {shlex.quote(str(folder))} {repo}-2")
            operations = [CommitOperationAdd(name, data) for name, data in files.items()]
            return HfApi().create_commit(repo, operations, commit_message="A MiGrATe search").commit_url
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason, may_pass = explain_push(error, repo)
            if wait is None or not may_pass:
                raise UserError(f"{reason}; {folder} is untouched, try again with {again}") from error
            time.sleep(wait)


def check_pushable(folder: Path, repo: str) -> None:
    if not (folder / "summary.json").exists():
        begun = (folder / "config.json").exists()
        raise UserError(f"{folder} holds no finished run{': end it with --resume first' if begun else ''}")
    if not (folder / "adapter" / ADAPTER[1]).exists():
        raise UserError(f"{folder} has no adapter: its method trains nothing (migrate and grpo do)")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UserError("the name of a Hub repository looks like USER/NAME (letters, digits, - _ .)")


def claim(repo: str, files: dict, private: bool) -> bool:
    """Creates the repository. False if the name is taken: it exists, is not empty and does not hold this very run (a push
    that was cut off is tried again, and one may be repeated)."""
    api = HfApi()
    try:
        api.create_repo(repo, private=private or None)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
        there = set(api.list_repo_files(repo))
        if not there <= {".gitattributes"}:
            return "search/summary.json" in there and (
                Path(hf_hub_download(repo, "search/summary.json")).read_bytes() == files["search/summary.json"])
    return True


def explain_push(error: BaseException, repo: str) -> tuple[str, bool]:
    """One line on what went wrong, and whether it may pass. The client wraps what its threads raise: look through."""
    chain = [error]
    while (chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 10:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it", False
    for e in chain:
        if isinstance(e, HfHubHTTPError):
            status = e.response.status_code
            if status == 401:
                return "the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN to a valid one", False
            if status == 403:
                return (f"the token has no right to write to {repo} (403): use one with write access, or a name of your "
                        "own user or organisation"), False
            return f"the Hub answered with an error ({status})", status >= 500 or status == 429
    if any(isinstance(e, HTTPError) for e in chain):
        return "the connection to the Hub broke", True
    said = one_line(error).replace(get_token() or "\0", "***")
    return f"the push failed ({type(error).__name__}: {said})", False


def artifact(folder: Path, repo: str, base: str) -> dict[str, bytes]:
    """{path in the repository: content} of all that is pushed."""
    record, evals, _, summary = page.read(folder)
    adapter = json.loads((folder / "adapter" / ADAPTER[0]).read_text())
    trained_on, bundled = adapter["base_model_name_or_path"], record["config"]["model"] == "tiny"
    if bundled:
        trained_on = str(HERE / "tiny" / Path(trained_on).name)     # wherever the checkout was at the time
    hub_name, licence = describe_base(base or trained_on)
    # no path of this machine: the name on the Hub; tiny/NAME, a path in every checkout of the project; or the bare name
    name = hub_name or ("tiny/" if bundled else "") + Path(trained_on).name
    adapter["base_model_name_or_path"] = name
    card = model_card(repo, record, summary, evals, name, bool(hub_name), bundled, licence)
    return {"README.md": str(card).encode(), "search.svg": page.standalone(page.search_curve(evals)).encode(),
            ADAPTER[0]: json.dumps(adapter, indent=2).encode(), ADAPTER[1]: (folder / "adapter" / ADAPTER[1]).read_bytes(),
            **{f"search/{file}": (folder / file).read_bytes() for file in SEARCH}}


def describe_base(base: str) -> tuple[str | None, dict]:
    """The base's name on the Hub (None: it is a local folder, or the Hub does not know it) and its card's licence."""
    local = Path(base).is_dir()
    try:
        if local and not (Path(base) / "README.md").exists():
            return None, {}
        data = ModelCard.load(Path(base) / "README.md" if local else base, ignore_metadata_errors=True).data.to_dict()
        return None if local else base, {k: data[k] for k in ("license", "license_name", "license_link") if data.get(k)}
    except (GatedRepoError, EntryNotFoundError):        # it exists; its licence cannot be read
        return base, {}
    except (RepositoryNotFoundError, HFValidationError, FileNotFoundError):
        return None, {}


def fenced(text: str, kind: str = "") -> str:
    """A Markdown block that its content cannot leave, free of what cannot be printed."""
    text = "".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{kind}\n{text}\n{fence}"


CARD = """---
{metadata}
---

# {name}

LoRA weights of {base}, adapted by [MiGrATe](https://arxiv.org/abs/2508.08641) **while it searched one problem**
({what}). There was no training data: all that these weights learned from is what the policy proposed and the black box
scored. They are the memory of that search, and no better at anything else.

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

Versions: {versions}. Under `search/`: `config.json`, `summary.json`, every evaluation (`evals.jsonl`) and every step
(`steps.jsonl`). What a search found is as good as its scorer: check it before use.{licence}
"""
LOAD = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{base}")
base = AutoModelForCausalLM.from_pretrained("{base}"{dtype})
policy = PeftModel.from_pretrained(base, "{repo}")"""


def model_card(repo: str, record: dict, summary: dict, evals: list[dict], base: str, on_hub: bool, bundled: bool,
               licence: dict) -> ModelCard:
    """The README.md of the repository, with the numbers of the search as model-index metadata."""
    config, name = record["config"], repo.split("/")[-1]
    task, target = (" ".join(str(summary[k]).split()) for k in ("task", "target"))
    what = f"{task}: {target}" if target else task
    results = {"best score": summary["best_score"], "proposals until the best": summary["best_at_proposal"],
               "evaluations": summary["evaluations"], "proposals": summary["proposals"]}
    metadata = ModelCardData(
        base_model=base if on_hub else None, library_name="peft", pipeline_tag="text-generation", model_name=name,
        tags=["lora", "migrate", "grpo", "test-time-training", "black-box-optimization", re.sub(r"[^\w-]+", "-", task)],
        **({"license": "other"} | licence), eval_results=[
            EvalResult(task_type="text-generation", task_name="black-box search", dataset_name=what, metric_value=value,
                       dataset_type=re.sub(r"[^\w.-]+", "-", what), metric_type=metric.replace(" ", "_"),
                       metric_name=metric) for metric, value in results.items() if value is not None])
    where = (f"[{base}](https://huggingface.co/{base})" if on_hub else
             f"`{base}`, a policy bundled with MiGrATe (run what follows in a checkout of it)" if bundled else
             f"a local folder named `{base}` on the machine of the search (to load the adapter you need the very same "
             "weights: put the folder that holds them in its place below, and after `--model`)")
    valid = sorted((e for e in evals if e["valid"]), key=lambda e: (-e["score"], e["index"]))
    shown = valid[:3] if any("\n" in e["candidate"] for e in valid) else valid[:10]
    best = "\n".join(f"{e['score']:.4f}  {e['candidate']}" for e in shown)
    init = ["--init-adapter", config["init_adapter"]] if config.get("init_adapter") else []
    command = ["python", "migrate.py"] + without(record["command"], "--out", "--init-adapter", "--resume", "--track")
    settings = config | {f"task {k}": v for k, v in record["options"].items()}
    table = [results, ["---"] * len(results), [f"{v:.4f}" if isinstance(v, float) else str(v) for v in results.values()]]
    return ModelCard(CARD.format(
        metadata=metadata.to_yaml(), name=name, base=where, what=md(what),
        results="\n".join(f"| {' | '.join(row)} |" for row in table), best=fenced(best),
        load=fenced(LOAD.format(base=base, repo=repo, dtype=', dtype="float32"' if bundled else ""), "python"),
        go_on=fenced(f"python migrate.py sample {repo} -n 20\n{shlex.join([*command, '--init-adapter', repo])}", "bash"),
        command=fenced(shlex.join(command + init), "bash"),
        settings=fenced("\n".join(f"{k}: {v}" for k, v in settings.items() if v not in ("", None))),
        versions=", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        licence="" if licence else " The licence is that of the base model."))


def without(command: list[str], *flags: str) -> list[str]:
    """A command without some of its flags and their values."""
    kept, skip = [], False
    for word, after in zip(command, [*command[1:], ""]):
        if word.split("=")[0] in flags:
            skip = "=" not in word and not after.startswith("--")
        elif skip:
            skip = False
        else:
            kept.append(word)
    return kept


def md(text: str) -> str:
    """Text inside a Markdown line: nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(str(text).split()))


# ------------------------------------------------------------------------------------- load and sample

def adapter_folder(source: str) -> Path:
    """The folder with the adapter of a run, of a folder in PEFT format, or of a Hub repository (downloaded or cached)."""
    for folder in (Path(source) / "adapter", Path(source)):
        if all((folder / file).exists() for file in ADAPTER):
            return folder
    if Path(source).is_dir():
        raise UserError(f"{source} holds no LoRA adapter: finish a run whose method trains (migrate and grpo do)")
    try:
        return Path([download(source, file) for file in ADAPTER][0]).parent
    except EntryNotFoundError as error:
        raise UserError(f"{source} on the Hub holds no LoRA adapter as safetensors") from error


def download(repo: str, file: str) -> str:
    """The local copy of a file on the Hub; EntryNotFoundError if only the file is missing."""
    try:
        return hf_hub_download(repo, file)
    except (LocalEntryNotFoundError, HFValidationError, RepositoryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"{repo} is neither a folder with an adapter nor a Hub repository that can be reached (check the "
                        "name, the network, HF_TOKEN)") from error
    except EntryNotFoundError:
        raise
    except HTTPError as error:
        raise UserError(f"{repo} cannot be read from the Hub just now ({one_line(error)})") from error


def load_adapter(model, source: str) -> None:
    """Puts saved LoRA weights into a model that has fresh ones. Raises UserError unless base and shape are the same."""
    import peft
    folder = adapter_folder(source)
    try:
        saved = json.loads((folder / ADAPTER[0]).read_text())
        base, r, alpha, targets = (saved[k] for k in ("base_model_name_or_path", "r", "lora_alpha", "target_modules"))
        weights = peft.load_peft_weights(str(folder), device="cpu")
    except Exception as error:      # a stranger's files
        raise UserError(f"{source} holds no readable LoRA adapter: {one_line(error)}") from error
    mine, config = peft.get_peft_model_state_dict(model, save_embedding_layers=False), model.peft_config["default"]
    if Path(base or "?").name != Path(config.base_model_name_or_path).name:
        raise UserError(f"the adapter {source} belongs to the base {base}, not to {config.base_model_name_or_path}: choose "
                        "the base with --model")
    shapes, expected = ({name: tuple(w.shape) for name, w in of.items()} for of in (weights, mine))
    if shapes != expected or alpha != config.lora_alpha or saved.get("use_rslora"):
        targets = targets if isinstance(targets, str) else ",".join(sorted(targets))
        raise UserError(f"the adapter {source} has another shape (--lora-r {r} --lora-alpha {alpha} --lora-targets "
                        f"{targets}) than this search (--lora-r {config.r} --lora-alpha {config.lora_alpha}): give its settings")
    peft.set_peft_model_state_dict(model, weights)


def sample(source: str, n: int, seed: int, task_file: str = "", model: str = "") -> list[tuple[str, float | None, int]]:
    """n completions drawn under the task prompt of a search: [(candidate, its score in the search or None, times)]."""
    import migrate
    folder = adapter_folder(source)
    local = folder.parent if folder.name == "adapter" else None
    try:
        record, ledger = ((local / file if local else Path(download(source, f"search/{file}"))).read_text()
                          for file in ("config.json", "evals.jsonl"))
        record = json.loads(record)
        scores = {e["candidate"]: e["score"] for e in map(json.loads, ledger.split("\n")[:-1])}
        fields = {f.name for f in dataclasses.fields(migrate.Config)}
        config = migrate.Config(**{k: v for k, v in record["config"].items() if k in fields})
        if not local and config.task not in tasks.TASKS and not task_file:
            raise UserError(f"{source} searched a task of its own ({config.task}): name the file, --task path/to/file.py")
        task = tasks.load_task_class(task_file or config.task)(**record["options"])
        base = str(json.loads((folder / ADAPTER[0]).read_text())["base_model_name_or_path"])
    except UserError:
        raise
    except Exception as error:      # a stranger's files
        raise UserError(f"{source} holds no search that can be read: {one_line(error)}") from error
    if not local and not base.startswith("tiny/"):      # what the search called its model may be a folder elsewhere
        model = model or base
    config = dataclasses.replace(config, model=model or config.model, init_adapter=str(folder))
    policy = migrate.load_policy(config, migrate.model_source(config, task))
    task.fits = functools.partial(migrate.fits, policy)
    prompt = migrate.encode_prompt(policy, task.prompt())
    drawn = collections.Counter()
    for start in range(0, n, 32):
        for tokens in migrate.sample(policy, prompt, min(32, n - start), migrate.derive(seed, "sample", start)):
            drawn.update(task.parse(policy.tokenizer.decode(tokens, skip_special_tokens=True)) or [""])
    return [(candidate, scores.get(candidate), times) for candidate, times in drawn.most_common()]


def main(argv: list[str]) -> None:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    disable_progress_bars()
    parser = Parser(prog="migrate.py", allow_abbrev=False, description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("push", allow_abbrev=False, help="push a finished run to the Hub")
    one.add_argument("run", type=Path)
    one.add_argument("repo", metavar="USER/NAME")
    one.add_argument("--base", default="", help="the base model's name on the Hub, if the search used a local copy")
    one.add_argument("--private", action="store_true")
    two = commands.add_parser("sample", allow_abbrev=False, help="draw from the policy that a search left behind")
    two.add_argument("source", metavar="RUN_OR_REPO")
    two.add_argument("-n", type=int, default=20)
    two.add_argument("--seed", type=int, default=0)
    two.add_argument("--task", default="", help="the file of a task of your own, if it is elsewhere now")
    two.add_argument("--model", default="", help="the base model, if it is elsewhere now")
    args = parser.parse_args(argv)
    if args.command == "push":
        print(f"pushed to {push(args.run, args.repo, args.base, args.private)}\nload it with --init-adapter {args.repo}")
        return
    found = sample(args.source, args.n, args.seed, args.task, args.model)
    print("times  score   candidate (score: what the search saw, - if it never saw it)")
    for candidate, score, times in found:
        text = "".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in candidate or "(no candidate)")
        print(f"{times:5}  {'-     ' if score is None else f'{score:.4f}'}  " + text.replace("\n", "\n               "))
