"""Tests of what happens after a search: push, model card, --init-adapter, sample."""
# It forbids the network, and has to be imported before any client of the Hub.
from tests.support import (
    HERE,
    IN_A_FRESH_PROCESS,
    command_line,
    fresh_process,
    read_json,
    run_search,
    same_weights,
)

# isort: split
import dataclasses
import json
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard

import migrate
import reports.__main__
from domains.words import word_vectors
from hub import card, commands
from runlog import flags
from runlog.errors import UserError, exit_code
from runlog.folder import Run
from runlog.ledger import Evaluation
from runlog.settings import model_source
from tasks import WordSearch
from tests import hub_server

PUSH = IN_A_FRESH_PROCESS + """
run, token, outputs = sys.argv[1], sys.argv[2], {}
outputs["no token"] = command("push", run, "alice/found")
os.environ["HF_TOKEN"] = "hf_some_other_token"
outputs["401"] = command("push", run, "alice/found")
os.environ["HF_TOKEN"] = token
outputs["403"] = command("push", run, "bob/found")
outputs["409"] = command("push", run, "alice/taken")
faults(*[["/blob/", "close"]] * 100)
outputs["closed in the weights"] = command("push", run, "alice/found")
faults(*[["/commit/", "close"]] * 100)
outputs["closed"] = command("push", run, "alice/found")
outputs["public"] = command("push", run, "alice/found", "--private")
faults(["repos/create", 500], ["repos/create", 500], ["/preupload/", 500], ["/preupload/", 503],
       ["/lfs/", "close"], ["/commit/", "close"])
outputs["mended"] = command("push", run, "alice/found")
outputs["again"] = command("push", run, "alice/found")
outputs["card"] = open(hf_hub_download("alice/found", "README.md")).read()
HfApi().create_repo("alice/words")
HfApi().upload_folder(repo_id="alice/words", folder_path="tiny/wordsearch")
outputs["base"] = command("push", run, "alice/found", "--base", "alice/words")
outputs["card with base"] = open(hf_hub_download("alice/found", "README.md")).read()
print(json.dumps(outputs))
"""
LOAD = IN_A_FRESH_PROCESS + """
import tasks, torch
from peft import PeftModel
from runlog.settings import model_source
from transformers import AutoModelForCausalLM
config = migrate.Config(**json.loads(sys.argv[1]))
task = tasks.WordSearch()
source = model_source(config.model, task)
rows, found = [[5, 1], [300, 1], [4000, 77, 1]], {}

def logprobs(model, prompt):
    sums = []
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + row])).logits[0]
        positions = range(len(prompt) - 1, len(prompt) + len(row) - 1)
        sums.append(logits.log_softmax(-1)[positions, row].sum().item())
    return sums

for name, adapter, base in (("hub", "alice/found", "alice/words"), ("disk", sys.argv[2], source),
                            ("fresh", None, source)):
    config.init_adapter = adapter
    policy = migrate.load_policy(config, base)
    prompt = chat.encode(policy, task.prompt())
    found[name] = logprobs(policy.model, prompt)
base = AutoModelForCausalLM.from_pretrained("alice/words", dtype="float32")
found["peft"] = logprobs(PeftModel.from_pretrained(base, "alice/found").eval(), prompt)
found["sample"] = command("sample", "alice/found", "-n", "5")
for repo in ("alice/taken", "alice/nothing", "alice/own-task", "alice/odd-options"):
    found[repo] = command("sample", repo)
found["named"] = command("sample", "alice/own-task", "-n", "5", "--task", "wordsearch")
print(json.dumps(found))
"""


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed_record(files, **changes):
    """The files of a pushed run, with other parts of search/config.json."""
    record = json.loads(files["search/config.json"])
    for part, values in changes.items():
        record[part] |= values
    return {**files, "search/config.json": json.dumps(record).encode()}


# -------------------------------------------------------------------------------------- push, load

