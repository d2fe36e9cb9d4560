"""Parsers: what they read in the completions of real language models, and in hostile ones."""
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains import answers
from domains.answers import answer_word, program_in, smiles_in, without_thinking, words_in
from tasks import Arc, Molecule

ROTATE = ("# turn it by half\nimport numpy as np\n\n"
          "def transform(grid):\n    return np.rot90(grid, 2)")
PARSERS = (words_in, answer_word, smiles_in, program_in)


# --------------------------------------------------------------------------------------- thinking

@pytest.mark.parametrize("text, answer", [
    ("<think>stone</think>cement", "cement"),
    ("maybe stone\n</think>\ncement", "\ncement"),              # the prompt held the <think>
    ("<think>a</think>stone<think>b</think>cement", "cement"),
    ("<THINKING>stone</THINKING>cement", "cement"), ("stone</Think>cement", "cement"),
    ("a </think> b </think> cement", " cement"),
    ("<think>endless", ""), ("cement<think>endless", "cement"), ("cement", "cement"), ("", ""),
    ("a</think>cement<think>endless", "cement")])
def test_an_answer_begins_after_the_last_thought(text, answer):
    """Catches: a thought that is read as the answer, because its opening tag is in the prompt."""
    assert without_thinking(text) == answer


@pytest.mark.parametrize("parser, thought, answer, expected", [
    (words_in, "maybe 'lava'? I'd go with cement.", "cement", ["cement"]),
    (words_in, 'maybe ["lava"]', '["cement", "lime"]', ["cement", "lime"]),
    (answer_word, "The answer is lava.", "cement", "cement"),
    (smiles_in, "SMILES: CCN", "CCO", ["CCO"]),
    (program_in, "```python\ndef transform(grid):\n    return 1\n```", ROTATE, ROTATE)])
def test_every_parser_leaves_thoughts_out(parser, thought, answer, expected):
    """Catches: a parser that reads the thoughts of a model whose template opens the tag."""
    for text in (f"{thought}\n</think>\n\n{answer}", f"<think>\n{thought}\n</think>{answer}"):
        assert parser(text) == expected
    assert not parser(f"<think>\n{thought}")


# ------------------------------------------------------------------------------------------ words

@pytest.mark.parametrize("answer, expected", [
    ("cement", ["cement"]), (" Cement.\n", ["cement"]), ('"cement"', ["cement"]),
    ("**Cement**", ["cement"]), ('["cement", "mortar"]', ["cement", "mortar"]),
    ('{"words": ["cement", "Mortar"]}', ["cement", "mortar"]),
    ('```json\n["cement"]\n```', ["cement"]),
    ('Sure! Here you are:\n```\n{"guess": "cement"}\n```\nGood luck', ["cement"]),
    ("<think>maybe [1] or \"gravel\"?</think>\n\ncement", ["cement"]), ("<think>endless", []),
    ("1. cement\n2. mortar", ["cement", "mortar"]), ("- cement\n- mortar", ["cement", "mortar"]),
    ("cement, mortar, lime", ["cement", "mortar", "lime"]),
    ('My guess would be "cement".', ["cement"]), ("My guess is: cement.", ["cement"]),
    ("The word is cement!", ["cement"]), ("I cannot help with that request.", []), ("", []),
    ("123", []), ("air base", []), ("naïve", []), ('["x1", "ice cream"]', []),
    ("{" * 5000, []), ("[" * 100_000, []),
])
def test_words_are_read_from_what_real_models_write(answer, expected):
    """Catches: a parser that knows one form of answer only, and candidates out of plain prose."""
    assert words_in(answer) == expected


