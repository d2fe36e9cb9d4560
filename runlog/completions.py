"""completions.jsonl: a few completions of every step as the model wrote them, and what became of
them. Who writes a prompt or a parser must see them."""
from __future__ import annotations

from pathlib import Path

from runlog.ledger import OPERATOR, read_jsonl

FEW = 4         # completions of a step that are kept
UNUSABLE = 5    # steps in a row without a valid answer, after which there is a warning
QUOTED = 100    # characters of one that a warning shows


def log_completions(run, policy, task, rows: list, prompt_ids: list[int], step: int) -> None:
    """Keeps a few completions of a step. After the first step it says so if none can be used.

    run: runlog.folder.Run. policy, task: those of the search. rows: what the step drew, with
    scores. prompt_ids: the task prompt.
    """
    completions = by_completion(rows)
    some = some_of_each_origin(completions)
    lines = [as_line(of_one, policy, prompt_ids, step) for of_one in some]
    run.log_completions(step, lines)
    usable = any(row.valid for row in rows if row.origin != OPERATOR)
    run.unusable = 0 if usable else run.unusable + 1
    if run.unusable == UNUSABLE and step > UNUSABLE:
        example = f", such as {quote(lines[0]['completion'])}" if lines else ""
        run.say(f"warning: in the last {UNUSABLE} steps no answer was valid{example}. If there "
                "were valid ones before, the policy is ruined: begin again with a lower --lr")
    if step == 1 and lines:
        trouble = what_is_wrong(completions, lines)
        if trouble:
            run.say(f"warning: {trouble} {what_to_do(completions, policy, task)}")


def by_completion(rows: list) -> list[list]:
    """The rows of each completion. One that carries several candidates has a row for each of them,
    and these share one list of tokens. A row without tokens never was a completion, and one of the
    operator was not written by the policy."""
    sampled = [row for row in rows if row.tokens and row.origin != OPERATOR]
    found: dict[int, list] = {}
    for row in sampled:         # a modifier may have changed their order
        found.setdefault(id(row.tokens), []).append(row)
    return list(found.values())


def some_of_each_origin(completions: list[list]) -> list[list]:
    """The first completions of each origin, equally many, about FEW in all."""
    of_origin: dict[str, list] = {}
    for rows in completions:
        of_origin.setdefault(rows[0].origin, []).append(rows)
    each = max(1, FEW // max(1, len(of_origin)))        # a fork may have origins of its own
    return [rows for some in of_origin.values() for rows in some[:each]]


def as_line(rows: list, policy, prompt_ids: list[int], step: int) -> dict:
    """One line of the file (docs/runs.md explains every field). rows: those of one completion."""
    first = rows[0]
    asked = prompt_ids if first.prompt_ids is None else first.prompt_ids
    read = [{"candidate": row.candidate, "score": row.score, "valid": row.valid,
             "repeat": not row.new} for row in rows if row.candidate is not None]
    return {"step": step, "proposal": first.proposal, "origin": first.origin,
            "prompt": as_text(policy, asked), "completion": as_text(policy, first.tokens),
            "cut": is_cut(first, policy), "read": read}


def as_text(policy, tokens: list[int]) -> str:
    """Tokens as the model sees them: with special tokens, and with every space."""
    return policy.tokenizer.decode(tokens, skip_special_tokens=False,
                                   clean_up_tokenization_spaces=False)


def is_cut(row, policy) -> bool:
    """Whether a completion has no end, because it reached max_new_tokens."""
    return row.tokens[-1] not in policy.eos_ids


def what_is_wrong(completions: list[list], lines: list[dict]) -> str:
    """What is wrong with a step of which nothing can be used, or "". lines: some of it."""
    candidates = [row for rows in completions for row in rows if row.candidate is not None]
    if not candidates:
        return (f"no candidate could be read from the {len(completions)} completions of the first "
                f"step, such as {quote(lines[0]['completion'])}.")
    if not any(row.valid for row in candidates):
        return (f"none of the {len(candidates)} candidates of the first step is valid, such as "
                f"{quote(candidates[0].candidate)}.")
    return ""


def what_to_do(completions: list[list], policy, task) -> str:
    """Where to look, and what to change."""
    cut = sum(is_cut(rows[0], policy) for rows in completions)
    advice = ["See completions.jsonl in the run's folder."]
    if cut:
        advice.append(f"{cut} of {len(completions)} were cut: give more --max-new-tokens.")
    if "prompt_style" in getattr(task, "__dataclass_fields__", ()):
        advice.append("Try another --prompt-style.")
    else:
        advice.append("Look at prompt() and parse() of the task.")
    return " ".join(advice)


def quote(text: str) -> str:
    """The beginning of a text in one line. What does not print is shown as an escape."""
    shown = repr(text)
    return shown if len(shown) <= QUOTED else shown[:QUOTED - 1] + "\u2026"


def read_completions(folder: Path) -> list[dict]:
    """The lines of completions.jsonl, each with its prompt. In the file a line has none if the last
    line of its origin had the same."""
    lines, prompts = read_jsonl(Path(folder) / "completions.jsonl"), {}
    for line in lines:
        if line["prompt"] is None:
            line["prompt"] = prompts.get(line["origin"], "")
        prompts[line["origin"]] = line["prompt"]
    return lines