def test_a_run_is_pushed_and_loads_back_in_a_fresh_process_whatever_goes_wrong_in_between(tmp_path):
    """The real client against a server that speaks the Hub's HTTP API. Catches: a half-pushed
    repository that blocks the next try, a token on disk or in a message, a path of this machine in
    the card, weights that are not the run's, a stranger's task file that is run."""
    folder = tmp_path / "r"
    exit_code(migrate.main, ["--target", "cement", "--steps", "5", "--lr", "0.1",
                             "--out", str(folder)])
    files = files_in(folder)
    with hub_server.HubServer() as server:
        server.create("alice/taken", {"README.md": b"something else"})
        outputs, everything = fresh_process(PUSH, folder, hub_server.TOKEN, server=server,
                                            home=tmp_path / "home1")
        check_faults(outputs, folder)
        assert outputs["public"][0] == 2 and "exists and is public" in outputs["public"][1]
        assert server.repos.keys() == {"alice/taken", "alice/found", "alice/words"}
        assert server.repos["alice/taken"]["README.md"] == b"something else"
        assert [outputs[name][0] for name in ("mended", "again", "base")] == [0, 0, 0], outputs
        # the creation, the push, and the push with a base; none for nothing new
        assert server.commits["alice/found"] == 3
        pushed = server.repos["alice/found"]
        assert files == files_in(folder)
        for data in (*files_in(tmp_path).values(), *pushed.values()):
            everything += data.decode("latin-1")
        assert hub_server.TOKEN not in everything and "hf_some_other_token" not in everything
        check_repository(pushed, outputs, folder)

        server.create("alice/own-task", changed_record(pushed, config={"task": "evil.py"}))
        server.create("alice/odd-options", changed_record(pushed, options={"no such": 1}))
        config = json.loads((folder / "config.json").read_text())["config"]
        found, _ = fresh_process(LOAD, json.dumps(config), folder, server=server,
                                 home=tmp_path / "home2")
    check_loaded(found)


def check_faults(outputs, folder):
    """What went wrong is one line each, with the command that tries again."""
    for fault, words in {"no token": "hf auth login", "401": "does not accept the token",
                         "403": "no right to write to bob/found", "409": "alice/taken is taken",
                         "closed": "connection to the Hub broke",
                         "closed in the weights": "connection to the Hub broke"}.items():
        code, text = outputs[fault]
        assert code == 2 and text.startswith("error: ") and text.count("\n") == 1, (fault, text)
        assert words in text and f"python migrate.py push {folder} " in text, (fault, text)


def check_repository(pushed, outputs, folder):
    """The files of the repository, and the metadata of its card."""
    assert set(pushed) == {
        ".gitattributes", "README.md", "search.svg", "adapter_config.json",
        "adapter_model.safetensors", "search/config.json", "search/summary.json",
        "search/evals.jsonl", "search/steps.jsonl"}
    assert str(HERE) not in pushed["adapter_config.json"].decode()
    assert str(folder) not in outputs["card"]
    metadata = ModelCard(outputs["card"]).data
    assert metadata.license == "apache-2.0" and metadata.library_name == "peft"
    assert metadata.base_model is None
    assert ModelCard(outputs["card with base"]).data.base_model == "alice/words"
    adapter = json.loads(pushed["adapter_config.json"])
    assert adapter["base_model_name_or_path"] == "alice/words"
    summary = json.loads((folder / "summary.json").read_text())
    metrics = {result.metric_type: result.metric_value for result in metadata.eval_results}
    assert metrics["best_score"] == summary["best_score"]
    assert metrics["evaluations"] == summary["evaluations"]


def check_loaded(found):
    """The pushed adapter is the run's, for us and for PEFT. What cannot be sampled is refused."""
    assert found["hub"] == pytest.approx(found["disk"], abs=1e-6)
    assert found["peft"] == pytest.approx(found["disk"], abs=1e-6)
    assert max(abs(a - b) for a, b in zip(found["hub"], found["fresh"])) > 1e-2
    for name in ("sample", "named"):
        assert found[name][0] == 0 and len(found[name][1].splitlines()) > 3, found[name]
    for repo, words in {"alice/taken": "holds no LoRA adapter",
                        "alice/nothing": "neither a folder with an adapter nor a Hub repository",
                        "alice/own-task": "a task of its own (evil.py), which is code: name the ",
                        "alice/odd-options": "holds no search that can be read"}.items():
        code, text = found[repo]
        assert code == 2 and words in text and text.count("\n") == 1, (repo, text)


# -------------------------------------------------------------------------------------------- card

