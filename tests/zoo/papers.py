"""Architectures that transformers lacks, written from their papers in plain torch over a state dict.

Axes: B batch, T tokens, H heads, K features of a head, D features of a token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Weights:
    """A part of a state dict: `w("q", x)` is the linear at q, with its bias where it has one; `w / "attn"` goes in."""

    state: dict[str, Tensor]
    heads: int
    layers: int
    eps: float = 1e-6
    at: str = ""

    def __truediv__(self, name: object) -> "Weights":
        return Weights(self.state, self.heads, self.layers, self.eps, f"{self.at}{name}.")

    def with_eps(self, eps: float) -> "Weights":
        return Weights(self.state, self.heads, self.layers, eps, self.at)

    def __getitem__(self, name: str) -> Tensor:
        return self.state[f"{self.at}{name}"]

    def __call__(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self[f"{name}.weight"], self.state.get(f"{self.at}{name}.bias"))

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt() * self[f"{name}.weight"]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + 1e-5).sqrt() * self[f"{name}.weight"] + self[f"{name}.bias"]

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def qkv(self, x: Tensor) -> list[Tensor]:
        return [self.split(part) for part in self("qkv", x).chunk(3, -1)]

    def apart(self, x: Tensor) -> list[Tensor]:
        return [self.split(self(name, x)) for name in "qkv"]

    def swiglu(self, x: Tensor) -> Tensor:
        return self("down", F.silu(self("gate", x)) * self("up", x))


def merged(x_BHTK: Tensor) -> Tensor:
    return x_BHTK.transpose(1, 2).flatten(2)


def turned(x: Tensor, base: float = 10000.0) -> Tensor:
    """The rotary embedding as a product of complex numbers."""
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * speed
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag], -1).to(x.dtype)


def attended(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    return merged(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale))


def rotated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attended(turned(q), turned(k), v)


def pre_ln(w: Weights, x: Tensor) -> Tensor:
    """The layer that most of these papers start from: Llama with one head of keys for each of queries."""
    a, f = w / "attn", w / "ff"
    x = x + a("proj", rotated(*a.qkv(a.rms("ln", x))))
    return x + f.swiglu(f.rms("ln", x))


def deep_norm(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f, alpha = w / "attn", w / "ff", (2 * w.layers) ** 0.25
    x = w.norm("ln_attn", alpha * x + a("proj", attended(*a.apart(x))))
    return w.norm("ln_ff", alpha * x + f("fc2", F.gelu(f("fc1", x))))


def peri_ln(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f = w / "attn", w / "ff"
    x = x + a.rms("ln_proj", a("proj", rotated(*a.qkv(a.rms("ln", x)))))
    return x + f.rms("ln_down", f.swiglu(f.rms("ln", x)))


def sub_ln(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f = w / "attn", w / "ff"
    x = x + a("proj", a.norm("ln_merge", attended(*a.apart(a.norm("ln", x)))))
    return x + f("fc2", f.norm("ln_act", F.gelu(f("fc1", f.norm("ln", x)))))


def hybrid_norm(w: Weights, x: Tensor, layer: int) -> Tensor:
    """With half as many heads of keys and values as of queries."""
    a, f = w / "attn", w / "ff"
    split = {"q": w.heads, "k": w.heads // 2, "v": w.heads // 2}
    q, k, v = (a.rms(f"ln_{c}", a(c, x).unflatten(-1, (n, -1)).transpose(1, 2)) for c, n in split.items())
    k, v = (value.repeat_interleave(2, dim=1) for value in (k, v))
    z = w.rms("ln_attn", x + a("proj", attended(turned(q, 5e5), turned(k, 5e5), v)))
    return z + f.swiglu(z)


def mix_ln_early(w: Weights, x: Tensor) -> Tensor:
    a, f = w / "attn", w / "ff"
    x = w.rms("ln_attn", x + a("proj", rotated(*a.qkv(x))))
    return w.rms("ln_ff", x + f.swiglu(x))


def ln_scaling(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f, depth = w / "attn", w / "ff", math.sqrt(layer + 1)
    x = x + a("proj", rotated(*a.qkv(a.rms("ln", x) / depth)))
    return x + f.swiglu(f.rms("ln", x) / depth)


def squashed(w: Weights, x: Tensor) -> Tensor:
    w = w / "dyt"
    return w["weight"] * torch.tanh(w["alpha"] * x)


def dyt(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f = w / "attn", w / "ff"
    x = x + a("proj", rotated(*a.qkv(squashed(a, x))))
    return x + f.swiglu(squashed(f, x))


def sigmoid_attention(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f = w / "attn", w / "ff"
    q, k, v = a.qkv(a.rms("ln", x))
    scores = turned(q) @ turned(k).mT / math.sqrt(q.shape[-1]) - math.log(x.shape[1])
    x = x + a("proj", merged(torch.sigmoid(scores).tril() @ v))
    return x + f.swiglu(f.rms("ln", x))


def gated_attention(w: Weights, x: Tensor, layer: int) -> Tensor:
    a, f = w / "attn", w / "ff"
    y = a.rms("ln", x)
    x = x + a("proj", rotated(*a.qkv(y)) * torch.sigmoid(a("gate", y)))
    return x + f.swiglu(f.rms("ln", x))


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def ngpt(w: Weights, x: Tensor, layer: int) -> Tensor:
    """Section 2.6: every gain s is kept as s * s_scale / s_init, with s_scale 1 / sqrt(D)."""
    a, f, root = w / "attn", w / "ff", math.sqrt(x.shape[-1])
    q, k, v = a.apart(x)
    gain_HK = a["ln_q.weight"] * root
    q, k = (unit(turned(value)) * gain_HK[:, None] for value in (q, k))
    h = unit(a("proj", attended(q, k, v, scale=math.sqrt(q.shape[-1]))))
    x = unit(x + (w["alpha_attn.weight"] * 0.05 * root).abs() * (h - x))
    u, v = f("up", x) * f["scale_up.weight"], f("gate", x) * f["scale_gate.weight"] * root
    h = unit(f("down", u * F.silu(v)))
    return unit(x + (w["alpha_ff.weight"] * 0.05 * root).abs() * (h - x))


def through(layer: Callable[[Weights, Tensor, int], Tensor], w: Weights, x: Tensor) -> Tensor:
    for index in range(w.layers):
        x = layer(w / "layers" / index, x, index)
    return x


def with_positions(w: Weights, tokens: Tensor) -> Tensor:
    return w["embed.weight"][tokens] + w["positions.weight"][: tokens.shape[1]]


def llama(layer: Callable[[Weights, Tensor, int], Tensor], w: Weights, tokens: Tensor) -> Tensor:
    return w("head", w.rms("norm", through(layer, w, w["embed.weight"][tokens])))


def hybrid_norm_model(w: Weights, tokens: Tensor) -> Tensor:
    """The head is the embedding."""
    x = through(hybrid_norm, w, w["embed.weight"][tokens])
    return F.linear(w.rms("norm", x), w["embed.weight"])


def mix_ln_model(w: Weights, tokens: Tensor) -> Tensor:
    x = w["embed.weight"][tokens]
    for index in range(w.layers // 4):
        x = mix_ln_early(w / "early" / index, x)
    for index in range(w.layers - w.layers // 4):
        x = pre_ln(w / "late" / index, x)
    return w("head", w.rms("norm", x))


def value_residual_model(w: Weights, tokens: Tensor) -> Tensor:
    x, first = w["embed.weight"][tokens], None
    for index in range(w.layers):
        layer = w / "layers" / index
        a, f = layer / "attn", layer / "ff"
        q, k, v = a.qkv(a.rms("ln", x))
        first = v if first is None else first
        x = x + a("proj", rotated(q, k, 0.5 * v + 0.5 * first))
        x = x + f.swiglu(f.rms("ln", x))
    return w("head", w.rms("norm", x))


def dyt_model(w: Weights, tokens: Tensor) -> Tensor:
    return w("head", squashed(w, through(dyt, w, w["embed.weight"][tokens] * w["scale.weight"])))


def ngpt_model(w: Weights, tokens: Tensor) -> Tensor:
    x = through(ngpt, w, w["embed.weight"][tokens])
    return w("head", x) * w["scale.weight"] * math.sqrt(x.shape[-1])


def hyper(w: Weights, h_BTND: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
    """Sections 2.1 and 2.2 of 2409.19606, with H one matrix [N, D] for each token."""
    mix_N1, keep_NN, depth_N1 = w["pick.weight"], w["keep.weight"], w["spread.weight"][:, None]
    if f"{w.at}pick.gain" in w.state:
        normed, scale = F.layer_norm(h_BTND, h_BTND.shape[-1:]), w["pick.gain"]
        mix_N1 = scale * torch.tanh(w("picking", normed)) + mix_N1
        keep_NN = scale * torch.tanh(w("keeping", normed)) + keep_NN
        depth_N1 = w["spread.gain"] * torch.tanh(w("spreading", normed)) + depth_N1
    read_1D = mix_N1.mT @ h_BTND
    written_1D = sublayer(read_1D.squeeze(-2)).unsqueeze(-2)
    return depth_N1 @ written_1D + keep_NN.mT @ h_BTND


def hyper_connections_model(w: Weights, tokens: Tensor) -> Tensor:
    """Norms without gains, as in the OLMo that the paper starts from."""
    h = w["embed.weight"][tokens].unsqueeze(2).repeat(1, 1, 4, 1)
    for index in range(w.layers):
        a, f = w / "layers" / index / "attn", w / "layers" / index / "ff"
        h = hyper(a, h, lambda x, a=a: a("proj", rotated(*a.qkv(F.layer_norm(x, x.shape[-1:])))))
        h = hyper(f, h, lambda x, f=f: f.swiglu(F.layer_norm(x, x.shape[-1:])))
    x = h.sum(2)
    return F.linear(F.layer_norm(x, x.shape[-1:]), w["embed.weight"])


def unit_rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def unet_model(w: Weights, tokens: Tensor, cap: float) -> Tensor:
    x, kept = unit_rms(w["embed.weight"][tokens]), list[Tensor]()
    for index in range(w.layers):
        layer = w / "layers" / index
        a, f = layer / "attn", layer / "ff"
        if index >= w.layers // 2:
            x = x + layer["gain.weight"] * kept.pop()
        q, k, v = a.qkv(unit_rms(x))
        x = x + a("proj", rotated(unit_rms(q), unit_rms(k), v))
        x = x + f("fc2", F.relu(f("fc1", unit_rms(x))).square())
        kept += [x] * (index < w.layers // 2)
    return cap * torch.tanh(w("head", unit_rms(x)) / cap)


MODELS: dict[str, Callable[[Weights, Tensor], Tensor]] = {
    "deep_norm": lambda w, tokens: w("head", through(deep_norm, w, with_positions(w, tokens))),
    "peri_ln": lambda w, tokens: w(
        "head", w.rms("norm", through(peri_ln, w, w.rms("ln_embed", w["embed.weight"][tokens])))
    ),
    "sub_ln": lambda w, tokens: w("head", w.norm("norm", through(sub_ln, w, with_positions(w, tokens)))),
    "hybrid_norm": lambda w, tokens: hybrid_norm_model(w.with_eps(1e-5), tokens),
    "mix_ln": mix_ln_model,
    "ln_scaling": lambda w, tokens: llama(ln_scaling, w, tokens),
    "dyt": dyt_model,
    "sigmoid_attention": lambda w, tokens: llama(sigmoid_attention, w, tokens),
    "gated_attention": lambda w, tokens: llama(gated_attention, w, tokens),
    "value_residual": lambda w, tokens: value_residual_model(w.with_eps(1e-5), tokens),
    "ngpt": ngpt_model,
    "unet": lambda w, tokens: unet_model(w, tokens, cap=3.0),
    "hyper_connections": hyper_connections_model,
    "hyper_connections, static": hyper_connections_model,
}