@pytest.mark.parametrize("answer, word", [
    ("cement", "cement"), (" Cement.\n", "cement"), ('["cement"]', "cement"), ("Sure.", "sure"),
    ("answer", "answer"), ("cement?", "cement"), ("`cement`", "cement"), ("· cement.", "cement"),
    # an explanation behind the answer
    ("cement\n\nThis word fits because it is a building material.", "cement"),
    ('cement\n\nThis word is close to "stone".', "cement"),
    ("cement\n\nThis word is apt.", "cement"),
    ("cement (a building material)", "cement"), ("cement - a building material", "cement"),
    ("cement: a building material", "cement"), ("**Cement**: a building material", "cement"),
    ("**Cement** \u2014 it binds.", "cement"), ("Cement. It binds stones.", "cement"),
    ("1. cement", "cement"), ("1. cement\n2. mortar", "cement"), ("**1. cement**", "cement"),
    # words that name the answer
    ("answer: cement", "cement"), ("Answer: **cement**", "cement"),
    ("**Answer:** cement", "cement"), ("Answer:\n\ncement", "cement"),
    ("The answer is cement.", "cement"),
    ("Answer with one English word: cement", "cement"), ("My guess is: cement.", "cement"),
    ('My guess is "cement" because it is near "stone".', "cement"),
    ('I would guess "cement", which is near "stone".', "cement"),
    ("'lava' is possible. I'd go with cement.", "cement"), ('The word is "cement."', "cement"),
    ('The word close to "stone" is "cement".', "cement"), ("The hidden word is cement.", "cement"),
    ("My guess is stone. But no, the answer is cement.", "cement"),
    ("```\nstone\n```\nOr rather:\n```\ncement\n```", "cement"),
    ("stone?\nmortar?\nFinal answer: cement", "cement"), ("So \\boxed{\\text{cement}}.", "cement"),
    # an introduction before the answer
    ("Sure!\n\ncement", "cement"), ("Sure! Here is my guess: cement", "cement"),
    ('A word close to "stone" is:\n\ncement', "cement"), ("**Answer**\ncement", "cement"),
    ("Here is my guess:\n\n**cement**\n\nIt is near **stone**.", "cement"),
    ('It could be "stone" or rather **cement**.', "cement"),
    # JSON, fenced, in an object, cut off
    ('["stone", "cement"]', "cement"), ('```json\n["cement"]\n```\nIt is like "stone".', "cement"),
    ('{"guess": "cement", "confidence": "high"}', "cement"), ("```cement```", "cement"),
    ('{"reasoning": "hard", "answer": "cement"}', "cement"),
    ('{"guess": "cement", "wh', "cement"),
    ("```\ncement\n```", "cement"), ("cement\n```", "cement"), ("['cement']", "cement"),
    ('["ceme', None), ('{"guess": "ceme', None),
    ('{"reason": "hard", "guess": "cement", "x', "cement"),
    ("cement [1]", None), ("cement, mortar", "mortar"),
    # nothing proposed
    ("I cannot help with that request.", None), ("", None), ("123", None), ("air base", None),
    ("na\u00efve", None), ("What is the answer to this question?", None), ("```\n```", None),
    ("Sure, here is a word for you.", None), ("I'm sorry, but I don't know.", None),
    ('Askin\' about "what\'s in it?"', None), ("Note: it is hard.", None), ("Answer:", "answer")])
def test_one_word_is_read_from_what_real_models_write(answer, word):
    """Catches: a word of the explanation, or the parent that the prompt named, as the answer."""
    assert answer_word(answer) == word


TEN = "cement mortar lime gravel brick plaster sand stone grout asphalt".split()