def test_a_card_holds_whatever_a_model_wrote(tmp_path):
    """Catches: a candidate that leaves its code block, or ends the metadata, or names the base by
    its path on this machine; a setting of a modifier that the card leaves out."""
    hostile = ["```\n---\nlicense: mit\n---\n<script>", "````` # title",
               "\x1b[31mred \u202e ![](http://x)"]
    evaluations = [
        Evaluation(index=i, step=1, proposal=i + 1, origin="on-policy", parents=[],
                   candidate=candidate, score=0.5, valid=True)
        for i, candidate in enumerate(hostile)]
    summary = dict(task="a: `task`", target="---\n# x", best_score=0.5, best=hostile[0],
                   best_at_proposal=1, evaluations=3, proposals=3)
    record = dict(config=dataclasses.asdict(migrate.Config()), run={"quantize": "4bit"},
                  modifiers={"novelty": {"max_draws": 3}}, options={"target": "`"},
                  versions={"torch": "2"},
                  command=["--task", "x.py", "--out", "/home/me/r", "--seed", "1", "--resume"])
    made = card.model_card("me/x", record, summary, evaluations, card.Base("llama"))
    made = ModelCard(str(made))
    assert made.data.license == "other" and made.data.base_model is None
    assert len(made.data.eval_results) == 4
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", made.text)
    assert not re.search("<script>|title|http://x|license|\x1b|\u202e", outside)
    assert "/home/me" not in made.text
    assert "python migrate.py --task x.py --seed 1\n" in made.text
    for line in ("novelty max_draws: 3", "quantize: 4bit", "task target: `", "lora_r: 64"):
        assert f"\n{line}\n" in made.text
    command = ["--out", "a", "--out=b", "--resume", "--seed", "1"]
    assert flags.without({"out", "resume"}, command) == ["--seed", "1"]
    command = ["--lr", "1", "--no-mask-zero", "--target", "qed"]
    assert flags.without({"mask_zero"}, command) == ["--lr", "1", "--target", "qed"]


# --------------------------------------------------------------------------- another search, sample

def test_a_search_starts_from_the_adapter_of_another(tmp_path, capsys, monkeypatch):
    """Catches: an adapter that is not loaded, or not by a resumed run."""
    first = tmp_path / "a"
    task = WordSearch(target="mob")
    _, _, _, lora = run_search(first, task, preset="tiny", method="grpo", steps=3)
    config = migrate.resolve(dict(preset="tiny", init_adapter=str(first)), task)
    policy = migrate.load_policy(config, model_source(config.model, task))
    assert same_weights(policy.lora, lora)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fresh = ["--target", "mob", "--preset", "novelty", "--steps", "4"]
    arguments = [*fresh, "--init-adapter", first]
    assert command_line(capsys, *arguments, "--out", whole)[0] == 0
    record = json.loads((whole / "config.json").read_text())
    assert record["config"]["init_adapter"] == str(first)
    log_step = Run.log_step

    def interrupted(run, line):
        if line["step"] == 3:
            raise KeyboardInterrupt
        log_step(run, line)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "log_step", interrupted)
        assert command_line(capsys, *arguments, "--out", parts)[0] == 130
    code, _, err = command_line(capsys, *fresh, "--init-adapter", whole, "--resume", parts)
    assert code == 2 and "differs in init_adapter" in err
    assert command_line(capsys, "--resume", parts)[0] == 0
    for name in ("evals.jsonl", "adapter/adapter_model.safetensors"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_an_adapter_that_does_not_fit_is_refused(tmp_path, capsys):
    """Catches: a wrong base or shape that is loaded all the same, a folder left behind by a run
    that never began."""
    run_search(tmp_path / "a", WordSearch(target="mob"), preset="tiny", method="grpo", steps=1)
    adapter_config = tmp_path / "a" / "adapter" / "adapter_config.json"
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "adapter_config.json").write_text(adapter_config.read_text())
    (bad / "adapter_model.safetensors").write_bytes(b"not at all")
    other_base = tmp_path / "other-base"
    other_base.symlink_to(HERE / "tiny" / "wordsearch")
    arguments = ["--target", "mob", "--steps", "4", "--init-adapter", tmp_path / "a"]
    shape = "has another shape (--lora-r 16 --lora-alpha 64 --lora-targets 2.mlp.up_proj)"
    for extra, words in (
            (["--lora-r", "8"], shape),
            (["--lora-alpha", "8"], "has another shape"),
            (["--lora-targets", "all-linear"], "has another shape"),
            (["--init-adapter", bad], "holds no readable LoRA adapter"),
            (["--init-adapter", tmp_path], "holds no LoRA adapter"),
            (["--init-adapter", "../nowhere"],
             "neither a folder with an adapter nor a Hub repository"),
            (["--model", other_base, "--preset", "tiny"], "belongs to the base")):
        out = tmp_path / "none"
        code, _, err = command_line(capsys, *arguments, *extra, "--out", out)
        assert code == 2 and words in err and err.count("\n") == 1, (extra, err)
        assert not out.exists()


