"""What a backward pass keeps in memory: counted, or moved to the CPU."""
from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef

CHUNK = 2**24       # elements of the logits that exist at a time: 64 MB in fp32, a few times over


def saved_tensors(model, pack, unpack):
    """torch.autograd.graph.saved_tensors_hooks for everything but the model's weights, which are
    there anyway."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def is_weight(x):
        return isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() in weights
    return torch.autograd.graph.saved_tensors_hooks(
        lambda x: x if is_weight(x) else pack(x), lambda x: x if is_weight(x) else unpack(x))


def to_cpu(x):
    packed = torch.empty(x.shape, dtype=x.dtype, pin_memory=x.is_cuda)
    return x.device, packed.copy_(x, non_blocking=x.is_cuda)


def from_cpu(packed):
    device, x = packed
    return x.to(device, non_blocking=True)


def activations(model, run) -> tuple[int, object]:
    """The bytes that run() keeps for its backward pass, and its result. They are counted, not
    kept."""
    seen, total = {}, 0

    def count(x):
        nonlocal total
        storage = x.untyped_storage()
        known = seen.get(storage.data_ptr())
        if known is None or known.expired():        # freed memory is used again
            seen[storage.data_ptr()] = StorageWeakRef(storage)
            total += storage.nbytes()
    with saved_tensors(model, count, lambda _: None):
        result = run()
    return total, result
