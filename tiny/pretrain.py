"""Makes the bundled policies under tiny/: small Llama models that know the very prompts of one task each.

    python tiny/pretrain.py wordsearch --minutes 25        # needs WordNet 3.0 (Debian: wordnet-base)

Trains in bf16 on the CPU or on a GPU, writes a checkpoint every minute, carries on from it when started again,
and leaves a folder that `from_pretrained` loads and that could be pushed to the Hub as it is.

wordsearch: a closed vocabulary, one token a word, learned from WordNet alone, so that what the policy knows is
independent of the sentence encoder that scores its guesses. Each example is a prompt of tasks.WordSearch and,
as its label, a whole distribution over words (every relation of a word at once: far fewer examples are needed
than with one sampled word each):

    prompt(), nothing known                  ->  uniform over the vocabulary
    variation_prompt([parent])               ->  the words related to the parent
    variation_prompt([w_1, .., w_k])         ->  the hidden word that the w come closer and closer to, or one related

The loss is the cross-entropy at the completion's two tokens (the word, the end of sequence), nowhere else.
Prompts of one kind have one length, so a batch holds no padding at all.
"""
from __future__ import annotations

import argparse
import collections
import hashlib
import math
import os
import re
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import tasks  # noqa: E402

PAD, END, USER, ASSISTANT, UNKNOWN = "<pad>", "<eos>", "<user>", "<assistant>", "<unk>"
CHAT_TEMPLATE = ("{% for m in messages %}{{ '<user>' if m['role'] == 'user' else '<assistant>' }} {{ m['content'] }}"
                 "{{ '<eos>' if m['role'] == 'assistant' else '' }}{% endfor %}"
                 "{% if add_generation_prompt %}<assistant>{% endif %}")


# ------------------------------------------------------------------------------------------- WordNet

# How much a relation of WordNet counts in a word's distribution. Pointer symbols: see its manual page wninput(5).
RELATION_WEIGHT = {"@": 2.0, "~": 2.0, "@i": 1.0, "~i": 1.0, "%p": 2.0, "#p": 2.0, "%m": 1.0, "#m": 1.0, "%s": 1.5,
                   "#s": 1.5, "+": 2.0, "&": 2.0, "^": 1.0, "!": 1.0, "*": 1.0, ">": 1.0, "$": 1.0, "\\": 1.5, "<": 1.5,
                   "=": 1.0, ";c": 0.5, "-c": 0.5}
SYNONYM, CO_HYPONYM, MENTION = 3.0, 1.0, 1.0
STOP_WORDS = set("the of and for with that which from used into having its are was one are not has been being who "
                 "where when any such than other others more most some very all can may but also their his her they "
                 "this those these there out off over under between through during make made someone something".split())


def read_wordnet(folder: Path) -> tuple[list[str], dict[tuple[str, str], float], list[str]]:
    """WordNet's database files -> (vocabulary, {(word, word): weight}, the nouns worth hiding).

    The vocabulary: single lower-case words of three letters or more that WordNet's sense-tagged texts contain and its
    glosses use three times, or that the glosses use ten times; and the ten words of the published benchmark (three of
    them are no WordNet entry: they get the relations of the words that they are made of).
    """
    synsets, tagged, proper = {}, collections.Counter(), collections.defaultdict(list)
    for pos in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"index.{pos}").read_text().splitlines():
            if not line.startswith(" "):
                f = line.split()
                tagged[f[0], pos] = int(f[4 + int(f[3]) + 1])           # senses that occur in the tagged texts
        for line in (folder / f"data.{pos}").read_text().splitlines():
            if not line.startswith(" "):
                data, gloss = line.split(" | ", 1)
                f = data.split()
                n = int(f[3], 16)
                lemmas = [f[4 + 2 * i].split("(")[0] for i in range(n)]
                pointers = f[5 + 2 * n:]
                links = [(pointers[i], {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}[pointers[i + 2]],
                          pointers[i + 1], int(pointers[i + 3], 16)) for i in range(0, 4 * int(f[4 + 2 * n]), 4)]
                synsets[pos, f[0]] = (lemmas, links, re.findall(r"(?<![a-z'-])[a-z]{3,}(?![a-z'-])", gloss.lower()))
                for lemma in lemmas:
                    proper[lemma.lower()].append(lemma[0].isupper())

    mentions = collections.Counter(word for _, _, gloss in synsets.values() for word in gloss)
    single = {w for w in proper if re.fullmatch("[a-z]{3,}", w) and not all(proper[w])} - STOP_WORDS
    n_tagged = collections.Counter()
    for (word, _), n in tagged.items():
        n_tagged[word] += n
    vocabulary = sorted({w for w in single if mentions[w] >= (3 if n_tagged[w] else 10)} | set(tasks.PUBLISHED_WORDS))
    known = set(vocabulary)

    edges = collections.defaultdict(float)

    def relate(a, b, weight):
        for x in known.intersection(a):
            for y in known.intersection(b):
                if x != y:
                    edges[x, y] += weight / len(a) ** 0.5

    for lemmas, links, gloss in synsets.values():
        words = [w.lower() for w in lemmas]
        relate(words, words, SYNONYM)
        hyponyms = []
        for symbol, target_pos, offset, which in links:
            other = [w.lower() for w in synsets[target_pos, offset][0]]
            source, target = which >> 8, which & 255                    # 0: the whole synset, else one of its words
            relate(words[source - 1:source] if source else words, other[target - 1:target] if target else other,
                   RELATION_WEIGHT.get(symbol, 0.0))
            if symbol == "~":
                hyponyms.append(other)
        for a in hyponyms:
            for b in hyponyms:
                if a is not b:
                    relate(a, b, CO_HYPONYM / math.sqrt(len(hyponyms)))
        for word in set(gloss) & known:                                  # rare words of a gloss say most about it
            weight = MENTION * 2 / math.log2(2 + mentions[word])
            relate(words, [word], weight)
            relate([word], words, weight)
    made_of = {"airbase": ["air", "base"], "birthstone": ["birth", "stone"], "machetes": ["machete"]}
    for word, parts in made_of.items():
        for part in parts:
            for b, weight in [(e[1], w) for e, w in edges.items() if e[0] == part]:
                if b not in made_of:
                    edges[word, b] += weight / 2
                    edges[b, word] += weight / 2
            relate([word], [part], 2 * SYNONYM)
            relate([part], [word], 2 * SYNONYM)
    nouns = [w for w in vocabulary if tagged[w, "noun"] and len(w) >= 4 and w not in tasks.PUBLISHED_WORDS]
    return vocabulary, dict(edges), nouns


