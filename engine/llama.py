"""The forward pass of models that are laid out as Llama, in few and large products, for the CPU.

A small model spends most of its time not on arithmetic, but on starting it. Here the layers that
read the same input are one product (queries, keys and values; the two halves of the gate), and so
are their LoRA weights. A copy of the frozen weights lies in memory as oneDNN reads them. All of it
is written for tokens in one long row, (N, d); what attends to what is the caller's business.

Weights may be in bf16. Only what goes into a product with them, and what comes out, is rounded to
bf16 then: everything between is in fp32, which is nearer to the model in full precision.

Letters: N tokens, d width of the model, H heads of the queries, K heads of the keys, D width of a
head, r rank of LoRA.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.attention import GroupLayer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")      # whose layers are what `Layer` computes
PACKED_BELOW = 2**30        # parameters: a second copy of the weights is worth its memory


class Joined:
    """Linear layers that read the same input, as one product, with their LoRA weights.

        y = W x + b + scale B A x

    W holds the weights of all of them, (out, in). The layers' own weights become views of it, so
    that nothing is held twice. A is (m r, in) for m layers with LoRA, and B (out, m r), with the B
    of each layer in its own rows and columns. LoRA's products are computed in fp32, as in peft.
    """

    def __init__(self, parent, names: tuple[str, ...], packed: bool):
        """names: of the layers in the module `parent`; LoRA may be put around them later."""
        self.parent, self.names = parent, names
        bases = [getattr(parent, name) for name in names]
        self.sizes = [base.out_features for base in bases]
        self.weight, self.bias, self.packed = bases[0].weight.data, None, None
        if len(bases) > 1:
            self.weight = torch.cat([base.weight.data for base in bases])           # (out, in)
            for base, rows in zip(bases, self.weight.split(self.sizes)):
                base.weight.data = rows
        if bases[0].bias is not None:
            self.bias = torch.cat([base.bias.data for base in bases])               # (out,)
        if packed:
            self.packed = pack(self.weight)

    def lora(self):
        """(A, scale B^T) of the weights as they are now, (m r, in) and (m r, out), or None."""
        A, B = [], []
        for name, size in zip(self.names, self.sizes):
            layer = getattr(self.parent, name)
            if getattr(layer, "lora_A", None) and not layer.disable_adapters:
                A.append(layer.lora_A["default"].weight)
                B.append(layer.lora_B["default"].weight.T * layer.scaling["default"])
            else:
                B.append(self.weight.new_empty(0, size, dtype=torch.float32))
        if not A:
            return None
        return torch.cat(A), torch.block_diag(*B)

    def __call__(self, x, lora):
        """x: (N, in), in fp32. lora: what lora() returned. Returns (N, out), in fp32."""
        rounded = x.to(self.weight.dtype)
        if self.packed is not None and not x.requires_grad:
            y = packed_linear(rounded, self.packed, self.bias).float()
        else:
            y = F.linear(rounded, self.weight, self.bias).float()
        if lora is None:
            return y
        A, B = lora
        return y.addmm_(x @ A.T, B)


def pack(weight):
    """A copy of frozen weights (out, in) in the order in which oneDNN reads them; None where it is
    of no use. A product of few rows is as fast as memory is, and twice as fast as without."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def packed_linear(x, packed, bias=None):
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class Norm:
    """Divides by the root of the mean square, in fp32."""

    def __init__(self, module):
        self.weight, self.eps = module.weight.data.float(), module.variance_epsilon

    def __call__(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer:
    """One layer, made of the modules of transformers and of Joined."""

    def __init__(self, module, packed: bool):
        attention, mlp = module.self_attn, module.mlp
        self.norms = Norm(module.input_layernorm), Norm(module.post_attention_layernorm)
        self.qkv = Joined(attention, ("q_proj", "k_proj", "v_proj"), packed)
        self.of_heads = [Norm(getattr(attention, name)) for name in ("q_norm", "k_norm")
                         if hasattr(attention, name)]                                   # Qwen 3
        self.out = Joined(attention, ("o_proj",), packed)
        self.gate = Joined(mlp, ("gate_proj", "up_proj"), packed)
        self.down = Joined(mlp, ("down_proj",), packed)
        self.activation = mlp.act_fn.forward
        self.D = attention.head_dim
        self.heads = [size // self.D for size in self.qkv.sizes]                    # H, K, K

    def lora(self) -> list:
        return [joined.lora() for joined in (self.qkv, self.out, self.gate, self.down)]

    def __call__(self, x, rotation, attend, lora: list):
        """x: (N, d). attend(q, k, v) gets (N, H, D), (N, K, D), (N, K, D) and returns (N, H, D)."""
        of_qkv, of_out, of_gate, of_down = lora
        heads = self.qkv(self.norms[0](x), of_qkv).unflatten(-1, (-1, self.D))   # (N, H + 2 K, D)
        H, K, _ = self.heads
        qk, v = heads.split([H + K, K], dim=1)
        if self.of_heads:
            parts = zip(self.of_heads, qk.split([H, K], dim=1))
            qk = torch.cat([norm(part) for norm, part in parts], dim=1)
        q, k = rotate(qk, rotation).split([H, K], dim=1)
        x = x + self.out(attend(q, k, v).flatten(1), of_out)
        gate, up = self.gate(self.norms[1](x), of_gate).chunk(2, dim=-1)
        return x + self.down(self.activation(gate) * up, of_down)


def rotate(x, rotation):
    """Rotary positions. x: (N, heads, D); rotation: cosines and signed sines, (N, 1, D) each."""
    cos, sin = rotation
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


class Llama:
    """The layers of a model. It is made before LoRA is put around them."""

    def __init__(self, model):
        inner = model.base_model
        self.device, self.exact = model.device, model.dtype == torch.float32
        packed = model.num_parameters() < PACKED_BELOW
        self.embed, self.rotary, self.norm = inner.embed_tokens, inner.rotary_emb, Norm(inner.norm)
        self.head = model.get_output_embeddings()
        self.packed_head = pack(self.head.weight.data) if packed else None
        self.layers = [Layer(module, packed) for module in inner.layers]

    def logits(self, hidden):
        """(N, d) -> (N, V), in fp32."""
        if self.packed_head is None:
            logits = self.head(hidden)
        else:
            logits = packed_linear(hidden, self.packed_head, self.head.bias)
        return logits * self.head.logit_scale

    def lora(self) -> list:
        """The LoRA weights as they are now: for all calls until they change."""
        return [layer.lora() for layer in self.layers]

    def __call__(self, ids, positions, attend, lora: list):
        """The last hidden states, (N, d), of tokens at these positions, (N,) each.

        attend(layer number, q, k, v): see Layer.
        """
        x = self.embed(ids).float()
        cos, sin = self.rotary(x[None], positions[None])
        half = sin.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        rotation = cos[0, :, None], sin[0, :, None]                                 # (N, 1, D)
        for i, (layer, of_layer) in enumerate(zip(self.layers, lora)):
            def of_this_layer(*qkv, i=i):
                return attend(i, *qkv)
            x = layer(x, rotation, of_this_layer, of_layer)
        return self.norm(x)

    def run_prompts(self, prompts: list[list[int]], lora: list) -> list:
        """Runs all prompts in one row. Returns for each of them a pair: the keys and values of each
        layer, (K, P, D) each, and the last hidden state, (d,)."""
        lengths = [len(ids) for ids in prompts]
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=self.device)
        positions = torch.tensor([i for n in lengths for i in range(n)], device=self.device)
        found = [[] for _ in prompts]

        def attend(_, *qkv):
            out = []
            for kept, *own in zip(found, *(x.transpose(0, 1).split(lengths, dim=1) for x in qkv)):
                kept.append(own[1:])
                q, k, v = (x[None] for x in own)                                # (1, heads, P, D)
                out.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
            return torch.cat(out, dim=2)[0].transpose(0, 1)                         # (N, H, D)
        hidden = self(ids, positions, attend, lora)
        ends = torch.tensor(lengths).cumsum(0) - 1
        return list(zip(found, hidden[ends]))

    def run_completions(self, prompt: list, tokens, real, lora: list):
        """The hidden states of the real tokens, (N, d), of rows that go on from one prompt.

        prompt: keys and values of each layer, (1, K, P, D) each; tokens, real: (n, T).
        """
        rows, positions = Rows(real), self.positions(prompt[0][0].shape[2], real)

        def attend(i, *qkv):
            return rows.attend(*prompt[i], *qkv)
        return self(tokens[real], positions, attend, lora)

    def run_group(self, prompt_ids, tokens, real, lora: list):
        """run_completions with the prompt in the same pass, which takes half the operations.

        Returns the hidden states of the prompt's last token and of the real ones, (1 + N, d).
        """
        P, rows = len(prompt_ids), Rows(real)
        positions = torch.cat([torch.arange(P), self.positions(P, real)])

        def attend(_, *qkv):
            prompt, own = zip(*(x.split([P, len(x) - P]) for x in qkv))
            q, k, v = (x.transpose(0, 1)[None] for x in prompt)                 # (1, heads, P, D)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return torch.cat([out[0].transpose(0, 1), rows.attend(k, v, *own)])     # (P + N, H, D)
        ids = torch.cat([torch.tensor(prompt_ids), tokens[real]])
        return self(ids, positions, attend, lora)[P - 1:]

    @staticmethod
    def positions(P: int, real):
        """Of the real tokens, (N,), behind a prompt of P tokens."""
        n, T = real.shape
        return torch.arange(P, P + T).expand(n, T)[real]


class Rows:
    """How the real tokens of n rows, one after the other, stand in (n, T)."""

    def __init__(self, real):
        self.real, self.full = real, bool(real.all())

    def attend(self, prompt_keys, prompt_values, *qkv):
        """The attention of rows that share a prompt. Queries, keys and values: (N, heads, D);
        those of the prompt: (1, K, P, D). Returns (N, H, D)."""
        q, k, v = map(self.padded, qkv)                                         # (n, heads, T, D)
        n, _, T, D = q.shape
        if T <= D:          # the scores, (T, P + T), take no more room than copies of the prompt
            layer = GroupLayer(prompt_keys, prompt_values)
            layer.update(k, v)
            out = layer.attend(q, D ** -0.5)                                    # (n, T, H, D)
        else:
            k, v = (torch.cat([prompt.expand(n, -1, -1, -1), own], dim=2)       # (n, K, P + T, D)
                    for prompt, own in ((prompt_keys, k), (prompt_values, v)))
            seen = torch.ones(T, k.shape[2], dtype=torch.bool).tril(k.shape[2] - T)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
            out = out.transpose(1, 2)
        return out.flatten(0, 1) if self.full else out[self.real]

    def padded(self, x):
        """(N, heads, D) -> (n, heads, T, D)"""
        if self.full:
            rows = x.unflatten(0, self.real.shape)
        else:
            rows = x.new_zeros(*self.real.shape, *x.shape[1:])
            rows[self.real] = x
        return rows.transpose(1, 2)


def made_for(model) -> Llama | None:
    """The forward pass of a model without LoRA as yet. None if it is laid out in another way, if
    its weights are in 4 bit, and on a GPU, where this was not measured."""
    linear = [module for name, module in model.named_modules() if name.endswith("_proj")]
    if (model.config.model_type not in FAMILIES or model.device.type != "cpu"
            or {type(module) for module in linear} != {torch.nn.Linear}):
        return None
    return Llama(model)


def of(model) -> Llama | None:
    """What `attach` made for a model, with or without LoRA around it; None: it uses its own."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(base, "llama", None)
