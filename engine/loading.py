"""Loads a language model from the Hub or from a folder, in 4 bit where asked for."""
from __future__ import annotations

import importlib.util
import logging
import math
import re
import warnings
from pathlib import Path

import torch

from engine.chat import special_end
from engine.gguf import local_model, public_name
from engine.lora import of_bitsandbytes, without_weights
from runlog.errors import UserError, explain_loading, is_out_of_memory, one_line

LARGE = 50_000_000      # parameters: below, bf16 gains nothing on a CPU (docs/models-and-gpu.md)
FOUR_BIT = 1_000_000_000        # parameters: below, 4 bits save no memory that is needed


def load_model(source: str, quantize: str = "auto", dtype: str = "auto"):
    """A causal language model and its tokenizer.

    source: a folder, a name on the Hub, a GGUF file or "smollm2" (engine/gguf.py). quantize: "4bit"
    (NF4, double quantisation), "none" or "auto". dtype: "bf16", "fp32" or "auto". The model's
    weights_format says what "auto" became. Raises UserError for a model that cannot be found or
    loaded.
    """
    quiet_libraries()
    import transformers
    cuda = has_gpu()
    quantize, dtype = weights_format(source, quantize, dtype, cuda)
    chosen = {"quantize": quantize, "dtype": dtype}
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    options = {"dtype": dtype, "trust_remote_code": False}
    if cuda:
        options["device_map"] = "auto"
    if quantize == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UserError("4-bit weights need bitsandbytes: pip install bitsandbytes, or use "
                            "--quantize none")
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype)
    folder = local_model(source)
    tokenizer = load_tokenizer(folder, source)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    except Exception as error:      # a stranger's files can make transformers raise anything
        if is_out_of_memory(error):
            raise UserError(f"{source} does not fit into memory: choose a smaller model, or "
                            "--quantize 4bit") from error
        raise UserError(explain_loading(source, error)) from error
    devices = {model.device.type, *map(str, getattr(model, "hf_device_map", {}).values())}
    if cuda and {"cpu", "disk"} & devices:
        raise UserError(f"{source} does not fit into the memory of the GPU: choose a smaller "
                        "model, or --quantize 4bit")
    model.name_or_path = public_name(source) or model.name_or_path      # peft writes it down
    model.weights_format = chosen
    return model, tokenizer


def has_gpu() -> bool:
    """Whether there is a GPU that this build of torch has code for: it has none for old ones."""
    if not torch.cuda.is_available():
        return False
    built = [int(re.sub(r"\D", "", name)) for name in torch.cuda.get_arch_list()]
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor >= min(built, default=0)


def weights_format(source: str, quantize: str, dtype: str, cuda: bool) -> tuple[str, str]:
    """(quantize, dtype) with "auto" decided: on CUDA 4 bits from FOUR_BIT parameters on; bf16 from
    LARGE on, on CUDA and where the CPU has instructions for it. Smaller models gain nothing by
    either, and lose exactness. Raises UserError if the model cannot be found."""
    fast = cuda or (quantize != "4bit" and torch.cpu.get_capabilities().get("avx512_bf16"))
    size = 0
    if fast and (dtype == "auto" or (cuda and quantize == "auto")):
        model = without_weights(source)
        size = model.num_parameters() if model else math.inf
    if quantize == "auto":
        quantize = "4bit" if cuda and size >= FOUR_BIT else "none"
    if dtype == "auto":
        dtype = "bf16" if fast and size >= LARGE else "fp32"
    return quantize, dtype


def load_tokenizer(folder: str, source: str):
    """The tokenizer of a model. Raises UserError."""
    import transformers
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:      # tokenizers raises plain Exceptions, for a stranger's files
        if (Path(folder) / "config.json").exists():
            raise UserError(f"the tokenizer of {source} cannot be read: "
                            f"{one_line(error)}") from error
        raise UserError(explain_loading(source, error)) from error


def output_in_fp32(model) -> None:
    """Computes the logits in fp32 where the model has 16 bit: rounded to 16 bit they differ between
    sampling and scoring, and the ratio of an update would be noise. The output layer's weights take
    twice the memory then, and are no longer those of the input layer where a model has tied them.
    """
    head = model.get_output_embeddings()
    if head.weight.dtype == torch.float32:
        return
    for name, p in list(head.named_parameters(recurse=False)):
        setattr(head, name, torch.nn.Parameter(p.data.float(), requires_grad=False))
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def freeze(model) -> None:
    """No gradient for the base weights, logits in fp32, and nothing random: no dropout, no dropped
    layer, no noise in a router.

    Evaluation mode switches all of it off, wherever a family keeps its rates. The layers of
    bitsandbytes alone stay in train mode: in evaluation mode its CPU kernels repack 4-bit weights
    at the first forward pass, and after that no gradient reaches the LoRA weights.
    """
    model.eval()
    output_in_fp32(model)
    for module in model.modules():
        if of_bitsandbytes(module):
            module.train()
    for p in model.parameters():
        p.requires_grad_(False)


def exact_sampling(model, tokenizer, source: str, config):
    """The generation settings under which sampling is exactly softmax(logits / temperature).

    Anything else would bias the ratio. transformers fills what is None from the model's own
    defaults (Qwen ships top-k, top-p and a repetition penalty), so everything is set here, and the
    model's own defaults are replaced. source: the model's name, for messages. config: has
    temperature and max_new_tokens.
    """
    import transformers
    # What ends a completion: the model's own list (Llama 3 has three), the tokenizer's, and what
    # the chat template writes. In some models these do not agree, and an answer would not end.
    eos = model.generation_config.eos_token_id
    eos_ids = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id,
               special_end(tokenizer)} - {None}
    if not eos_ids:
        raise UserError(f"{source} defines no end-of-sequence token: a completion would never end")
    pad = tokenizer.pad_token_id        # some tokenizers have one that the model has no vector for
    if pad is None or pad >= getattr(model.get_input_embeddings(), "num_embeddings", math.inf):
        pad = min(eos_ids)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=config.temperature, top_k=0, top_p=1.0, typical_p=1.0,
        repetition_penalty=1.0, no_repeat_ngram_size=0, num_beams=1, use_cache=True,
        max_new_tokens=config.max_new_tokens, eos_token_id=sorted(eos_ids), pad_token_id=pad)
    return model.generation_config


def quiet_libraries() -> None:
    """Silences what these libraries print at import: it would break the progress bar."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)    # its import sets the level
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
