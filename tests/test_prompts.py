"""Prompts: conversations through the chat templates of real families, and their wording."""
from __future__ import annotations

import json
import types

import pytest
import transformers

import engine
import migrate
from domains import prompts
from engine import chat, gguf
from engine.loading import load_model
from runlog.errors import UserError
from runlog.settings import RunOptions
from tasks import WordSearch
from tests.support import (
    CHATML_TEMPLATE,
    HERE,
    LLAMA3_TEMPLATE,
    folder_of,
    load,
)

TALK = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "one"}, {"role": "user", "content": "Two?"}]
# As Gemma's: no system turn, and the two sides in turn.
GEMMA_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ '<' + m['role'] + '>' + "
    "m['content'] + '</>' }}{% endfor %}{% if add_generation_prompt %}{{ '<model>' }}{% endif %}")
# As some older ones: a system turn is dropped without a word.
DEAF_TEMPLATE = ("{% for m in messages %}{% if m['role'] != 'system' %}{{ '<' + m['role'] + '>' + "
                 "m['content'] }}{% endif %}{% endfor %}")
# As Qwen 3's and SmolLM3's: it opens a thought unless it is told not to.
THINKING_TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if enable_thinking is not defined or enable_thinking %}{{ '<think>' }}{% endif %}")


def rendered(template: str | None, prompt) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("qwen2"))
    tokenizer.chat_template = template
    return tokenizer.decode(chat.encode_turns(tokenizer, chat.conversation(prompt), frozenset()))


def test_a_string_is_one_turn_of_the_user():
    for template in (LLAMA3_TEMPLATE, CHATML_TEMPLATE, GEMMA_TEMPLATE, None):
        turn = [{"role": "user", "content": "Guess."}]
        assert rendered(template, "Guess.") == rendered(template, turn)
    assert rendered(None, "Guess.") == "Guess.\n"


