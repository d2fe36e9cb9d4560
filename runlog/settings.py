"""How the settings of a search come together: defaults < preset < method < what the user gave."""
from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from runlog import flags, plugins
from runlog.errors import UserError, one_line
from runlog.slow import engine

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ("wordsearch", "molecule", "arc")     # the policies in tiny/
COUNTS = ("n_on_policy", "n_greedy", "n_neighbors")
AT_LEAST = dict(n_on_policy=0, n_greedy=0, n_neighbors=0, top_k=1, inner_iterations=1, lora_r=1,
                max_new_tokens=1, proposals=1, after_solved=0, lr=0, kl_coef=0, eps_low=0,
                eps_high=0, steps=1, budget=1, seed=0, lora_alpha=0, temperature=0.001)


ALSO = "Also: migrate.py push RUN USER/NAME, migrate.py sample RUN, migrate.py --version"


@dataclass
class RunOptions:
    """What concerns this run and this machine, not the method."""
    out: str = ""           # folder of the run; default: runs/TASK-TARGET-METHOD-seedN
    resume: str = ""        # continue the run in this folder, with its settings, or begin it there
    config: str = ""        # a YAML or JSON file with settings; flags beside it win
    track: bool = False     # log every step to trackio as well (pip install trackio)
    engine: Literal["auto", "shared", "plain"] = "auto"     # plain: migrate.py's own, slower
    dtype: Literal["auto", "bf16", "fp32"] = "auto"         # auto: bf16 where it is faster
    quantize: Literal["auto", "4bit", "none"] = "auto"      # auto: 4bit for large models on CUDA
    micro_batch: int = 0    # rows in memory at a time during an update; 0: all that fit


def model_source(model: str, task) -> str:
    """The folder or Hub name that --model means."""
    if model.startswith("tiny/") and not Path(model).exists():
        return str(ROOT / model)                # a bundled policy, from another folder
    if model != "tiny":
        return model
    if task.bundled is None:
        raise UserError(f"no policy is bundled for {task.name}: choose one with --model "
                        "HUB_NAME_OR_FOLDER")
    return str(ROOT / "tiny" / task.bundled)


def bundled_policy(model: str, task) -> str:
    """Which of the policies in tiny/ --model means, by its folder; "": another model."""
    folder = Path(model_source(model, task)).resolve()
    return folder.name if folder.parent == ROOT / "tiny" and folder.name in BUNDLED else ""


def is_bundled(model: str, task) -> bool:
    """Whether --model means one of the policies in tiny/."""
    return bool(bundled_policy(model, task))


def presets_of(model: str, task) -> tuple[dict[str, dict], str]:
    """{name: settings}, and the name of the default one. They are the task's own, if it has any,
    else those that the policy brings. The default is small-lm with smollm2, and the paper's with
    any other model but the bundled ones."""
    policy = bundled_policy(model, task)
    presets, default = task.presets_with(policy)
    if task.presets:
        presets, default = task.presets, task.default_preset if policy else "paper"
    if model == "smollm2" and "small-lm" in presets:
        default = "small-lm"
    return presets, default


def choose_preset(given: dict, task, defaults) -> tuple[str, dict]:
    """The preset that the user names, else the default one, and its settings. Raises UserError."""
    presets, default = presets_of(given.get("model", defaults.model), task)
    preset = given.get("preset") or default
    if preset not in presets:
        raise UserError(f"unknown preset {preset!r} of {task.name}; choose from "
                        f"{', '.join(presets)}")
    return preset, presets[preset]