@pytest.mark.parametrize("config, weight", [
    ({}, float("nan")), ({}, float("inf")), ({}, 1e30), ({}, "int"), ({"r": "x"}, 0.0),
    ({"target_modules": 3}, 0.0), ({"target_modules": [3, "a"]}, 0.0), ({"lora_alpha": None}, 0.0),
    ({"base_model_name_or_path": ["tiny/wordsearch"]}, 0.0), ({"r": 10**9}, 0.0), (None, 0.0),
    ({}, "empty"), ({}, "float8"), ({"alpha_pattern": {"mlp.up_proj": 1}}, 0.0)])
def test_a_hostile_adapter_is_one_line(config, weight, tmp_path, capsys):
    """Wrong types, numbers that are none, ranks that no memory holds."""
    given = ["--target", "mob", "--preset", "tiny", "--steps", "1"]
    assert command_line(capsys, *given, "--method", "migrate", "--n-greedy", "1", "--out",
                        tmp_path / "r")[0] == 0
    adapter = tmp_path / "r" / "adapter"
    own = read_json(adapter / "adapter_config.json")
    changed = None if config is None else own | config
    (adapter / "adapter_config.json").write_text(json.dumps(changed))
    weights = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    name = next(iter(weights))
    if weight == "int":
        weights[name] = weights[name].int()
    elif weight == "empty":
        weights[name] = weights[name][:0].clone()
    elif weight == "float8":
        weights[name] = torch.full_like(weights[name], 300.0).to(torch.float8_e4m3fn)
    elif weight:
        weights[name] = torch.full_like(weights[name], weight)
    safetensors.torch.save_file(weights, adapter / "adapter_model.safetensors")
    code, _, err = command_line(capsys, *given, "--init-adapter", tmp_path / "r", "--out",
                                tmp_path / "next")
    harmless = weight == "float8" or config == {"r": 10**9}
    assert code == (0 if harmless else 2) and "Traceback" not in err, err
    if code:
        assert err.count("\n") == 1 and err.startswith("error: ")


