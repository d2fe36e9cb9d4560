"""Makes tiny/arc: a small Llama that writes programs for pairs of grids.

    python -m tiny.pretrain_arc --batch 3072 --lr 3e-3 --minutes 186

It learns from synthetic tasks (arc_programs.py), never from ARC's own. A token is two cells of a
row or a fragment of a program. An example is a prompt of tasks.Arc and an answer:

    prompt()                    ->  the program that made the pairs of grids
    variation_prompt([parent])  ->  the same program; the parent is it with an operation left out,
                                    replaced, added, or changed a little

The outputs of the pairs are learned, too, with a small weight: what the rule makes of a grid.

Letters in shape comments: B examples, L tokens of an example.
"""
from __future__ import annotations

import collections
import functools
import itertools
import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models

import tasks
from domains.grids import COLORS
from tiny import arc_programs
from tiny.arc_grids import random_look
from tiny.trainer import (
    ASSISTANT,
    END,
    PAD,
    UNKNOWN,
    USER,
    chat_ids,
    fast_tokenizer,
    flags,
    save,
    small_llama,
    steps_done,
    train,
)

# What this policy reads of a prompt: the pairs, and of the programs the last. It sees no test
# input and no sentence.
ARC_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<user>"
    "{% for pair in m['content'].split('\n\nTest input:')[0].split('\nInput:')[1:] %}"
    "{{ '\nInput:' + pair.split('\n\n')[0] }}{% endfor %}"
    "{% if '```python\n' in m['content'] %}"
    "<parent>{{ m['content'].split('```python\n')[-1].split('\n```')[0] }}{% endif %}"
    "{% else %}<assistant>{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}")
PARENT = "<parent>"
INPUT, OUTPUT = "\nInput:", "\nOutput:"
# Most tokens of the pairs in training, and how often. Short ones teach more in the same time.
LONGEST = {120: 0.35, 220: 0.3, 440: 0.2, 900: 0.15}
PARENTS = 4             # neighbour examples a task
PASSES = 2              # how often a task is shown: its pairs in another order, with other parents
OUTPUT_WEIGHT = 0.3     # of the loss on the outputs of the pairs


def arc_tokenizer():
    """A token for two cells, or one, of a row, and for each fragment of a program. The line break
    before a row is part of the row's first token. Any other text is unknown."""
    two_cells = [f"{a} {b}" for a in COLORS for b in COLORS]
    cells = [start + words for start in ("\n", " ") for words in (*two_cells, *COLORS)]
    special = [PAD, END, UNKNOWN, USER, ASSISTANT, PARENT]
    tokens = [*special, INPUT, OUTPUT, *cells, *arc_programs.all_fragments()]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)},
                                           unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    # Of added tokens the longest match wins.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens[len(special):]])
    return fast_tokenizer(tokenizer, ARC_TEMPLATE, (USER, ASSISTANT, PARENT))


def shard_file(folder: Path, seed: int, number: int) -> Path:
    """The file of one shard of synthetic tasks; made if it is not there."""
    path = folder / f"{number:04d}.jsonl"
    if not path.exists():
        lines = [json.dumps(task) + "\n" for task in arc_programs.shard(seed, number)]
        path.with_suffix(".new").write_text("".join(lines))
        os.replace(path.with_suffix(".new"), path)
    return path


def made_ahead(pool, make, n_ahead: int = 4):
    """make(0), make(1), .., for ever: the next few are made while one is used."""
    pending = collections.deque()
    for number in itertools.count():
        pending.append(pool.apply_async(make, (number,)))
        if len(pending) > n_ahead:
            yield pending.popleft().get()


