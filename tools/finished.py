"""What becomes of a finished search: `migrate.py push RUN USER/NAME`, `migrate.py sample RUN`."""
from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import migrate
import tasks
from hub import commands
from runlog import flags, settings
from runlog.ledger import ON_POLICY
from runlog.settings import RunOptions, is_bundled, model_source
from runlog.slow import engine


def draw(record: dict, adapter: Path, n: int, seed: int, task_file: str, model: str) -> list[str]:
    """The candidates in n completions under the task prompt of a search; "" where there is none.

    record: the run's config.json. adapter: the folder of its LoRA weights. task_file: the file of
    the task, if it is elsewhere now. model: the base model, if it is elsewhere now.
    """
    names = {f.name for f in dataclasses.fields(migrate.Config)}
    values = {name: value for name, value in record["config"].items() if name in names}
    config = migrate.Config(**values | {"init_adapter": str(adapter)})
    config.model = model or config.model
    task = tasks.load_task_class(task_file or config.task)(**record["options"])
    settings.check(config, task.candidates_per_completion)      # the record may be a stranger's
    used = record.get("run", {})
    options = RunOptions(quantize=used.get("quantize", "auto"), dtype=used.get("dtype", "auto"))
    flags.check_bounds(options, {})
    policy = migrate.load_policy(config, model_source(config.model, task), options)
    task.fits = functools.partial(engine.chat.fits, policy)
    task.meet(is_bundled(config.model, task), policy.n_parameters)
    prompt, candidates = engine.chat.encode(policy, task.prompt()), []
    ask = migrate.Ask(prompt, n, ON_POLICY, [])
    for start in range(0, n, 32):
        draw_seed = migrate.derive(seed, "sample", start)
        [completions] = migrate.sample(policy, [(prompt, min(32, n - start))], draw_seed)
        for tokens in completions:
            rows = migrate.parse_rows(policy, task, tokens, ask)
            candidates += [row.candidate or "" for row in rows]
    return candidates


def main(argv: list[str]) -> None:
    commands.main(argv, draw)