@pytest.mark.parametrize("answer", [
    "\n".join(TEN), ", ".join(TEN), ", ".join(TEN[:-1]) + f", and {TEN[-1]}.",
    "\n".join(f"{n}. {word}" for n, word in enumerate(TEN, 1)),
    "\n".join(f"{n}) {word.title()}" for n, word in enumerate(TEN, 1)),
    " ".join(f"{n}. {word}" for n, word in enumerate(TEN, 1)),
    "\n".join(f"{n}. **{word}** - a thing to build with" for n, word in enumerate(TEN, 1)),
    "\n".join(f"{n}. **{word}:** close to \"clay\"" for n, word in enumerate(TEN, 1)),
    "\n".join(f"* {word} (a thing to build with)" for word in TEN),
    "\n".join(f"{word}: a thing to build with" for word in TEN),
    "\n".join(f"- \"{word}\"" for word in TEN),
    "Here are ten words close to \"clay\":\n\n" + "\n".join(TEN) + "\n\nThey are all materials.",
    "Sure! Here are ten words: " + ", ".join(TEN) + ".",
    "Sure, here you are:\n\n" + "\n\n".join(f"{n}. {word}" for n, word in enumerate(TEN, 1))
    + "\n\nI hope that helps!",
    str(TEN), str(TEN).replace("'", '"'), "```json\n" + str(TEN).replace("'", '"') + "\n```",
    str({"words": TEN}).replace("'", '"'), str([{"word": w, "why": "near"} for w in TEN]),
    "```\n" + "\n".join(TEN) + "\n```", "[" + ", ".join(TEN) + "]",
    str([*TEN, "cut off"]).replace("'", '"')[:-4],
    "```json\n" + str({"words": [*TEN, "cut off"]}).replace("'", '"')[:-5],
    str([{"word": word, "why": "it's near"} for word in TEN]).replace("'word'", '"word"')])
def test_ten_words_are_read_in_every_form_of_a_list(answer):
    """Catches: lists that are lost because of a title, an explanation or a missing bracket."""
    assert words_in(answer)[:10] == TEN


@pytest.mark.parametrize("answer, words", [
    ('["a", "b", "c', ["a", "b"]), ('["a", "b", "c"', ["a", "b", "c"]), ('["a', []),
    ('Sure: {"words": ["a', []), ('[{"word": "a", "why": "near"}, {"word": "b", "wh', ["a"]),
    ('{"words": ["a", "b", "c', ["a", "b"]), ('I like [1]: ["a", "b"]', ["a", "b"]),
    ("cement\n\nThis word fits because it is a building material.", ["cement"]),
    ("cement (a building material)", ["cement"]), ("cement - a building material", ["cement"]),
    ("cement: a building material", ["cement"]), ("The answer is cement.", ["cement"]),
    ("Answer: **cement**", ["cement"]), ("1. cement", ["cement"]),
    ('I would say "cement."', ["cement"]), ("my snake_case_name", []),
    ("Here is what I can do for you:", []), ("Note: I am a language model.", [])])
def test_lists_that_are_cut_off_or_explained(answer, words):
    """Catches: keys of JSON as words, and a cut-off string as a word."""
    assert words_in(answer) == words


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z]{1,30}", fullmatch=True))
def test_a_bare_word_is_always_the_answer(word):
    """Catches: a word such as "answer" or "sure" that is taken for a heading or a greeting."""
    assert answer_word(word) == word.lower()
    assert words_in(word) == words_in(f'["{word}"]') == [word.lower()]


# -------------------------------------------------------------------------------------- molecules

