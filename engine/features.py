"""What a model makes of a text: its hidden states, as features for a surrogate."""
from __future__ import annotations

import torch

from engine.attention import inner_model

DEPTHS = (1 / 6, 1 / 3, 1 / 2)      # of the layers; later ones are about the next token
AT_ONCE = 2**15                     # tokens of a pass, padding included


class Enough(Exception):
    """Ends a forward pass at the deepest layer that is wanted."""


@torch.no_grad()
def hidden_means(model, texts: list[list[int]], prefix: list[int] = ()):
    """Hidden states at some depths, their mean over the tokens of each text: (depths, n, d), in
    fp32 on the CPU. In a model of few layers there are fewer depths. texts: token ids, at least one
    each. prefix: what stands before each text; it is not in the mean."""
    T = max(map(len, texts))
    size = max(1, AT_ONCE // (len(prefix) + T))
    if len(texts) > size:
        return torch.cat([hidden_means(model, texts[i:i + size], prefix)
                          for i in range(0, len(texts), size)], dim=1)
    inner, text = inner_model(model), model.config.get_text_config(decoder=True)
    layers = next(m for m in inner.modules() if isinstance(m, torch.nn.ModuleList)
                  and len(m) == text.num_hidden_layers)
    wanted = [layers[i] for i in dict.fromkeys(max(0, round(depth * len(layers)) - 1)
                                               for depth in DEPTHS)]
    ids = torch.tensor([[*prefix, *ids] + [0] * (T - len(ids)) for ids in texts],
                       device=model.device)                                     # (n, P + T)
    mask = torch.tensor([[1.0] * len(ids) + [0.0] * (T - len(ids)) for ids in texts],
                        device=model.device)[..., None]                         # (n, T, 1)
    found = {}

    def keep(module, _, output):
        hidden = output[0] if isinstance(output, tuple) else output             # (n, P + T, d)
        kept = mask.to(hidden.device)       # of several GPUs each layer has its own
        mean = (hidden[:, len(prefix):].float() * kept).sum(1) / kept.sum(1)    # (n, d)
        found[module] = mean.cpu()
        if module is wanted[-1]:
            raise Enough
    hooks = [layer.register_forward_hook(keep) for layer in wanted]
    try:
        inner(input_ids=ids, use_cache=False)
    except Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([found[layer] for layer in wanted])
