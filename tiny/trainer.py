"""What the pre-training of all three bundled policies shares: tokenizer, model, training, saving.

Training runs in bf16 on the CPU and writes a checkpoint every minute. The same command, given
again, carries on from it. What is left is a folder that `from_pretrained` loads and that could be
pushed to the Hub as it is.
"""
from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent

PAD, END, USER, ASSISTANT, UNKNOWN = "<pad>", "<eos>", "<user>", "<assistant>", "<unk>"
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<user>' if m['role'] == 'user' else '<assistant>' }} {{ m['content'] }}"
    "{{ '<eos>' if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}")


def flags(description: str, folder: str) -> argparse.ArgumentParser:
    """The flags that all domains have. folder: the name of the policy's folder under tiny/."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / folder, help=f"default: tiny/{folder}")
    parser.add_argument("--minutes", type=float, default=25, help="of training time")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-every", type=float, default=1.0,
                        help="seconds between two updates of the bar")
    return parser


def fast_tokenizer(tokenizer: Tokenizer, template: str = CHAT_TEMPLATE,
                   special: tuple[str, ...] = (USER, ASSISTANT),
                   **options) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers has it, with a chat template and special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        additional_special_tokens=list(special), chat_template=template, padding_side="left",
        **options)


def chat_ids(tokenizer, prompt: str) -> list[int]:
    """The token ids of a prompt, as migrate.py gives it to the policy."""
    return tokenizer.apply_chat_template([{"role": "user", "content": prompt}],
                                         add_generation_prompt=True, return_dict=True)["input_ids"]


def small_llama(tokenizer, **shape) -> LlamaForCausalLM:
    """A Llama with fresh weights. shape: fields of LlamaConfig; its context has 512 tokens unless
    it says otherwise."""
    shape.setdefault("max_position_embeddings", 512)
    config = LlamaConfig(
        vocab_size=len(tokenizer), attention_dropout=0.0,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **shape)
    # For sequences this short its backward pass is faster than that of the fused kernel.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def train(model, losses, args, after_step=None, optimizers=None) -> None:
    """Trains for args.minutes: all optimizers at one rate, with warm-up and a linear decay to 0.

    losses(generator) -> {"loss": what is minimised, others: what is shown}. The generator of step
    s derives from (seed, s): a resumed run goes on with the batches that an uninterrupted one would
    have seen. after_step(): called after every step. optimizers: AdamW for everything by default.
    """
    if optimizers is None:
        optimizers = [torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98),
                                        weight_decay=0.01)]
    step, spent = load_checkpoint(args.out, model, optimizers)
    total, last_saved, shown = args.minutes * 60, time.time(), {}
    with progress_bar(total, spent, args.log_every) as bar:
        while spent < total:
            started = time.time()
            set_rate(optimizers, args.lr * min(1.0, (step + 1) / 100) * (1 - spent / total))
            generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
            parts = one_step(model, optimizers, losses, generator)
            if after_step:
                after_step()
            for name, value in parts.items():
                shown[name] = 0.98 * shown.get(name, value) + 0.02 * value
            step, spent = step + 1, spent + time.time() - started
            values = " ".join(f"{name} {value:.3f}" for name, value in shown.items())
            bar.set_postfix_str(f"step {step} {values}", refresh=False)
            bar.update(min(round(spent), bar.total) - bar.n)
            if time.time() - last_saved > 60 or spent >= total:
                save_checkpoint(args.out, model, optimizers, step, spent)
                last_saved = time.time()


def one_step(model, optimizers, losses, generator) -> dict[str, float]:
    """One step of all optimizers; returns the parts of the loss as numbers."""
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses(generator)
    model.zero_grad()
    parts["loss"].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return {name: value.item() for name, value in parts.items()}


def set_rate(optimizers, lr: float) -> None:
    for group in itertools.chain(*(optimizer.param_groups for optimizer in optimizers)):
        group["lr"] = lr


def progress_bar(total: float, spent: float, log_every: float) -> tqdm:
    return tqdm(total=round(total), initial=round(spent), unit="s",
                bar_format="{l_bar}{bar}| {n}/{total}s {postfix}",
                disable=None if sys.stderr.isatty() else False, mininterval=log_every)


def checkpoint_file(folder: Path) -> Path:
    return folder / "checkpoint.pt"


def steps_done(folder: Path) -> int:
    """The step of the last checkpoint; 0 without one."""
    path = checkpoint_file(folder)
    return torch.load(path)["step"] if path.exists() else 0


def load_checkpoint(folder: Path, model, optimizers) -> tuple[int, float]:
    """Puts model and optimizers back and returns (step, seconds of training so far)."""
    path = checkpoint_file(folder)
    if not path.exists():
        return 0, 0.0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"]):
        optimizer.load_state_dict(saved)
    return state["step"], state["spent"]


def save_checkpoint(folder: Path, model, optimizers, step: int, spent: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_file(folder)
    new = path.with_suffix(".new")
    torch.save({"model": model.state_dict(), "step": step, "spent": spent,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers]}, new)
    os.replace(new, path)


def save(model, tokenizer, folder: Path) -> None:
    """Writes a model repo of the Hub: config, bf16 safetensors, tokenizer with its chat template.
    The card is written by hand."""
    model.generation_config.update(do_sample=True, eos_token_id=tokenizer.eos_token_id,
                                   pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