@pytest.mark.parametrize("answer, smiles", [
    ("CCO (ethanol)", "CCO"), ("CCO - ethanol", "CCO"), ("CCO: ethanol", "CCO"),
    ("CCO is a small alcohol", "CCO"), ("SMILES: CCO", "CCO"), ("SMILES string: CCO", "CCO"),
    ("**SMILES:** `CCO`", "CCO"), ("SMILES = CCO (ethanol)", "CCO"), ("(SMILES: CCO)", "CCO"),
    ("Name: ethanol\nSMILES: CCO\nIt crosses the BBB.", "CCO"), ("Answer: CCO", "CCO"),
    ("CCO\n\nThis molecule is ethanol.", "CCO"), ("`CCO`", "CCO"), ("1. CCO", "CCO"),
    ("CCO\n\nIt is better than methane, if you ask what I", "CCO"),
    ("CCO\n\nIt acts on the CNS", "CCO"), ("CCO\n\nToxic: NO", "CCO"), ("CCO\nI\nNO", "CCO"),
    ("```smiles\nCCO\n```\nThis is what I", "CCO"), ("```\nCCO\n```\nas good as `CCN`", "CCO"),
    ("```\nCCO (ethanol)\n```", "CCO"), ("```\nSMILES: CCO\n```", "CCO"), ("```CCO```", "CCO"),
    ("```smiles\nCCO", "CCO"), ("Here it is:\n```json\n{\"smiles\": \"CCO\"}\n```", "CCO"),
    ('["CCN", "CCO"]', "CCO"), ('["CCN", "CCO", "CC', "CCO"), ('Sure: ["CCN", "CCO"]', "CCO"),
    ('{"smiles": "CCO", "toxic": "NO"}', "CCO"), ('["CCO (ethanol)"]', "CCO"),
    ("**Note**: I propose CCO", "CCO"), ("The molecule (CCO).", "CCO"), ("\\boxed{CCO}", "CCO"),
    ("I suggest CC(=O)N as it is small", "CC(N)=O"), ("A derivative of CCN:\n\nCCO", "CCO"),
    # short molecules count if they are the whole answer or stand where a molecule is named
    ("C", "C"), ("NO", "NO"), ("C#N", "C#N"), ("SMILES: CO", "CO"), ('["CO"]', "CO"),
    ("```\nCO\n```", "CO"),
    # words that read as molecules
    ("This is what I", None), ("I", "I"), ("Can I help? NO", None), ("I am ON IF", None),
    ("Molecule: I do not know", None), ("It must not cross the BBB.", None), ("", None),
    ('My answer is "NO".', None), ("No, it acts on the CNS.", None),
    # what is named as the answer and is broken is not replaced by another string
    ("```\nC1CC\n```\nIt is like CCO", None), ("SMILES: C1CC, which is like `CCO`", None)])
def test_molecules_are_read_from_what_real_models_write(answer, smiles):
    """Catches: names and explanations that hide a molecule, and English words read as one."""
    assert Molecule().parse(answer) == ([smiles] if smiles else [])


# --------------------------------------------------------------------------------------- programs

@pytest.mark.parametrize("answer, program", [
    (f"Sure.\n```python\n{ROTATE}\n```\nThat is it.", ROTATE), (f"```\n{ROTATE}\n```", ROTATE),
    (ROTATE, ROTATE), (f"I think:\n{ROTATE}", ROTATE),
    (f"```python\nx = 1\n```\n```py\n{ROTATE}   \n```", ROTATE),
    (f"<think>```python\ndef transform(g): return 1\n```</think>{ROTATE}", ROTATE),
    (f"```python\n{ROTATE}", ROTATE), ("no program", None), ("```python\nprint(1)\n```", None),
    ("", None), ("<think>" + ROTATE, None)])
def test_programs_are_read_from_what_models_write(answer, program):
    """Catches: prose or thoughts in a program, and programs without the function."""
    assert program_in(answer) == program
    assert Arc().parse(answer) == ([program] if program else [])


@pytest.mark.parametrize("answer", [
    f"maybe ```python\ndef transform(g): return 1\n```\n</think>\n```python\n{ROTATE}\n```",
    f"```Python\n{ROTATE}\n```", f"```py \n{ROTATE}\n```", f"```python3\r\n{ROTATE}\n```",
    f"```PYTHON\n{ROTATE}\n```\nFor example:\n```python\nprint(transform([[1]]))\n```",
    f"```python\ndef transform(g): return g\n```\nBetter:\n```python\n{ROTATE}\n```",
    f"```python\n{ROTATE}\n```\nA part:\n```python\ndef transform_row(r):\n    return r\n```",
    "1. The code:\n   ```python\n   " + ROTATE.replace("\n", "\n   ") + "\n   ```",
    f"{ROTATE}\n```\nThat is it.", f"{ROTATE}\n\nThis function turns the grid.\n\n- It is short.",
    f"{ROTATE}\n\n**Explanation**\nTwo quarter turns are a half."])
def test_the_last_program_of_a_chat_is_read(answer):
    """Catches: languages in capitals, a helper or an example taken for the program, and prose
    behind a program without a fence."""
    assert program_in(answer) == ROTATE


def test_no_line_of_a_program_is_taken_for_prose():
    """Catches: a parser that cuts a program, here its last lines."""
    program = ('def transform(grid):\n    """Turn it.\n\nBy half, as in\nThe rule of it.\n"""\n'
               "    return grid\n\nGRID = 3\nassert GRID")
    assert program_in(program) == program