def resolve(given: dict, task, defaults, methods: dict):
    """The settings of a search. Raises UserError.

    given: {field: value}. task: a task or its class. defaults: the Config without any change.
    methods: migrate.METHODS.
    """
    preset, in_preset = choose_preset(given, task, defaults)
    _, modifiers = load_method(in_preset.get("method", defaults.method), methods)
    unknown = in_preset.keys() - asdict(defaults).keys() - modifiers.keys()
    if unknown:
        raise UserError(f"preset {preset} of {task.name} sets what is no setting: "
                        f"{', '.join(sorted(unknown))}")
    values = asdict(defaults)
    values.update((name, value) for name, value in in_preset.items() if name not in modifiers)
    values["preset"] = preset
    row, _ = load_method(given.get("method", values["method"]), methods)
    mixture = tuple(values[name] for name in COUNTS)
    values.update(zip(COUNTS, row.counts(sum(mixture), mixture)))
    counts = [name for name in flags.LENGTHS if given.get(name) is not None]
    if len(counts) > 1:
        raise UserError(f"--{counts[0]} or --{counts[1]}? Either says how long a search is")
    if counts:
        values["budget"] = values["steps"] = None   # the user's count replaces the preset's
    own = {name: value for name, value in given.items() if name in values}
    config = type(defaults)(**{**values, **own, "preset": preset})
    check(config, task.candidates_per_completion)
    if config.steps:        # replays are not drawn; a method that draws again draws more
        config.proposals = config.steps * (config.n_on_policy + config.n_neighbors)
    return config


def check(config, per_completion: int) -> None:
    """Raises UserError. per_completion: how many candidates a completion is asked for."""
    flags.check_bounds(config, AT_LEAST)
    if config.n_on_policy % per_completion or config.n_neighbors % per_completion:
        raise UserError(f"a completion holds {per_completion} candidates, so --n-on-policy "
                        f"{config.n_on_policy} and --n-neighbors {config.n_neighbors} must be "
                        f"multiples of {per_completion}. The paper's group for words is "
                        "--n-on-policy 0 --n-greedy 0 --n-neighbors 10 --max-new-tokens 64")
    if config.n_on_policy + config.n_neighbors == 0:
        raise UserError("a group needs new completions: --n-on-policy + --n-neighbors must be at "
                        "least 1")


def load_method(name: str, methods: dict) -> tuple:
    """"migrate+novelty" -> the row migrate and {"novelty": that modifier}. Raises UserError.

    A modifier is a function Method -> Method, or a dataclass whose instances are such functions.
    """
    parts = name.split("+")
    row, *modifiers = [plugins.find(part, methods, ROOT / "methods") for part in parts]
    if not hasattr(row, "counts") or any(hasattr(modifier, "counts") for modifier in modifiers):
        raise UserError(f"--method {name}: one method comes first (migrate, say), and modifiers "
                        "follow it, as in migrate+novelty")
    return row, dict(zip(parts[1:], modifiers))


def build_method(config, task, given: dict, methods: dict) -> tuple:
    """The method with its modifiers applied, and {modifier: its settings}: preset < given."""
    method, modifiers = load_method(config.method, methods)
    in_preset, settings = presets_of(config.model, task)[0][config.preset], {}
    for name, modifier in modifiers.items():
        if isinstance(modifier, type):
            own = {f.name: given[f.name] for f in fields(modifier) if f.name in given}
            modifier = modifier(**{**in_preset.get(name, {}), **own})
            settings[name] = asdict(modifier)
        method = modifier(method)
    return method, settings


def as_flags(argv: list[str], defaults, methods: dict, load_class) -> dict:
    """{title: {name: (type, field, help)}}: the flags that a command line may have (runlog.
    flags.parse). The defaults are those of the preset, and of the method. Raises UserError.

    defaults: the Config without any change. methods: migrate.METHODS. load_class: from the name of
    a task to its class.
    """
    first = flags.first_look(argv, "task", "model", "method", "preset")
    cls = load_class(first.get("task", defaults.task))
    config = resolve(first, cls, defaults, methods)
    in_preset = presets_of(config.model, cls)[0][config.preset]
    _, modifiers = load_method(config.method, methods)
    groups = {"search": flags.described(type(defaults), asdict(config)),
              "this run": flags.described(RunOptions), f"task {cls.name}": flags.described(cls)}
    return groups | {f"modifier {name}": flags.described(modifier, in_preset.get(name))
                     for name, modifier in modifiers.items() if isinstance(modifier, type)}