def test_a_conversation_reaches_templates_that_know_no_system_turn():
    """Catches: a system text that is lost, or a template's exception as a traceback."""
    assert "<|im_start|>system\nBe short.<|im_end|>" in rendered(CHATML_TEMPLATE, TALK)
    folded = "<user>Be short.\n\nOne?</><assistant>one</><user>Two?</><model>"
    assert rendered(GEMMA_TEMPLATE, TALK) == folded
    assert rendered(DEAF_TEMPLATE, TALK) == "<user>Be short.\n\nOne?<assistant>one<user>Two?"
    assert rendered(None, TALK) == "Be short.\nOne?\none\nTwo?\n"
    twice = [{"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}]
    assert rendered(GEMMA_TEMPLATE, twice) == "<user>One?\n\nTwo?</><model>"


def test_models_that_think_are_told_not_to():
    assert rendered(THINKING_TEMPLATE, "Guess.") == "Guess."


@pytest.mark.parametrize("wrong", [None, [], 3, ["a"], [{"role": "user"}],
                                   [{"role": "tool", "content": "x"}],
                                   [{"role": "user", "content": None}]])
def test_what_is_no_conversation_is_one_clear_line(wrong):
    policy = load(folder_of("qwen2"))
    with pytest.raises(UserError, match="a prompt is a string, or a list of"):
        chat.encode(policy, wrong)


def test_a_template_that_refuses_is_one_clear_line():
    with pytest.raises(UserError, match="refuses the prompt: never"):
        rendered("{{ raise_exception('never') }}", "Guess.")


# --------------------------------------------------------------------------------------- wording

NO_END_TEMPLATE = ("{% for m in messages %}{{ ('<|im_start|>' if m['role'] == 'user' else '</>') + "
                   "m['content'] }}{% endfor %}")     # as GLM 4's: the next turn is the end


@pytest.mark.parametrize("template, eos_ids, end", [
    (CHATML_TEMPLATE, {0, 2}, 2), (NO_END_TEMPLATE, {0, 1}, 1), (NO_END_TEMPLATE, {0, 2}, 0),
    (CHATML_TEMPLATE, {0, 3}, 0),                           # no end of a completion: EOS
    (CHATML_TEMPLATE, {5, 3}, 3), (CHATML_TEMPLATE + "<|endoftext|>", {0, 2}, 2),   # as Phi 3's
    ("{{ raise_exception('no') }}", {0, 2}, 0), ("<|im_end|>", {0, 2}, 0), (None, {0, 2}, 0)])
def test_an_answer_is_closed_as_the_chat_template_closes_it(template, eos_ids, end):
    """The tokenizer's EOS is 0, <|endoftext|>: models are often shipped like this. Catches: answers
    that never were sampled and train a model to end otherwise than it does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("qwen2"))
    tokenizer.chat_template, tokenizer.eos_token = template, "<|endoftext|>"
    assert chat.end_of_turn(tokenizer, frozenset(eos_ids)) == end


def test_the_bundled_policies_close_their_answers_with_their_eos():
    for name in ("wordsearch", "molecule", "arc"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(HERE / "tiny" / name)
        assert chat.end_of_turn(tokenizer, frozenset({1})) == 1 == tokenizer.eos_token_id


def test_the_bundled_policy_reads_the_wording_it_was_trained_on():
    """Whatever the other styles do."""
    task = WordSearch()
    assert task.prompt() == "Guess the hidden word. Answer with one English word."
    assert task.variation_prompt(["oak"]) == (
        "Guess the hidden word. Its meaning is close to: oak. Answer with one English word.")
    assert task.variation_prompt(["oak", "elm"]) == (
        "Guess the hidden word. Its meaning is close to these, the last the closest: oak, elm. "
        "Answer with one English word.")


def test_the_style_follows_the_model_unless_the_user_chooses():
    task = WordSearch()
    for bundled, size, style in ((True, 4e6, "bundled"), (False, 135e6, "few-shot"),
                                 (False, 8e9, "instruct")):
        task.meet(bundled, size)
        assert task.style == style
    chosen = WordSearch(prompt_style="instruct")
    chosen.meet(False, 135e6)
    assert chosen.style == "instruct"
    with pytest.raises(UserError, match="--prompt-style takes one of bundled, few-shot, instruct"):
        WordSearch(prompt_style="haiku")


@pytest.mark.parametrize("n", [1, 10])
@pytest.mark.parametrize("style", ["few-shot", "instruct"])
def test_no_prompt_names_the_target(style, n):
    """Catches: an example that is the answer. Every word of every example is tried as a target."""
    examples = {*prompts.GUESSES, *prompts.LISTS[0], *prompts.LISTS[1],
                *(w for pair in prompts.NEAR for w in pair), "angry", "river", "pencil", "furious"}
    asked = [[], [("oak", 0.3)], [("oak", 0.2), ("elm", 0.3)]]
    for hidden in examples:
        for parents in asked:
            conversation = prompts.words(style, n, parents, hidden)
            text = json.dumps(conversation).lower()
            assert f'"{hidden}"' not in text.replace("\\", "") and f" {hidden}" not in text
            assert conversation[-1]["role"] == "user"


def test_examples_are_answers_of_the_kind_that_is_asked_for():
    ten = prompts.words("few-shot", 10, [("oak", 0.3)], "cement")
    answers = [json.loads(turn["content"]) for turn in ten if turn["role"] == "assistant"]
    assert answers and all(len(answer) == 10 == len(set(answer)) for answer in answers)
    ranked = prompts.words("few-shot", 1, [("oak", 0.2), ("elm", 0.345)], "cement")
    assert "20% oak\n34% elm" in ranked[-1]["content"]


def test_parents_are_shown_with_the_scores_of_the_archive():
    task = WordSearch(prompt_style="few-shot")
    task.archive = {"oak": types.SimpleNamespace(score=0.25)}
    assert "25% oak\n0% elm" in task.variation_prompt(["oak", "elm"])[-1]["content"]


# -------------------------------------------------------------------------------- GGUF, data types

def test_a_packaged_model_is_found_without_importing_its_package(tmp_path, monkeypatch):
    """The package imports a runtime that is not needed; its name on the Hub serves without it."""
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    assert gguf.local_model("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert gguf.local_model("some/model") == "some/model"
    with pytest.raises(UserError, match="there is no file nowhere.gguf"):
        gguf.local_model("nowhere.gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="pip install gguf"):
        gguf.local_model(str(tmp_path / "a.gguf"))


def test_a_damaged_gguf_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(UserError, match="a.gguf"):
        gguf.local_model(str(tmp_path / "a.gguf"))
    assert list((tmp_path / "cache" / "migrate").iterdir()) == []


def test_the_data_type_is_the_users_choice():
    source = str(HERE / "tiny" / "wordsearch")
    for name, expected in (("bf16", "torch.bfloat16"), ("fp32", "torch.float32")):
        model, _ = load_model(source, "none", name)
        assert str(next(model.parameters()).dtype) == expected
    options = RunOptions(dtype="bf16", quantize="none")
    policy = migrate.load_policy(migrate.resolve({}, WordSearch()), source, options)
    assert {str(p.dtype) for p in policy.lora.values()} == {"torch.float32"}
    assert policy.slow_because == "" and engine.why_not(policy.model.get_base_model()) is None
    drawn = migrate.sample(policy, [(chat.encode(policy, "Guess."), 3)], 0)
    assert len(drawn[0]) == 3
