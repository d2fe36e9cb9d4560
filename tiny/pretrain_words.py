"""Makes tiny/wordsearch: a small Llama that knows the prompts of the word-search task.

    python -m tiny.pretrain_words --minutes 43 --batch 256      # needs WordNet 3.0 (wordnet.py)

A closed vocabulary, one token a word, learned from WordNet alone. What the policy knows is
therefore independent of the sentence encoder that scores its guesses. An example is a prompt of
tasks.WordSearch and, as its label, a distribution over words. A distribution holds every relation
of a word at once, so far fewer examples are needed than with one sampled word each:

    prompt()                           ->  uniform over the vocabulary
    variation_prompt([parent])         ->  the words related to the parent
    variation_prompt([w_1, .., w_k])   ->  the hidden word that the w come closer and closer to, or
                                           a word related to it

The loss is the cross-entropy at the completion's two tokens (the word, the end of sequence),
nowhere else. Prompts of one kind have one length, so a batch holds no padding.

Letters in shape comments: B examples, P prompt tokens, K labels, V words, D dimensions.
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import tasks
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
    train,
)
from tiny.wordnet import neighbour_table, read_wordnet

WORD_NORM = 2.0     # length of every word's vector
SUBJECTS = 16       # width of the MLPs; the last one writes to as many principal directions


def graph_embedding(ids, probs, dim, steps=3):
    """Embeds the graph of relations: unit vectors (V, D), near for words that short random walks
    join, and the principal directions of these vectors (D, D), most important first.

    ids, probs: a neighbour_table. Factors log max(1, mean over s <= steps of
    P(b, s steps from a) / P(b)), as DeepWalk does implicitly (Qiu et al. 2018, NetMF).
    """
    n, k = ids.shape
    rows = torch.arange(n).repeat_interleave(k)
    walk = torch.sparse_coo_tensor(torch.stack([rows, ids.flatten()]), probs.flatten(),
                                   (n, n)).coalesce()
    both = (walk + walk.t()).coalesce()
    degree = torch.sparse.sum(both, 1).to_dense().clamp_min(1e-6)
    i, _ = both.indices()
    walk = torch.sparse_coo_tensor(both.indices(), both.values() / degree[i], (n, n))
    reached, total = torch.eye(n), torch.zeros(n, n)
    for _ in range(steps):
        reached = walk @ reached
        total += reached / steps
    u, s, _ = torch.svd_lowrank((total * degree.sum() / degree).clamp_min(1).log(), q=dim + 32,
                                niter=4)
    vectors = F.normalize(u[:, :dim] * s[:dim] ** 0.5, dim=1)
    return vectors, torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2].T


# ---------------------------------------------------------------------------------------- examples

def word_tokenizer(vocabulary: list[str]):
    """One token a word: the vocabulary, the words of the prompts, and nothing else."""
    task = tasks.WordSearch()
    prompts = [task.prompt(), task.variation_prompt(["x"]), task.variation_prompt(["x", "x"])]
    in_prompts = set(re.findall(r"[a-z]+|[^\sa-z]", " ".join(prompts).lower()))
    tokens = [PAD, END, UNKNOWN, USER, ASSISTANT, *sorted(in_prompts - set(vocabulary)),
              *vocabulary]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)},
                                           unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast_tokenizer(tokenizer, model_max_length=512)


class WordExamples:
    """Draws batches of (prompt ids (B, P), label ids (B, K), label probabilities (B, K)).

    ids, probs: a neighbour_table of the vocabulary. embedding: unit vectors (V, D).
    """

    def __init__(self, tokenizer, vocabulary, ids, probs, embedding):
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.ids, self.probs, self.embedding = ids, probs, embedding
        self.token = torch.tensor(tokenizer.convert_tokens_to_ids(vocabulary))
        self.related = torch.nonzero(probs.sum(1) > 0).flatten()    # words that have any relation
        self.task = tasks.WordSearch()

    def prompts(self, parents: torch.Tensor) -> torch.Tensor:
        """Numbers of words (B, k) -> prompt token ids (B, P): the parents in the template's
        slots."""
        blank = self.task.variation_prompt([UNKNOWN] * parents.shape[1])
        template = torch.tensor(chat_ids(self.tokenizer, blank))
        prompts = template.repeat(len(parents), 1)
        prompts[:, template == self.tokenizer.unk_token_id] = self.token[parents]
        return prompts

    def around(self, words: torch.Tensor, generator, steps=(0.3, 0.5, 0.2), through=8,
               anywhere=64):
        """A distribution over what is near each word (B,): ids and probabilities,
        (B, k + through * k + anywhere) each.

        steps[0] of it lies on the word's relations, steps[1] on the relations of `through` of
        these, steps[2] on words drawn from anywhere. It is wide on purpose: after a narrow one, a
        search that varies good words has nothing new to propose.
        """
        n, ids, probs = len(words), self.ids, self.probs
        over = torch.multinomial(probs[words], through, replacement=True, generator=generator)
        over = ids[words].gather(1, over)                               # (B, through)
        drawn = torch.randint(len(ids), (n, anywhere), generator=generator)
        return (torch.cat([ids[words], ids[over].flatten(1), drawn], 1),
                torch.cat([steps[0] * probs[words], steps[1] / through * probs[over].flatten(1),
                           torch.full((n, anywhere), steps[2] / anywhere)], 1))

    def batch(self, generator: torch.Generator, size: int):
        """Three kinds of prompt, one tensor each: one parent, a list of words, nothing."""
        yield self.one_parent(generator, size)
        yield self.lists(generator, size // 2)
        yield self.nothing(generator)

    def draw_words(self, generator, n: int) -> torch.Tensor:
        return self.related[torch.randint(len(self.related), (n,), generator=generator)]

    def one_parent(self, generator, n: int):
        parents = self.draw_words(generator, n)
        return self.prompts(parents[:, None]), *self.around(parents, generator)

    def lists(self, generator, n: int):
        """Lists of two to ten words as a search may have found them on its way to a hidden word:
        guesses at random (sharpness near 2) up to close ones (near 20)."""
        hidden = self.draw_words(generator, n)
        k = int(torch.randint(2, 11, (1,), generator=generator))
        closeness = self.embedding[hidden] @ self.embedding.T           # (B, V)
        sharpness = 2 + 18 * torch.rand(n, 1, generator=generator)
        closeness[torch.arange(n), hidden] = -1e9       # the hidden word is never among them
        seen = torch.multinomial(torch.softmax(sharpness * closeness, 1), k, generator=generator)
        worst_to_best = closeness.gather(1, seen).argsort(1)
        labels, weights = self.around(hidden, generator)
        labels = torch.cat([hidden[:, None], labels], 1)
        weights = torch.cat([torch.full((n, 1), 0.3), 0.7 * weights], 1)
        return self.prompts(seen.gather(1, worst_to_best)), labels, weights

    def nothing(self, generator, n_labels: int = 4096):
        """The task prompt, with as many words from anywhere."""
        labels = torch.randint(len(self.vocabulary), (1, n_labels), generator=generator)
        prompt = torch.tensor([chat_ids(self.tokenizer, self.task.prompt())])
        return prompt, labels, torch.full(labels.shape, 1 / n_labels)


# ------------------------------------------------------------------------------------------ losses

def word_loss(model, tokenizer, token, prompts, labels, weights):
    """Cross-entropy of the word after the prompt (against a distribution), and of the end after a
    sampled word.

    token: the token id of each word (V,). Returns both and, for shared_loss, what enters the last
    MLP and the last norm at these two positions: (B, 2, D) each.
    """
    # The completion is some word of the label; the end of sequence has to follow it.
    word = token[labels.gather(1, torch.multinomial(weights, 1))]       # (B, 1)
    seen = []

    def remember(module, inputs):
        seen.append(inputs[0][:, -2:].float())

    hooks = [module.register_forward_pre_hook(remember)
             for module in (model.model.layers[-1].mlp, model.model.norm)]
    hidden = model.model(torch.cat([prompts, word], 1)).last_hidden_state
    for hook in hooks:
        hook.remove()
    log_probs = F.log_softmax(model.lm_head(hidden[:, -2]).float(), dim=-1)
    nll_word = -(weights * log_probs.gather(1, token[labels])).sum(1).mean()
    # The end is always the same token. A few rows are enough to learn it, and logits are costly.
    log_probs = F.log_softmax(model.lm_head(hidden[:16, -1]).float(), dim=-1)
    nll_end = -log_probs[:, tokenizer.eos_token_id].mean()
    return nll_word, nll_end, seen


def shared_loss(model, task_prompt, others, alike=0.5):
    """Makes the last MLP, where LoRA will sit, answer all prompts in the same way: similar input
    (cosine `alike`), the same gates, and an output of the same weight beside the rest of the
    network. task_prompt, others: what word_loss returns last.

    A large language model answers a prompt and its variation with much the same circuit, so what
    LoRA learns under one carries over to the other. MiGrATe depends on that. A model this small,
    left alone, learns two unrelated circuits (cosine -0.02, measured), and nothing carries over.
    """
    gates = model.model.layers[-1].mlp.gate_proj
    (x, residual), loss = task_prompt, 0.0
    for other, other_residual in others:
        loss += F.relu(alike - F.cosine_similarity(other[:, 0], x[:, 0])).mean()
        open_gates, opened = F.silu(gates(other[:, 0])), F.silu(gates(x[:, 0]))
        loss += (1 - F.cosine_similarity(open_gates, opened)).mean()
        ratio = other_residual[:, 0].norm(dim=1) / residual[:, 0].norm(dim=1)
        loss += ratio.log().square().mean()
    # The position of the end must look different: what is learned about words must not reach it.
    return loss + sum(F.cosine_similarity(end[:, 1], x[:, 0]).square().mean()
                      for end, _ in (*others, task_prompt))


# -------------------------------------------------------------------------------------------- main

def word_model(tokenizer, token, embedding, principal):
    """A Llama whose MLPs are as wide as the subjects that words are about, no wider.

    token: the token id of each word (V,). embedding, principal: from graph_embedding. The words
    start in the directions of the graph, so that relations are there from the first step.
    """
    dim = embedding.shape[1]
    model = small_llama(tokenizer, hidden_size=dim, intermediate_size=SUBJECTS, num_hidden_layers=3,
                        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)
    table, last = model.model.embed_tokens.weight, model.model.layers[-1].mlp
    with torch.no_grad():
        table[token] = WORD_NORM * embedding
        # One direction that all answers have in common: the last MLP sees it under every prompt,
        # and it opens the gates.
        answer = F.normalize(torch.randn(dim), dim=0)
        table[tokenizer.convert_tokens_to_ids(ASSISTANT)] = 4 * answer
        last.gate_proj.weight.copy_(2 / dim ** 0.5 * answer.repeat(SUBJECTS, 1))
        last.down_proj.weight.copy_(principal[:, :SUBJECTS])
    last.down_proj.weight.requires_grad_(False)
    return model


def main(argv: list[str]) -> None:
    parser = flags(__doc__, "wordsearch")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/wordnet"),
                        help="folder of WordNet's files (default: /usr/share/wordnet)")
    parser.add_argument("--batch", type=int, default=192, help="examples (default: 192)")
    args = parser.parse_args(argv)
    vocabulary, edges, _ = read_wordnet(args.data)
    ids, probs = neighbour_table(vocabulary, edges)
    print(f"{len(vocabulary)} words, {len(edges)} relations, "
          f"{(probs > 0).sum() / len(ids):.0f} kept a word")
    torch.manual_seed(args.seed)
    embedding, principal = graph_embedding(ids, probs, args.dim)
    tokenizer = word_tokenizer(vocabulary)
    examples = WordExamples(tokenizer, vocabulary, ids, probs, embedding)
    model = word_model(tokenizer, examples.token, embedding, principal)
    table = model.model.embed_tokens.weight

    def losses(generator):
        near, hidden, anything = [word_loss(model, tokenizer, examples.token, *batch)
                                  for batch in examples.batch(generator, args.batch)]
        shared = shared_loss(model, anything[2], [near[2], hidden[2]])
        ends = near[1] + hidden[1] + anything[1]
        loss = near[0] + 0.5 * hidden[0] + 0.05 * anything[0] + 0.2 * ends + 0.2 * shared
        return {"loss": loss, "neighbour": near[0], "list": hidden[0], "anything": anything[0],
                "end": ends, "shared": shared}

    @torch.no_grad()
    def equal_lengths():
        """No word is favoured for being a longer vector."""
        table[examples.token] = WORD_NORM * F.normalize(table[examples.token], dim=1)

    train(model, losses, args, equal_lengths)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main(sys.argv[1:])