class ArcExamples:
    """Draws batches of tasks. The pairs of a task are followed by several answers, which see the
    pairs but not each other:

        pairs | <assistant> program <eos> | <parent> worse program <assistant> program <eos> | ..

    so that the pairs, by far the longest part, are encoded once.
    """

    def __init__(self, tokenizer, seed: int):
        self.seed = seed
        self.id = dict(tokenizer.get_vocab())
        self.row = {}           # (line break or space, first cell, second cell or "") -> token id
        for start, a, b in itertools.product("\n ", "0123456789", ("", *"0123456789")):
            second = " " + COLORS[int(b)] if b else ""
            self.row[start, a, b] = self.id[start + COLORS[int(a)] + second]

    def grid(self, digits: str) -> list[int]:
        """Rows of digits -> the token ids of the same rows in words of colours."""
        ids = []
        for row in digits.split("/"):
            for j in range(0, len(row), 2):
                ids.append(self.row["\n" if j == 0 else " ", row[j], row[j + 1:j + 2]])
        return ids

    def pair(self, a: str, b: str) -> list[int]:
        return [self.id[INPUT], *self.grid(a), self.id[OUTPUT], *self.grid(b)]

    def pairs(self, pairs: list, rng: np.random.Generator) -> list[int] | None:
        """Two or three pairs in any order. As in tasks.Arc the largest are left out where they are
        too long; None if too few are left."""
        pairs = [self.pair(*pairs[i]) for i in rng.permutation(len(pairs))[:rng.choice([2, 3, 3])]]
        longest = rng.choice(list(LONGEST), p=list(LONGEST.values()))
        while sum(map(len, pairs)) > longest:
            pairs.remove(max(pairs, key=len))
        fewest = 1 if longest == max(LONGEST) else 2
        if len(pairs) < fewest:
            return None
        return [self.id[USER], *itertools.chain(*pairs)]

    def output_labels(self, ids: list[int]) -> list[int]:
        """The next token for every token of the pairs after which a row of an output comes, else
        -100."""
        labels, in_output = [], False
        for token, following in zip(ids, [*ids[1:], self.id[INPUT]]):
            in_output = (in_output or token == self.id[OUTPUT]) and following != self.id[INPUT]
            labels.append(following if in_output else -100)
        return labels

    def program(self, steps) -> list[int]:
        return [self.id[fragment] for fragment in arc_programs.fragments(steps)]

    def parent(self, steps: list, rng: np.random.Generator) -> list:
        """A worse program: an operation is missing (most often, where there are two or more), is
        like the right one, is another one, or is one too many."""
        i, draw = rng.integers(len(steps)), rng.random()
        before, step, after = steps[:i], steps[i], steps[i + 1:]
        if draw < 0.4 and len(steps) > 1:
            return before + after
        if draw < 0.65:
            return before + [arc_programs.nearby(rng, step)] + after
        any_step = arc_programs.random_step(rng, arc_programs.random_name(rng), random_look(rng))
        if draw < 0.85 and any_step != step:
            return before + [any_step] + after
        i += rng.integers(2)
        return steps[:i] + [any_step] + steps[i:]

    def example(self, task: dict, rng: np.random.Generator):
        """(ids, segments, positions, labels), or None if the pairs are too long.

        segments: 0 for the pairs and 1, 2, .. for the answers. The label of a token is the next
        token where that belongs to a program or to an output of the pairs, else -100.
        """
        ids = self.pairs(task["pairs"], rng)
        if ids is None:
            return None
        steps = [(name, tuple(colours)) for name, colours in task["steps"]]
        answer = [self.id[ASSISTANT], *self.program(steps), self.id[END]]
        start = len(ids)
        segments, positions, labels = [0] * start, list(range(start)), self.output_labels(ids)
        for k in range(1 + PARENTS):
            shown = []
            if k > 0:
                shown = [self.id[PARENT], *self.program(self.parent(steps, rng))]
            ids = ids + shown + answer
            n = len(shown) + len(answer)
            segments += [k + 1] * n
            positions += range(start, start + n)
            labels += [-100] * len(shown) + answer[1:] + [-100]
        return ids, segments, positions, labels

    def batches(self, paths, tokens: int):
        """Batches of about `tokens` tokens, made of examples of similar length, for ever new
        tasks."""
        twice = (path for path in paths for _ in range(PASSES))
        for number, path in enumerate(twice):
            rng = np.random.default_rng([self.seed, number])
            examples = [self.example(json.loads(line), rng) for line in path.open()]
            examples = sorted((e for e in examples if e), key=lambda e: len(e[0]))
            batches = []
            while examples:
                size = max(1, tokens // len(examples[-1][0]))
                batches.append(examples[-size:])
                del examples[-size:]
            for i in rng.permutation(len(batches)):
                yield self.tensors(batches[i])

    def tensors(self, batch: list):
        """ids, segments, positions, labels (B, L) and the mask (B, 1, L, L) of what each token
        sees: 0 or minus infinity."""
        longest = max(len(example[0]) for example in batch)
        padded = []
        for part, fill in enumerate((0, -1, 0, -100)):
            rows = [example[part] + [fill] * (longest - len(example[part])) for example in batch]
            padded.append(torch.tensor(rows))
        segments = padded[1]
        sees = (segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None])
        sees = (sees & torch.ones(longest, longest, dtype=torch.bool).tril())[:, None]
        return *padded, torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))