def split_targets(nouns: list[str]) -> dict[str, list[str]]:
    """Targets drawn by rule: in the order of the SHA-256 of the word, 60 held-out ones, then 60 to develop on."""
    ordered = sorted(nouns, key=lambda word: hashlib.sha256(word.encode()).hexdigest())
    return {"published": list(tasks.PUBLISHED_WORDS), "held-out": ordered[:60], "development": ordered[60:120]}


def neighbour_table(vocabulary, edges, k=96, hub_power=0.25):
    """The k strongest relations of each word: ids (V, k) and probabilities (V, k) float32, rows summing to 1.

    hub_power: a word related to everything ("animal") says little, so its weight is divided by degree ** hub_power.
    """
    index = {word: i for i, word in enumerate(vocabulary)}
    degree = collections.Counter()
    for (_, b), weight in edges.items():
        degree[b] += weight
    rows = collections.defaultdict(list)
    for (a, b), weight in edges.items():
        rows[index[a]].append((weight / degree[b] ** hub_power, index[b]))
    ids, probs = torch.zeros(len(vocabulary), k, dtype=torch.long), torch.zeros(len(vocabulary), k)
    for i, row in rows.items():
        row = sorted(row, reverse=True)[:k]
        ids[i, :len(row)] = torch.tensor([j for _, j in row])
        probs[i, :len(row)] = torch.tensor([weight for weight, _ in row])
    return ids, probs / probs.sum(1, keepdim=True).clamp_min(1e-9)


def graph_embedding(ids, probs, dim):
    """Spectral embedding of the relation graph: unit vectors (V, dim), near for words with the same neighbours."""
    n, k = ids.shape
    rows = torch.arange(n).repeat_interleave(k)
    walk = torch.sparse_coo_tensor(torch.stack([rows, ids.flatten()]), probs.flatten(), (n, n)).coalesce()
    both = (walk + walk.t()).coalesce()
    degree = torch.sparse.sum(both, 1).to_dense().clamp_min(1e-6)
    i, j = both.indices()
    both = torch.sparse_coo_tensor(both.indices(), both.values() / (degree[i] * degree[j]).sqrt(), (n, n))
    u, s, _ = torch.svd_lowrank(both, q=dim + 32, niter=6)
    return F.normalize(u[:, :dim] * s[:dim] ** 0.5, dim=1)


# ------------------------------------------------------------------------------- word-search examples

def word_tokenizer(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """One token a word: the vocabulary, the words of the prompts, and nothing else."""
    task = tasks.WordSearch()
    text = " ".join([task.prompt(), task.variation_prompt(["x"]), task.variation_prompt(["x", "x"])]).lower()
    extra = sorted(set(re.findall(r"[a-z]+|[^\sa-z]", text)) - set(vocabulary))
    tokens = [PAD, END, UNKNOWN, USER, ASSISTANT, *extra, *vocabulary]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                   additional_special_tokens=[USER, ASSISTANT], chat_template=CHAT_TEMPLATE,
                                   padding_side="left", model_max_length=512)