def from_flags(argv: list[str], defaults, methods: dict, load_class, version: str = "",
               about: str = "") -> dict:
    """{setting: value} of a command line; see as_flags. about: its first line is for --help."""
    if "--version" in argv:
        print(f"MiGrATe {version}")
        raise SystemExit(0)
    groups = as_flags(argv, defaults, methods, load_class)
    return flags.parse(argv, groups, prog="migrate.py",
                       description=about.split("\n")[0] + "\n\n" + ALSO)


def from_files(task, given: dict, *known) -> dict:
    """`given`, from Python, and what it does not say of the files that it names. Raises UserError.

    task: as migrate.run takes it. known: what from_flags takes.
    """
    if not isinstance(task, str):
        if given.get("config"):
            raise UserError("config: the settings in a file are for a task by its name; this one "
                            "is made already, so give its settings to run()")
        return given
    if not (given.get("resume") or given.get("config")):
        return given
    named = given | {"task": task}
    words = [f"--{name.replace('_', '-')}={named[name]}"
             for name in ("resume", "config", *flags.CODE) if named.get(name)]
    found = from_flags(flags.with_files(words), *known)
    if any(given.get(name) is not None for name in flags.LENGTHS):  # replaces that of the file
        found = {name: value for name, value in found.items() if name not in flags.LENGTHS}
    return found | given


def make_task(task, given: dict, load_class) -> tuple:
    """The task, and `given` with its name in it. task: a name, a class, or an instance. load_class:
    from a name to a class; it checks the class, also one that it is given. Raises UserError, also
    for what an instance has been made with already."""
    cls = load_class(task if isinstance(task, (str, type)) else type(task))
    options = {f.name: given[f.name] for f in fields(cls) if f.name in given}
    if not isinstance(task, (str, type)):
        late = options.keys() - {"seed"}
        if late:
            raise UserError(f"{', '.join(sorted(late))}: the task is made already, so give it to "
                            f"{cls.__name__}(..)")
        return task, {"task": task.name} | given
    try:
        made = cls(**options)
    except UserError:
        raise
    except Exception as error:      # it is the user's code
        raise UserError(f"{cls.__name__} cannot be made with these options: "
                        f"{type(error).__name__}: {one_line(error)}") from error
    return made, {**given, "task": task if isinstance(task, str) else cls.name}


def run_options(given: dict) -> RunOptions:
    options = RunOptions(**{f.name: given[f.name] for f in fields(RunOptions) if f.name in given})
    flags.check_bounds(options, {"micro_batch": 0})
    return options


def of_search(task, given: dict, defaults, methods: dict) -> tuple:
    """The Config of a search, its method, {modifier: its settings} and its RunOptions. Raises
    UserError, also for a name in `given` that is no setting of this search. Arguments: as of
    resolve.
    """
    config = resolve(given, task, defaults, methods)
    flags.check_bounds(task, {"dock_seconds": 0.01, "program_seconds": 0.01, "score_seconds": 0,
                              "workers": 0})
    if task.has_processes and task.score_seconds:
        raise UserError(f"{task.name} {task.target} has no --score-seconds: its own time limit is "
                        "--dock-seconds (molecule) or --program-seconds (arc)")
    if "lora_targets" not in given and config.lora_targets == defaults.lora_targets:
        config.lora_targets = engine.default_targets(model_source(config.model, task))
    method, modifiers = build_method(config, task, given, methods)
    options = run_options(given)
    check_known(given, config, options, task, modifiers)
    return config, method, modifiers, options


def check_known(given: dict, config, options, task, modifiers: dict) -> None:
    """Raises UserError if a name in `given` is no setting of this search, or if a setting of the
    task or of a modifier has the name of another one: a flag would set both."""
    names = [f.name for one in (config, options, task) for f in fields(one) if f.name != "seed"]
    names += [name for of_modifier in modifiers.values() for name in of_modifier]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"there are two settings called {name}: rename that of {task.name}, or "
                            "of your modifier")
    unknown = given.keys() - {*names, "seed"}
    if unknown:
        raise UserError(f"there is no setting {', '.join(sorted(unknown))} here; modifiers bring "
                        "theirs along (method='migrate+novelty', say)")