def arc_model(tokenizer, dim: int, seed: int):
    """Two cells of a row start as the sum of one vector for each, so that what they have in common
    is there from the first step."""
    torch.manual_seed(seed)
    model = small_llama(
        tokenizer, hidden_size=dim, intermediate_size=3 * dim, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
        max_position_embeddings=1024)
    new_row, left, right = (0.02 * torch.randn(shape) for shape in ((dim,), (10, dim), (10, dim)))
    with torch.no_grad():
        for token, i in tokenizer.get_vocab().items():
            words = token.split()
            if not words or any(word not in COLORS for word in words):
                continue
            vector = left[COLORS.index(words[0])]
            if len(words) == 2:
                vector = vector + right[COLORS.index(words[1])]
            if token[0] == "\n":
                vector = vector + new_row
            model.model.embed_tokens.weight[i] = vector
    return model


def check_prompts(tokenizer, examples: ArcExamples) -> None:
    """What the policy is trained on is what the task will show it: the same ids for its prompts."""
    task = tasks.Arc()
    user, parent, assistant = (examples.id[token] for token in (USER, PARENT, ASSISTANT))
    pairs = []
    for pair in task.train:
        a, b = ("/".join("".join(map(str, row)) for row in grid) for grid in pair)
        pairs += examples.pair(a, b)
    steps = arc_programs.all_steps()[:3]
    program = examples.program(steps)
    assert chat_ids(tokenizer, task.prompt()) == [user, *pairs, assistant]
    assert chat_ids(tokenizer, task.variation_prompt([arc_programs.text(steps)])) == [
        user, *pairs, parent, *program, assistant]
    assert tokenizer.decode(program) == arc_programs.text(steps)


def main(argv: list[str]) -> None:
    parser = flags(__doc__, "arc")
    parser.add_argument("--data", type=Path, help="where tasks are kept (default: OUT/tasks)")
    parser.add_argument("--batch", type=int, default=8192, help="tokens (default: 8192)")
    args = parser.parse_args(argv)
    folder = args.data or args.out / "tasks"
    tokenizer = arc_tokenizer()
    examples = ArcExamples(tokenizer, args.seed)
    model = arc_model(tokenizer, args.dim, args.seed)
    check_prompts(tokenizer, examples)
    print(f"{len(arc_programs.OPERATIONS)} operations, {len(tokenizer)} tokens, "
          f"{model.num_parameters():,} parameters")
    named = [(p, p.ndim == 2 and "layers" in name) for name, p in model.named_parameters()]
    matrices = [p for p, is_matrix in named if is_matrix]
    others = [p for p, is_matrix in named if not is_matrix]
    optimizers = [torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01)]

    # Compiled, a step takes half the time. The first steps take two minutes longer.
    body = torch.compile(model.model, dynamic=True)

    def losses(generator):
        ids, segments, positions, labels, mask = next(batches)
        states = body(input_ids=ids, position_ids=positions,
                      attention_mask=mask.to(torch.bfloat16)).last_hidden_state
        counted = labels >= 0
        logits = model.lm_head(states[counted]).float()
        nll = F.cross_entropy(logits, labels[counted], reduction="none")
        segments = segments[counted]
        grids, task, neighbour = (nll[which].mean() for which in (
            segments == 0, segments == 1, segments > 1))
        loss = task + neighbour + OUTPUT_WEIGHT * grids
        return {"loss": loss, "task": task, "neighbour": neighbour, "grids": grids}

    folder.mkdir(parents=True, exist_ok=True)
    # One process of low priority makes the tasks, ahead of the training.
    with multiprocessing.Pool(1, os.nice, (10,)) as pool:
        paths = made_ahead(pool, functools.partial(shard_file, folder, args.seed))
        batches = itertools.islice(examples.batches(paths, args.batch), steps_done(args.out), None)
        train(model, losses, args, optimizers=optimizers)
        pool.terminate()
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
