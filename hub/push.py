"""A finished run goes to the Hugging Face Hub: adapter, model card, and the search under search/.

Whatever goes wrong, the run on disk is only read. The token is neither written nor printed.
"""
from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token, hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id

from hub.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_NAME
from hub.card import describe_base, model_card
from reports.pages import search_picture
from runlog.errors import UserError, one_line
from runlog.ledger import read_evaluations
from runlog.settings import is_bundled

# They go into a folder of their own: a config.json at the top would be a model's.
SEARCH = ("config.json", "summary.json", "evals.jsonl", "steps.jsonl")
WAITS = (1, 4, 15)      # seconds before each further try, after a fault that may pass


def push(folder: Path, repo: str, base: str = "", private: bool = False) -> str:
    """Pushes a finished run in one commit and returns the URL of that commit.

    base: the base model's name on the Hub, if the search used a local copy. Raises UserError, which
    says what to do and how to try again.
    """
    arguments = ["push", str(folder), repo]
    if base:
        arguments += ["--base", base]
    if private:
        arguments.append("--private")
    again = f"python migrate.py {shlex.join(arguments)}"
    check_pushable(folder, repo)
    if not get_token():
        raise UserError("there is no Hub token here: run `hf auth login` or set HF_TOKEN, then "
                        f"{again}")
    for wait in (*WAITS, None):
        try:
            return push_once(folder, repo, base, private)
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason, may_pass = explain_push(error, repo)
            if wait is None or not may_pass:
                raise UserError(f"{reason}; {folder} is untouched, try again with "
                                f"{again}") from error
            time.sleep(wait)


def push_once(folder: Path, repo: str, base: str, private: bool) -> str:
    """One try of push(). Raises what the Hub's client raises."""
    files = artifact(folder, repo, base)
    if not claim(repo, files, private):
        raise UserError(f"the name {repo} is taken by a repository that holds something else; "
                        f"choose another: python migrate.py push {shlex.quote(str(folder))} "
                        f"{repo}-2")
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    commit = HfApi().create_commit(repo, operations, commit_message="A MiGrATe search")
    return commit.commit_url


def check_pushable(folder: Path, repo: str) -> None:
    """Raises UserError unless the folder is a finished run with an adapter, and the name valid."""
    if not (folder / "summary.json").exists():
        hint = ""
        if (folder / "config.json").exists():
            hint = ": end it with --resume first"
        raise UserError(f"{folder} holds no finished run{hint}")
    if not (folder / "adapter" / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{folder} has no adapter: its method trains nothing (migrate and grpo do)")
    try:
        validate_repo_id(repo)
        valid = repo.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError("the name of a Hub repository looks like USER/NAME (letters, digits, - _ "
                        ".)")


def claim(repo: str, files: dict[str, bytes], private: bool) -> bool:
    """Creates the repository. False if the name is taken by something else.

    A repository that exists may be used if it is empty or holds this very run: an earlier push may
    have been cut off, and a push may be repeated.
    """
    api = HfApi()
    try:
        api.create_repo(repo, private=private or None)
    except HfHubHTTPError as error:
        if error.response.status_code != 409:
            raise
    else:
        return True
    if private and not api.repo_info(repo).private:
        raise UserError(f"{repo} exists and is public: make it private on the Hub, or choose "
                        "another name")
    present = set(api.list_repo_files(repo))
    if present <= {".gitattributes"}:
        return True
    if "search/summary.json" not in present:
        return False
    pushed = Path(hf_hub_download(repo, "search/summary.json")).read_bytes()
    return pushed == files["search/summary.json"]


def explain_push(error: BaseException, repo: str) -> tuple[str, bool]:
    """One line on what went wrong, and whether it may pass by itself.

    The client wraps errors of its threads in others, so all causes of the error are looked at.
    """
    chain = [error]
    while len(chain) < 10 and (chain[-1].__cause__ or chain[-1].__context__):
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    if any(isinstance(e, OfflineModeIsEnabled) for e in chain):
        return "HF_HUB_OFFLINE is set, so nothing can be pushed: unset it", False
    statuses = [e.response.status_code for e in chain if isinstance(e, HfHubHTTPError)]
    if statuses:
        return explain_status(statuses[0], repo)
    if any(isinstance(e, HTTPError) for e in chain):
        return "the connection to the Hub broke", True
    message = one_line(error)
    if get_token():
        message = message.replace(get_token(), "***")
    return f"the push failed ({type(error).__name__}: {message})", False


def explain_status(status: int, repo: str) -> tuple[str, bool]:
    """explain_push() for an answer of the Hub with an HTTP status."""
    if status == 401:
        return ("the Hub does not accept the token (401): run `hf auth login`, or set HF_TOKEN to "
                "a valid one"), False
    if status == 403:
        return (f"the token has no right to write to {repo} (403): use one with write access, or a "
                "name of your own user or organisation"), False
    return f"the Hub answered with an error ({status})", status >= 500 or status == 429


def artifact(folder: Path, repo: str, base: str) -> dict[str, bytes]:
    """{path in the repository: content} of all that is pushed."""
    record, summary = (json.loads((folder / name).read_text())
                       for name in ("config.json", "summary.json"))
    evaluations = sorted(read_evaluations(folder), key=lambda e: e.index)
    adapter = json.loads((folder / "adapter" / ADAPTER_CONFIG).read_text())
    bundled = record["config"]["model"] == "tiny" or is_bundled(adapter[BASE_NAME], None)
    described = describe_base(adapter[BASE_NAME], bundled, base)
    adapter[BASE_NAME] = described.name
    card = model_card(repo, record, summary, evaluations, described)
    files = {"README.md": str(card).encode(),
             "search.svg": search_picture(folder).encode(),
             ADAPTER_CONFIG: json.dumps(adapter, indent=2).encode(),
             ADAPTER_WEIGHTS: (folder / "adapter" / ADAPTER_WEIGHTS).read_bytes()}
    for name in SEARCH:
        files[f"search/{name}"] = (folder / name).read_bytes()
    return files
