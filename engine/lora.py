"""LoRA weights: which layers have them."""
from __future__ import annotations

import contextlib
import re
import sys

import torch
from transformers.pytorch_utils import Conv1D

from engine.gguf import local_model
from runlog.errors import UserError, explain_loading, one_line

# What makes the queries and values, as the families call it. Some make the keys in the same layer.
# The last ones are state-space models, which have no queries.
QUERIES_AND_VALUES = [("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",),
                      ("Wqkv",), ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"), ("Wq", "Wv"),
                      ("in_proj", "x_proj"), ("in_proj",)]
# The kernels of these take the weights of some layers and do not call them: peft refuses one, and
# the other gets no gradient.
STATE_SPACE = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
MOST = 4096         # of a rank: a layer of a model of 8B has 4,096 inputs
NOT_CALLED = {"out_proj", "dt_proj"}


def default_targets(source: str) -> str:
    """--lora-targets where none were given: q_proj,v_proj, or what the model has in their place.

    source: as for load_model. Raises UserError if it cannot be found.
    """
    model = without_weights(source)
    if model is None:
        return ",".join(QUERIES_AND_VALUES[0])
    names = {leaf(name) for name in linear_layers(model)}
    fitting = [",".join(group) for group in QUERIES_AND_VALUES if names.issuperset(group)]
    return next(iter(fitting), "all-linear")


def without_weights(source: str):
    """A model laid out from its configuration; None if that fails: load_model will meet the same
    trouble, and explain it. source: as for load_model. Raises UserError if it cannot be found."""
    import transformers
    try:
        config = transformers.AutoConfig.from_pretrained(local_model(source),
                                                         trust_remote_code=False)
    except Exception as error:      # a stranger's file may hold anything
        raise UserError(explain_loading(source, error)) from error
    try:
        with torch.device("meta"):
            return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception:
        return None


@contextlib.contextmanager
def no_needless_bitsandbytes():
    """Keeps peft from importing bitsandbytes, which takes a fifth of the start of a search: it
    brings a compiler along. Where 4-bit weights were loaded it is there; then this does nothing."""
    name = "bitsandbytes"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None            # to import it fails, as if it were not there
    try:
        yield
    finally:
        del sys.modules[name]
        from peft import import_utils
        for answer in (import_utils.is_bnb_available, import_utils.is_bnb_4bit_available):
            answer.cache_clear()        # the next model may have 4-bit weights


@no_needless_bitsandbytes()
def add_lora(model, source: str, config):
    """The model with fresh LoRA weights, the only ones that are trained.

    config: has lora_r, lora_alpha and lora_targets. Raises UserError if the targets do not fit.
    """
    import peft
    targets = config.lora_targets
    if targets == "all-linear":
        targets = all_linear(model)
    else:
        targets = [target.strip() for target in targets.split(",")]
        check_targets(model, source, targets)
    if config.lora_r > MOST:
        raise UserError(f"--lora-r {config.lora_r} is more than {MOST}")
    lora = peft.LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, target_modules=targets,
                           task_type="CAUSAL_LM")
    try:
        return peft.get_peft_model(model, lora)
    except ValueError as error:
        raise UserError(f"--lora-targets {config.lora_targets} does not fit {source}: "
                        f"{one_line(error)}") from error


def check_targets(model, source: str, targets: list[str]) -> None:
    """Raises UserError for a name that no layer has, and for the output layer."""
    def called(target):
        return [m for name, m in model.named_modules() if f".{name}".endswith(f".{target}")]
    missing = [target for target in targets if not called(target)]
    if missing:
        names = dict.fromkeys(leaf(name) for name in linear_layers(model))
        raise UserError(f"--lora-targets {','.join(targets)} does not fit {source}, which has no "
                        f"layer {missing[0]!r}: choose from {', '.join(names)}, or all-linear")
    ends = model.get_input_embeddings(), model.get_output_embeddings()
    if any(layer in called(target) for target in targets for layer in ends):
        raise UserError("--lora-targets: the embeddings and the output layer stay as they are")


def all_linear(model) -> str | list[str]:
    """What all-linear stands for, for peft: this very word, or names of layers.

    In a mixture of experts it is the layers of the attention. peft would put LoRA weights on every
    expert, more than fit into memory, and on the router.
    """
    layers = linear_layers(model)
    if any("expert" in name for name, _ in model.named_modules()):
        of_attention = {name for name, layer in layers.items()
                        if re.search("att|mamba|mixer", name)
                        and not re.search("expert|router", name)
                        and (type(layer) in (torch.nn.Linear, Conv1D) or of_bitsandbytes(layer))}
        # peft knows names alone: one that layers elsewhere have, too, is left out
        names = {leaf(n) for n in of_attention} - {leaf(n) for n in layers.keys() - of_attention}
    elif model.config.model_type in STATE_SPACE:
        names = {leaf(name) for name in layers}
    else:
        return "all-linear"
    return sorted(names - NOT_CALLED if model.config.model_type in STATE_SPACE else names)


def linear_layers(model) -> dict:
    """{name: module} of the linear layers, but for the output layer."""
    head = model.get_output_embeddings()
    return {name: module for name, module in model.named_modules()
            if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head}


def of_bitsandbytes(module) -> bool:
    """Whether a layer holds 4-bit weights."""
    return type(module).__module__.startswith("bitsandbytes")


def leaf(name: str) -> str:
    """layers.0.mlp.up_proj -> up_proj"""
    return name.split(".")[-1]
