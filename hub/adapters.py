"""LoRA adapters of finished searches: found on disk or on the Hub, and loaded into a new policy.

Files from the Hub are a stranger's. They are only read: weights are safetensors, settings are JSON,
and nothing in them is run.
"""
from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from runlog.errors import UserError, one_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST = 1e4               # of LoRA weights: trained ones are below 10
BASE_NAME = "base_model_name_or_path"       # PEFT's key for the base model in ADAPTER_CONFIG


def adapter_folder(source: str) -> Path:
    """The folder with the adapter of a run, of a folder in PEFT format or of a Hub repository.

    A repository is downloaded, or taken from the cache. Raises UserError if there is no adapter.
    """
    for folder in (Path(source) / "adapter", Path(source)):
        if (folder / ADAPTER_CONFIG).exists() and (folder / ADAPTER_WEIGHTS).exists():
            return folder
    if Path(source).is_dir():
        raise UserError(f"{source} holds no LoRA adapter: finish a run whose method trains "
                        "(migrate and grpo do)")
    try:
        config = download(source, ADAPTER_CONFIG)
        download(source, ADAPTER_WEIGHTS)
    except EntryNotFoundError as error:
        raise UserError(f"{source} on the Hub holds no LoRA adapter as safetensors") from error
    return config.parent


def download(repo: str, file: str) -> Path:
    """The local copy of a file on the Hub.

    Raises EntryNotFoundError if the repository has no such file, UserError for anything else.
    """
    try:
        return Path(hf_hub_download(repo, file))
    except (LocalEntryNotFoundError, HFValidationError, RepositoryNotFoundError,
            OfflineModeIsEnabled) as error:
        raise UserError(f"{repo} is neither a folder with an adapter nor a Hub repository that can "
                        "be reached (check the name, the network, HF_TOKEN)") from error
    except EntryNotFoundError:
        raise
    except HTTPError as error:
        raise UserError(f"{repo} cannot be read from the Hub just now "
                        f"({one_line(error)})") from error


def load_adapter(model, source: str) -> None:
    """Puts saved LoRA weights into a PEFT model that has fresh ones.

    source: whatever adapter_folder takes. Raises UserError unless the adapter was trained on the
    same base and has the same shape (rank, scale, modules).
    """
    import peft
    folder = adapter_folder(source)
    try:
        saved = json.loads((folder / ADAPTER_CONFIG).read_text())
        base, rank, alpha, targets = (saved[name] for name in (
            BASE_NAME, "r", "lora_alpha", "target_modules"))
        rank, alpha = int(rank), float(alpha)
        targets = targets if isinstance(targets, str) else ",".join(sorted(targets))
        weights = peft.load_peft_weights(str(folder), device="cpu")
        odd = [name for name, tensor in weights.items() if not is_usable(tensor)]
    except Exception as error:      # whatever is wrong with a stranger's files
        raise UserError(f"{source} holds no readable LoRA adapter: {one_line(error)}") from error
    if odd:
        raise UserError(f"{source} holds no usable LoRA adapter: {odd[0]} has values that are no "
                        f"numbers, or larger than {LARGEST:g}")
    config = model.peft_config["default"]
    own_base = config.base_model_name_or_path
    if Path(str(base or "?")).name != Path(own_base).name:
        raise UserError(f"the adapter {source} belongs to the base {base}, not to {own_base}: "
                        "choose the base with --model")
    fresh = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    same_scale = (alpha == config.lora_alpha and not saved.get("use_rslora")
                  and not saved.get("alpha_pattern"))
    if shapes(weights) != shapes(fresh) or not same_scale:
        raise UserError(f"the adapter {source} has another shape (--lora-r {rank} --lora-alpha "
                        f"{alpha:g} --lora-targets {targets}) than this search (--lora-r "
                        f"{config.r} --lora-alpha {config.lora_alpha}): give its settings")
    peft.set_peft_model_state_dict(model, weights)


def is_usable(tensor) -> bool:
    """Whether it holds numbers such as training leaves behind. NaN is not less than anything."""
    return bool(tensor.is_floating_point() and tensor.numel()
                and tensor.float().abs().max() < LARGEST)


def shapes(weights: dict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}