# ---------------------------------------------------------------------------------- hostile texts

PIECES = ['"', "*", "`", "```", "\n", "[", "{", "]", "}", '["', '["a",', '{"a": ', "1,", "1. ",
          "- ",
          "<think>", "</think>", "answer is ", "answer: ", 'word is "', "I'd go with ", "a", "a ",
          "cement", "C", "CCO ", "C1(", "smiles: ", "def transform", "# ", "\\boxed{", " ", "\t",
          "\x00", "\u0130", "\u212a", "\u2028", "\ud800"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 3000)), max_size=8)
       | st.lists(st.tuples(st.text(max_size=20), st.just(1)), max_size=8))
def test_no_text_makes_a_parser_raise_or_propose_what_it_must_not(parts):
    """Catches: an answer that stops a search."""
    text = "".join(piece * times for piece, times in parts)
    words = words_in(text)
    word = answer_word(text)
    strings = smiles_in(text)
    program = program_in(text)
    assert all(re.fullmatch("[a-z]+", word) for word in words) and len(set(words)) == len(words)
    assert word is None or re.fullmatch("[a-z]+", word)
    assert len(strings) <= answers.MAX_STRINGS
    assert not any(re.search(r"\s", string) for string in strings)
    assert program is None or "def transform" in program


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("piece", ["", "</think>"])
def test_a_long_text_is_cut(parser, piece):
    """Catches: a parser that reads all of a completion, however long. The end is kept."""
    end = {smiles_in: "\nSMILES: CCO", program_in: "\n" + ROTATE}.get(parser, "\nAnswer: cement")
    fill = "z z " * answers.MAX_LENGTH
    start = {smiles_in: "SMILES: CCN\n", program_in: f"```\n{ROTATE}\n```"}.get(parser, "stone\n")
    assert parser(piece + fill + end) == parser(end) and parser(end)
    assert not parser(piece + start + fill)


def repetitions(parsed, outer: int = 1):
    """The upper limits of the repetitions in a regular expression, each times those around it."""
    for operator, argument in parsed:
        limit = outer
        if str(operator).endswith("REPEAT"):
            limit = outer * int(argument[1])
            yield limit
        waiting = [argument]
        while waiting:
            item = waiting.pop()
            if isinstance(item, re._parser.SubPattern):
                yield from repetitions(item, limit)
            elif isinstance(item, list | tuple):
                waiting.extend(item)


def test_no_regular_expression_repeats_without_a_limit():
    """Catches: a search that takes the square of the length of a text, or more. With a limit to
    every repetition a search takes at most a constant number of steps for each character."""
    patterns = {name: value for name, value in vars(answers).items()
                if isinstance(value, re.Pattern) and name != "WORD"}     # WORD: fullmatch only
    assert len(patterns) > 15
    for name, pattern in patterns.items():
        limits = list(repetitions(re._parser.parse(pattern.pattern, pattern.flags)))
        assert max(limits, default=1) <= 300, name
    assert max(repetitions(re._parser.parse("a(?:b{0,20}c+)?"))) > 10**6       # the test sees them


def test_json_is_read_in_one_pass():
    """Catches: a list that is copied for each of its items, and a text of brackets that is read
    from each of them. Counts the calls of the JSON decoder and the steps through its values."""
    decoder, calls = answers.json.JSONDecoder, []

    class Counting(decoder):
        def raw_decode(self, text, start=0):
            calls.append(len(text) - start)
            return super().raw_decode(text, start)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers.json, "JSONDecoder", Counting)
        for text in ("[" * 10**5, "{" * 10**5, '["a' * 10**4, "[1]" * 10**5):
            calls.clear()
            words_in(text)
            assert sum(calls) <= answers.MAX_JSON * answers.MAX_LENGTH
    nested = "a"
    for _ in range(50_000):
        nested = [nested]
    assert answers.strings_within([nested, *["b"] * 10**5], ()) == ["a", *["b"] * 10**5]