def chat_ids(tokenizer, prompt: str) -> list[int]:
    """The token ids of a prompt as migrate.py gives it to the policy."""
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                         return_dict=True)["input_ids"]


class WordExamples:
    """Draws batches of (prompt ids (B, P), label ids (B, K), label probabilities (B, K))."""

    def __init__(self, tokenizer, vocabulary, ids, probs, embedding):
        self.tokenizer, self.vocabulary, self.ids, self.probs = tokenizer, vocabulary, ids, probs
        self.embedding = embedding
        self.token = torch.tensor(tokenizer.convert_tokens_to_ids(vocabulary))
        self.related = torch.nonzero(probs.sum(1) > 0).flatten()        # words that have any relation
        self.task = tasks.WordSearch()

    def prompts(self, parents: torch.Tensor) -> torch.Tensor:
        """Word numbers (B, k) -> prompt token ids (B, P): one template, the parents put into its slots."""
        blank = self.task.variation_prompt([UNKNOWN] * parents.shape[1])
        template = torch.tensor(chat_ids(self.tokenizer, blank))
        prompts = template.repeat(len(parents), 1)
        prompts[:, template == self.tokenizer.unk_token_id] = self.token[parents]
        return prompts

    def around(self, words: torch.Tensor, generator, steps=(0.3, 0.4, 0.3), through=8, anywhere=64):
        """A distribution over what is near each word (B,): steps[0] of it on its relations, steps[1] on the relations
        of `through` of these, steps[2] on words drawn from anywhere. A narrow one would leave a search that varies
        good words with nothing new to propose, and training with nothing to choose from.

        Returns ids and probabilities, both (B, k + through * k + anywhere).
        """
        n, ids, probs = len(words), self.ids, self.probs
        over = torch.multinomial(probs[words], through, replacement=True, generator=generator)
        over = ids[words].gather(1, over)                               # (B, through)
        return (torch.cat([ids[words], ids[over].flatten(1),
                           torch.randint(len(ids), (n, anywhere), generator=generator)], 1),
                torch.cat([steps[0] * probs[words], steps[1] / through * probs[over].flatten(1),
                           torch.full((n, anywhere), steps[2] / anywhere)], 1))

    def batch(self, generator: torch.Generator, size: int):
        """Three kinds of prompt, one tensor each."""
        one = self.related[torch.randint(len(self.related), (size,), generator=generator)]
        yield self.prompts(one[:, None]), *self.around(one, generator)

        hidden = self.related[torch.randint(len(self.related), (size // 2,), generator=generator)]
        k = int(torch.randint(2, 11, (1,), generator=generator))
        closeness = self.embedding[hidden] @ self.embedding.T           # (B, V)
        # what a search has seen at some stage of it: guesses at random (sharp ~ 2) up to close ones (sharp ~ 20)
        sharp = 2 + 18 * torch.rand(len(hidden), 1, generator=generator)
        closeness[torch.arange(len(hidden)), hidden] = -1e9             # the hidden word itself is never among them
        seen = torch.multinomial(torch.softmax(sharp * closeness, 1), k, generator=generator)
        order = closeness.gather(1, seen).argsort(1)                    # worst to best
        labels, weights = self.around(hidden, generator)
        labels = torch.cat([hidden[:, None], labels], 1)
        weights = torch.cat([torch.full((len(hidden), 1), 0.3), 0.7 * weights], 1)
        yield self.prompts(seen.gather(1, order)), labels, weights

        anything = torch.randint(len(self.vocabulary), (1, 4096), generator=generator)
        prompt = torch.tensor([chat_ids(self.tokenizer, self.task.prompt())])
        yield prompt, anything, torch.full(anything.shape, 1 / anything.shape[1])


def word_loss(model, tokenizer, token, prompts, labels, weights):
    """Cross-entropy of the word after the prompt (against a distribution), and of the end after a sampled word.

    Returns both and, for shared_loss, what enters the last layer's down_proj at these two positions: (B, 2, I).
    """
    word = token[labels.gather(1, torch.multinomial(weights, 1))]       # (B, 1): any word of the label; EOS follows
    inner = []
    hook = model.model.layers[-1].mlp.down_proj.register_forward_pre_hook(lambda _, x: inner.append(x[0][:, -2:]))
    hidden = model.model(torch.cat([prompts, word], 1)).last_hidden_state
    hook.remove()
    of_word = F.log_softmax(model.lm_head(hidden[:, -2]).float(), dim=-1)
    of_word = -(weights * of_word.gather(1, token[labels])).sum(1).mean()
    # always the same token: a few rows are enough to learn it, and the logits are what costs
    of_end = -F.log_softmax(model.lm_head(hidden[:16, -1]).float(), dim=-1)[:, tokenizer.eos_token_id].mean()
    return of_word, of_end, inner[0].float()


def shared_loss(task_prompt, others):
    """Keeps the answers to all prompts in one place of the network: cosine distance between what enters the last
    down_proj at the task prompt and at any other prompt, and cosine (squared) between answering and ending.

    A large language model answers a prompt and its variation with much the same circuit, so what LoRA learns under one
    carries over to the other: MiGrATe lives on that. A model this small, left alone, learns two unrelated circuits
    (cosine -0.02, measured), and nothing carries over.
    """
    answer = task_prompt[:, 0]                                          # (1, I)
    apart = sum((1 - F.cosine_similarity(other[:, 0], answer)).mean() for other in others)
    mixed = sum(F.cosine_similarity(other[:, 1], answer).square().mean() for other in (*others, task_prompt))
    return apart + mixed


def pretrain_wordsearch(args) -> None:
    vocabulary, edges, _ = read_wordnet(args.data)
    ids, probs = neighbour_table(vocabulary, edges)
    print(f"{len(vocabulary)} words, {len(edges)} relations, {(probs > 0).sum() / len(ids):.0f} kept a word")
    torch.manual_seed(args.seed)
    embedding = graph_embedding(ids, probs, args.dim)
    tokenizer = word_tokenizer(vocabulary)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=args.dim, intermediate_size=2 * args.dim,
                         num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=512, tie_word_embeddings=True, attention_dropout=0.0,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = LlamaForCausalLM(config)
    examples = WordExamples(tokenizer, vocabulary, ids, probs, embedding)
    with torch.no_grad():
        # the size of a fresh embedding, the directions of the graph: relations are there from the first step
        model.model.embed_tokens.weight[examples.token] = embedding * 0.02 * args.dim ** 0.5 * 2

    def losses(generator):
        near, hidden, anything = [word_loss(model, tokenizer, examples.token, *batch)
                                  for batch in examples.batch(generator, args.batch)]
        shared = shared_loss(anything[2], [near[2], hidden[2]])
        ends = near[1] + hidden[1] + anything[1]
        return {"loss": near[0] + 0.5 * hidden[0] + 0.05 * anything[0] + 0.2 * ends + 0.2 * shared,
                "neighbour": near[0], "list": hidden[0], "anything": anything[0], "end": ends, "shared": shared}

    train(model, losses, args)
    save(model, tokenizer, args.out)


# ------------------------------------------------------------------------------------- shared: training

def train(model, losses, args) -> None:
    """AdamW with warm-up and linear decay over args.minutes of training time; resumes from args.out/checkpoint.pt.

    losses(generator) -> {"loss": what is minimised, others: what is shown}. The batch of step s derives from
    (seed, s), so a resumed run goes on with the batches that an uninterrupted one would have seen.
    """
    checkpoint = args.out / "checkpoint.pt"
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    total, last_saved, shown = args.minutes * 60, time.time(), {}
    with tqdm(total=round(total), initial=round(spent), unit="s", bar_format="{l_bar}{bar}| {n}/{total}s {postfix}",
              disable=None if sys.stderr.isatty() else False, mininterval=args.log_every) as bar:
        while spent < total:
            started = time.time()
            progress = spent / total
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1.0, (step + 1) / 100) * (1 - progress)
            with torch.autocast("cpu", torch.bfloat16):
                parts = losses(torch.Generator().manual_seed(args.seed * 1_000_003 + step))
            optimizer.zero_grad()
            parts["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            for name, value in parts.items():
                shown[name] = 0.98 * shown.get(name, value.item()) + 0.02 * value.item()
            step, spent = step + 1, spent + time.time() - started
            bar.set_postfix_str(f"step {step} " + " ".join(f"{k} {v:.3f}" for k, v in shown.items()), refresh=False)
            bar.update(min(round(spent), bar.total) - bar.n)
            if time.time() - last_saved > 60 or spent >= total:
                args.out.mkdir(parents=True, exist_ok=True)
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                            "spent": spent}, checkpoint.with_suffix(".new"))
                os.replace(checkpoint.with_suffix(".new"), checkpoint)
                last_saved = time.time()


def save(model, tokenizer, folder: Path) -> None:
    """A Hub model repo: config, bf16 safetensors, tokenizer with its chat template (the card is written by hand)."""
    model.generation_config.update(do_sample=True, eos_token_id=tokenizer.eos_token_id,
                                   pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["wordsearch"])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/wordnet"), help="folder of WordNet's files")
    parser.add_argument("--out", type=Path, help="default: tiny/TASK")
    parser.add_argument("--minutes", type=float, default=25, help="of training time")
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=1.0, help="seconds between two updates of the bar")
    args = parser.parse_args()
    args.out = args.out or HERE / args.task
    pretrain_wordsearch(args)


if __name__ == "__main__":
    main()
