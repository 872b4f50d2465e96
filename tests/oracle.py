"""The paper's GPT and its ten blocks, written by hand from arXiv 2410.16682 as the reference for tests.

Nothing here comes from `blockgraph`: only the state-dict names are shared, so a state dict of a generated model loads
with `strict=True`. Initial values are placeholders for that load. Where the paper is silent, DESIGN.md section 3 holds.

Axes: B batch, T query position, S key position, D d_model, F features, K one head's channels, P half of them, V vocab.
"""

import math

import torch
from torch import Tensor, nn

CAPPED = ("soft_cap", "qk_norm_cap")
NORMED_QK = ("qk_norm", "qk_norm_cap", "qkv_norm", "qk_fc_norm")
METHODS = ("baseline", "soft_temp", "soft_cap", "soft_clip", "sigma_reparam", "layer_scale", *NORMED_QK)

LN_EPS = 1e-5
ROPE_BASE = 10000.0
TEMPERATURE = 0.5  # section 4.2, beta: it multiplies the logits
CAP = 50.0  # section 4.3
CLIP_ZETA, CLIP_GAMMA = 1.03, -0.03  # section 4.4
LAYER_SCALE_INIT, WEIGHT_STD = 0.1, 0.02


class OracleGPT(nn.Module):
    """Section 2: embedding, blocks, a LayerNorm and an untied head; tokens [batch, seq] to logits."""

    def __init__(self, method: str, vocab: int, n_layers: int, d_model: int, n_heads: int, d_ff: int | None = None):
        super().__init__()
        self.embed = nn.Embedding(vocab, d_model)
        self.layers = nn.ModuleList(OracleBlock(method, d_model, n_heads, d_ff) for _ in range(n_layers))
        self.norm = LayerNorm(d_model)
        self.head = Linear(d_model, vocab)
        nn.init.normal_(self.embed.weight, std=WEIGHT_STD)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embed(tokens_BT)
        for block in self.layers:
            x_BTD = block(x_BTD)
        logits_BTV: Tensor = self.head(self.norm(x_BTD))
        return logits_BTV


class OracleBlock(nn.Module):
    """Figure 1: attention, then feed forward, each added to the residual stream."""

    def __init__(self, method: str, d_model: int, n_heads: int, d_ff: int | None = None):
        super().__init__()
        assert method in METHODS, method
        self.attn = Attention(method, d_model, n_heads)
        self.ff = FeedForward(method, d_model, 4 * d_model if d_ff is None else d_ff)

    def forward(self, x_BTD: Tensor) -> Tensor:
        after_attn_BTD: Tensor = x_BTD + self.attn(x_BTD)
        after_ff_BTD: Tensor = after_attn_BTD + self.ff(after_attn_BTD)
        return after_ff_BTD


class Attention(nn.Module):
    """Figure 1, multihead attention, one head at a time; figures 4 to 7 add or drop norms and the scale."""

    def __init__(self, method: str, d_model: int, n_heads: int):
        super().__init__()
        self.method, self.n_heads, self.d_head = method, n_heads, d_model // n_heads
        # Section 4.8 moves the norm from the input of QKV to its output. An Identity adds no name to the state dict.
        self.ln = nn.Identity() if method == "qkv_norm" else LayerNorm(d_model)
        self.qkv = linear_of(method, d_model, 3 * d_model)
        self.ln_q = LayerNorm(self.d_head) if method in NORMED_QK else nn.Identity()
        self.ln_k = LayerNorm(self.d_head) if method in NORMED_QK else nn.Identity()
        self.ln_v = LayerNorm(self.d_head) if method == "qkv_norm" else nn.Identity()
        self.proj = linear_of(method, d_model, d_model)
        self.ln_proj = LayerNorm(d_model) if method == "qk_fc_norm" else nn.Identity()
        self.scale = LayerScale(d_model) if method == "layer_scale" else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        qkv_BTF, d_model, outs_BTK = self.qkv(self.ln(x_BTD)), x_BTD.shape[-1], []
        for head in range(self.n_heads):
            # Features are [q | k | v]; within each, one head's channels after another's.
            first = head * self.d_head
            q_BTK, k_BSK, v_BSK = (qkv_BTF.narrow(-1, part * d_model + first, self.d_head) for part in range(3))
            weights_BTS = attention_weights(self.method, rotate(self.ln_q(q_BTK)), rotate(self.ln_k(k_BSK)))
            outs_BTK.append(torch.einsum("bts,bsk->btk", weights_BTS, self.ln_v(v_BSK)))
        y_BTD: Tensor = self.scale(self.ln_proj(self.proj(torch.cat(outs_BTK, dim=-1))))
        return y_BTD


