"""Models that others have written, and one by hand, that compute what `gpt` of the shipped specs does.

Each takes tokens [batch, seq] and gives logits, in bf16 by autocast with fp32 weights. Packages that are not installed
make no model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of a model and of what it is trained on."""

    seq: int
    batch: int
    width: int = 256
    layers: int = 6
    heads: int = 4
    vocab: int = 8192


@dataclass(frozen=True)
class Peer:
    """A model, the modules of it that are compiled one by one where it is compiled, and its logits."""

    model: nn.Module
    blocks: list[nn.Module]
    logits: Callable[[Tensor], Tensor]


class Hand(nn.Module):
    """The block of Figure 1 as one writes it: fused QKV, half-split RoPE, squared ReLU, untied head."""

    def __init__(self, shape: Shape, explicit: bool = False, cap: float | None = None):
        super().__init__()
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(HandBlock(shape, explicit, cap) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).bfloat16()
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class HandBlock(nn.Module):
    def __init__(self, shape: Shape, explicit: bool, cap: float | None):
        super().__init__()
        width, self.heads, self.explicit, self.cap = shape.width, shape.heads, explicit, cap
        self.ln, self.ln2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        cos, sin = angles(shape.seq, width // shape.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.ln(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        q, k, v = turned(parts[0], self.cos, self.sin), turned(parts[1], self.cos, self.sin), parts[2]
        y = explicit(q, k, v, self.cap) if self.explicit else F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.relu(self.fc1(self.ln2(x))).square())


def angles(seq: int, width: int) -> tuple[Tensor, Tensor]:
    found = torch.arange(seq)[:, None] * 10000.0 ** (-torch.arange(width // 2) / (width // 2))
    return found.cos(), found.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).to(x.dtype)


def explicit(q: Tensor, k: Tensor, v: Tensor, cap: float | None) -> Tensor:
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1).to(v.dtype) @ v


def hand(shape: Shape, explicit: bool, cap: float | None = None) -> Peer:
    model = Hand(shape, explicit, cap)
    return Peer(model, list(model.layers), model)


def nemotron(shape: Shape, attention: str) -> Peer:
    """Hugging Face's Nemotron, whose block has squared ReLU and LayerNorm; with `1 + w` gains and biases on norms."""
    from transformers import NemotronConfig, NemotronForCausalLM

    config = NemotronConfig(
        vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.heads,
        head_dim=shape.width // shape.heads, max_position_embeddings=shape.seq, partial_rotary_factor=1.0,
        use_cache=False, tie_word_embeddings=False, attn_implementation=attention,
    )  # fmt: skip
    model = NemotronForCausalLM(config)
    return Peer(model, list(model.model.layers), lambda tokens: model(tokens).logits)


def x_transformers(shape: Shape, flash: bool, capped: bool = False) -> Peer:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(
        dim=shape.width, depth=shape.layers, heads=shape.heads, attn_dim_head=shape.width // shape.heads,
        rotary_pos_emb=True, rotary_emb_dim=shape.width // shape.heads, ff_relu_squared=True, ff_no_bias=True,
        attn_flash=flash, attn_softclamp_logits=capped, attn_logit_softclamp_value=50.0,
    )  # fmt: skip
    sizes = {"num_tokens": shape.vocab, "max_seq_len": shape.seq}
    model = TransformerWrapper(**sizes, attn_layers=layers, use_abs_pos_emb=False)
    return Peer(model, [], model)


def litgpt(shape: Shape) -> Peer:
    from litgpt import GPT, Config

    config = Config(
        block_size=shape.seq, vocab_size=shape.vocab, padded_vocab_size=shape.vocab, n_layer=shape.layers,
        n_head=shape.heads, n_embd=shape.width, rotary_percentage=1.0, parallel_residual=False, bias=False,
    )  # fmt: skip
    model = GPT(config)
    return Peer(model, list(model.transformer.h), model)


# The package that each needs, and what makes it; the best mode of each is that which is compiled.
PEERS: Mapping[str, tuple[str, Callable[[Shape], Peer]]] = {
    "Hugging Face Nemotron, explicit attention": ("transformers", lambda shape: nemotron(shape, "eager")),
    "Hugging Face Nemotron, SDPA": ("transformers", lambda shape: nemotron(shape, "sdpa")),
    "x-transformers, explicit attention": ("x_transformers", lambda shape: x_transformers(shape, False)),
    "x-transformers, explicit attention, capped": ("x_transformers", lambda shape: x_transformers(shape, False, True)),
    "x-transformers, SDPA": ("x_transformers", lambda shape: x_transformers(shape, True)),
    "litgpt, SDPA": ("litgpt", litgpt),
}


def missing(package: str) -> str:
    """Why a peer cannot be made; empty where it can."""
    try:
        import_module(package)
    except ImportError as error:
        return f"{package} is not installed: {error}"
    return ""