def test_a_record_with_settings_that_are_none_is_one_line(tmp_path, capsys):
    folder = tmp_path / "r"
    assert command_line(capsys, "--target", "mob", "--preset", "tiny", "--method", "migrate",
                        "--n-greedy", "1", "--steps", "1", "--out", folder)[0] == 0
    record = read_json(folder / "config.json")
    for name, value in (("temperature", 0), ("lora_r", "64"), ("max_new_tokens", -5)):
        changed = record | {"config": record["config"] | {name: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        code, _, err = command_line(capsys, "sample", folder)
        assert code == 2 and err.startswith("error: --") and err.count("\n") == 1, err


def test_the_code_that_a_record_names_is_not_run(tmp_path, capsys):
    """By sample and by reports. Catches: a stranger's run that is code for whoever looks at it."""
    folder = tmp_path / "r"
    assert command_line(capsys, "--target", "mob", "--preset", "tiny", "--method", "migrate",
                        "--n-greedy", "1", "--steps", "1", "--out", folder)[0] == 0
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    record = read_json(folder / "config.json")
    for task, options in ((str(tmp_path / "evil.py"), {}),
                          ("arc", {"arc_prelude": str(tmp_path / "evil.py")})):
        record["config"]["task"], record["options"] = task, options
        (folder / "config.json").write_text(json.dumps(record))
        command_line(capsys, "sample", folder)
        assert exit_code(reports.__main__.main, [str(folder), "--html"]) == 0
        assert exit_code(reports.__main__.main, [str(folder)]) == 0
        assert not (tmp_path / "ran").exists()
    record["config"]["task"], record["options"] = str(tmp_path / "evil.py"), {}
    (folder / "config.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert exit_code(reports.__main__.main, [str(folder), "--html"]) == 0
    assert "without pictures: they need the code of" in capsys.readouterr().err
    code, _, err = command_line(capsys, "sample", folder, "--task", tmp_path / "evil.py")
    assert code == 2 and (tmp_path / "ran").exists()        # the user named it; it holds no task
    assert command_line(capsys, "sample", folder, "-n", "0")[0] == 2


def test_sampling_shows_what_a_search_learned(tmp_path, capsys):
    """The share of cement's relatives among samples rises; the scores beside them are those of the
    search."""
    folder = tmp_path / "r"
    _, evals, _, _ = run_search(folder, WordSearch(target="cement"), preset="tiny",
                                method="migrate", n_on_policy=5, n_neighbors=4, n_greedy=1,
                                steps=40, lr=2e-2)
    config = migrate.resolve(dict(preset="tiny", lr=2e-2), WordSearch())
    record = {"config": dataclasses.asdict(config), "modifiers": {},
              "options": {"target": "cement"}}
    (folder / "config.json").write_text(json.dumps(record))
    code, out, _ = command_line(capsys, "sample", folder, "-n", 200)
    lines = [line.split() for line in out.splitlines()[1:]]
    assert code == 0 and sum(int(times) for times, *_ in lines) == 200
    scores = {e["candidate"]: f"{e['score']:.4f}" for e in evals}
    assert all(score == scores.get(word, "-") for _, score, word in lines)
    row, vectors = word_vectors()
    cement = vectors[row["cement"]]
    closeness = []
    for times, _, word in lines:
        if word in row:
            closeness += [vectors[row[word]] @ cement] * int(times)
    assert np.mean(closeness) > 0.05 + np.mean(vectors @ cement)


def test_samples_are_counted_and_shown_beside_their_scores(tmp_path, capsys):
    """With a drawing function in place of a policy. Catches: a draw that is lost, a completion
    without a candidate that is hidden, a control character on the terminal, a search that is half
    there and is drawn from all the same."""
    folder = tmp_path / "r"
    (folder / "adapter").mkdir(parents=True)
    base = {"base_model_name_or_path": "somewhere/else"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(base))
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    record = {"config": {"task": "wordsearch"}, "options": {"target": "mob"}}
    (folder / "config.json").write_text(json.dumps(record))
    scored = Evaluation(index=0, step=1, proposal=1, origin="on-policy", parents=[],
                        candidate="crowd", score=0.5, valid=True)
    calls = []

    def draw(*arguments):
        calls.append(arguments)
        return ["", "crowd", "two\nlines\x1b", "crowd"]
    argv = ["sample", str(folder), "-n", "4", "--seed", "7"]
    with pytest.raises(UserError, match="holds no search that can be read: .*evals.jsonl"):
        commands.main(argv, draw)
    (folder / "evals.jsonl").write_text(json.dumps(dataclasses.asdict(scored)) + "\n")
    commands.main(argv, draw)
    # a run keeps the model of its record; the base in the adapter is asked only of a repository
    assert calls == [(record, folder / "adapter", 4, 7, "", "")]
    assert capsys.readouterr().out.splitlines()[1:] == [
        "    2  0.5000  crowd",
        "    1  -       (no candidate)",
        "    1  -       two",
        "               lines\u00b7"]


# -------------------------------------------------------------------------------- bundled policies

BUNDLED = sorted(path.parent.name for path in (HERE / "tiny").glob("*/config.json"))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_policies_are_hub_artifacts(name):
    """`hf upload USER/NAME tiny/...` is all it takes: card, metadata and files are as the Hub wants
    them, and none holds a path of this machine."""
    folder = HERE / "tiny" / name
    files = {path.name for path in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "generation_config.json",
            "tokenizer.json"} <= files
    policy_card = ModelCard.load(folder / "README.md")
    metadata = policy_card.data
    assert metadata.license and metadata.library_name == "transformers"
    assert metadata.pipeline_tag == "text-generation" and metadata.base_model is None
    assert isinstance(metadata.tags, list) and len(policy_card.text) > 500
    for file in files - {"model.safetensors"}:
        text = (folder / file).read_text()
        assert not re.search(r"/(home|tmp|work|root|Users)/", text), file