class FeedForward(nn.Module):
    """Figure 1, feed forward: LN, FC1, squared ReLU, FC2; then LN (figure 7) or LayerScale (figure 4)."""

    def __init__(self, method: str, d_model: int, d_ff: int):
        super().__init__()
        self.ln = LayerNorm(d_model)
        self.fc1 = linear_of(method, d_model, d_ff)
        self.fc2 = linear_of(method, d_ff, d_model)
        self.ln_fc2 = LayerNorm(d_model) if method == "qk_fc_norm" else nn.Identity()
        self.scale = LayerScale(d_model) if method == "layer_scale" else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        hidden_BTF = self.fc1(self.ln(x_BTD))
        active_BTF = torch.where(hidden_BTF > 0, hidden_BTF * hidden_BTF, 0.0)
        y_BTD: Tensor = self.scale(self.ln_fc2(self.fc2(active_BTF)))
        return y_BTD


def attention_weights(method: str, q_BTK: Tensor, k_BSK: Tensor) -> Tensor:
    """Equation 2, then temperature (4.2), cap (equation 3), causal mask, softmax, clip (4.4), in this order."""
    logits_BTS = torch.einsum("btk,bsk->bts", q_BTK, k_BSK) / math.sqrt(q_BTK.shape[-1])
    if method == "soft_temp":
        logits_BTS = TEMPERATURE * logits_BTS
    if method in CAPPED:
        logits_BTS = torch.tanh(logits_BTS / CAP) * CAP
    position = torch.arange(q_BTK.shape[1], device=q_BTK.device)
    is_future_TS = position[None, :] > position[:, None]
    logits_BTS = torch.where(is_future_TS, -math.inf, logits_BTS)
    exp_BTS = torch.exp(logits_BTS - logits_BTS.detach().amax(dim=-1, keepdim=True))
    weights_BTS = exp_BTS / exp_BTS.sum(dim=-1, keepdim=True)
    if method == "soft_clip":
        weights_BTS = torch.clip((CLIP_ZETA - CLIP_GAMMA) * weights_BTS + CLIP_GAMMA, 0.0, 1.0)
    return weights_BTS


def rotate(x_BTK: Tensor) -> Tensor:
    """RoPE (section 2, Su et al.): channel i pairs with i + d_head / 2 and turns by t * base**(-2i / d_head)."""
    _, seq, d_head = x_BTK.shape
    pair_P = torch.arange(d_head // 2, dtype=torch.float32, device=x_BTK.device)
    position_T = torch.arange(seq, dtype=torch.float32, device=x_BTK.device)
    angle_TP = torch.outer(position_T, ROPE_BASE ** (-2.0 * pair_P / d_head))
    cos_TP, sin_TP = torch.cos(angle_TP), torch.sin(angle_TP)
    a_BTP, b_BTP = x_BTK[..., : d_head // 2], x_BTK[..., d_head // 2 :]
    out_BTK = torch.cat([a_BTP * cos_TP - b_BTP * sin_TP, a_BTP * sin_TP + b_BTP * cos_TP], dim=-1)
    return out_BTK.to(x_BTK.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * gain over the last axis, with the biased variance and no bias."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred / torch.sqrt(variance + LN_EPS) * self.weight


class LayerScale(nn.Module):
    """Section 4.5: one learnable gain per channel on what a sublayer adds."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), LAYER_SCALE_INIT))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Linear(nn.Module):
    """y = x W^T without bias, W of shape [out, in]."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(WEIGHT_STD * torch.randn(n_out, n_in))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class SigmaReparamLinear(Linear):
    """Equation 1: y = x W_hat^T, W_hat = gamma / sigma * W, sigma = u^T W v with u and v constant."""

    u: Tensor
    v: Tensor

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out)
        self.gamma = nn.Parameter(torch.ones(1))
        u, v = power_iteration(self.weight, torch.randn(n_out), torch.randn(n_in))
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, x: Tensor) -> Tensor:
        sigma = self.u @ self.weight @ self.v  # not detached: the gradient of sigma reaches the weight
        return x @ (self.gamma / sigma * self.weight).T


def linear_of(method: str, n_in: int, n_out: int) -> Linear:
    """One of QKV, Proj, FC1 and FC2; section 4.1 reparametrises all four."""
    return (SigmaReparamLinear if method == "sigma_reparam" else Linear)(n_in, n_out)


@torch.no_grad()
def power_iteration(weight: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One step towards the top singular vectors of W [out, in]; the old v is replaced, so only u matters."""
    v = weight.T @ u / torch.linalg.vector_norm(weight.T @ u)
    u = weight @ v / torch.linalg.vector_norm(weight @ v)
    return u, v
