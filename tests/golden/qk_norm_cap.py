"""QK layer normalization with softmax capping.

Compiled by blockgraph from the block qk_norm_cap, digest 65b7c2da8b6f97ea. Change the spec, not this
file.

Sizes: n_layers = 24, d_model = 64, n_heads = 4, d_head = 16, d_ff = 256.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Weight:
    """A declared tensor: shape, initial values, and for a parameter its group in the optimiser.

    One whose `rows` are vectors of their own, such as the biases of experts, maps nothing, for all its axes.
    A `measured` one holds the greatest values that the forward passes of a step have written there, or a `total`.
    """

    shape: tuple[int, ...]
    init: str
    number: float
    decay: bool = True
    lr: float = 1.0
    rows: bool = False
    trained: bool = True
    measured: bool = False
    total: bool = False


def initial_value(seed: int, name: str, weight: Weight) -> Tensor:
    """Initial values in fp32 on the CPU; they depend on the seed and the full name alone."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    value = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
    match weight.init:
        case "normal":
            return value.normal_(0.0, weight.number, generator=draw)
        case "trunc_normal":
            bound = 2.0 * weight.number
            return nn.init.trunc_normal_(value, 0.0, weight.number, -bound, bound, generator=draw)
        case "uniform":
            return value.uniform_(-weight.number, weight.number, generator=draw)
        case "unit":
            return nn.functional.normalize(value.normal_(generator=draw), dim=-1)
        case "identity":
            return torch.eye(weight.shape[0], value[0].numel()).mul_(weight.number).view_as(value)
        case "one_hot":  # the row of this index is ones, counted round
            value.zero_()[int(weight.number) % weight.shape[0]] = 1.0
            return value
    return value.fill_(weight.number)


class Parameters(nn.Module):
    """A node's or a group's place in the tree of modules; it holds tensors and does nothing."""

    def extra_repr(self) -> str:
        """Names and shapes of the tensors held here."""
        held = [*self._parameters.items(), *self._buffers.items()]
        return ", ".join(f"{name} {list(value.shape)}" for name, value in held if value is not None)


WRAPPERS = ("_checkpoint_wrapped_module", "_orig_mod")  # names that torch puts between ours


def placed(value: Tensor, like: Any) -> Tensor:
    """A full value, which is equal on all ranks, sharded as another tensor is."""
    if not hasattr(like, "full_tensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def assign(x: Tensor, value: Tensor) -> None:
    """Set a tensor, or this rank's shard of it, from the full value, which is equal on all ranks."""
    x.copy_(placed(value, x))


def take_together(tensors: list[Tensor], total: bool) -> None:
    """Set every entry to the greatest that it is on any rank, or to the sum over the ranks, in one message."""
    if tensors and dist.is_available() and dist.is_initialized():
        packed = torch.cat([x.flatten() for x in tensors])
        dist.all_reduce(packed, dist.ReduceOp.SUM if total else dist.ReduceOp.MAX)
        for x, value in zip(tensors, torch.split(packed, [x.numel() for x in tensors]), strict=True):
            x.copy_(value.view_as(x))


class GraphModule(nn.Module):
    """A compiled graph: declares its tensors by path, starts them by name, acts after the optimiser's step."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Weight] = {}
        self._constants: dict[str, float] = {}
        self._dtype: torch.dtype | None = None

    def declare(self, path: str, shape: tuple[int, ...], init: str, number: float, **group: Any) -> None:
        """Make the parameter, or the fp32 buffer when it is not trained, at this module path."""
        self.table[path] = weight = Weight(shape, init, number, **group)
        place, name = self._place(path)
        value = torch.empty(shape, dtype=torch.float32)
        if weight.trained:
            place.register_parameter(name, nn.Parameter(value))
        else:
            place.register_buffer(name, value, persistent=not weight.measured)

    def declare_constant(self, path: str, value: float) -> None:
        """Make a number that differs between layers, a 0-d buffer outside the state dict, at `constants.PATH`."""
        # A float attribute would make torch.compile compile the block a second time.
        self._constants[path] = value
        place, name = self._place(f"constants.{path}")
        place.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def declare_layers(self, path: str, layers: list["GraphModule"], share: tuple[str, ...] = ()) -> None:
        """Put layers at this module path; all use the first one's module at each path of `share`."""
        for inner in share:
            for layer in layers[1:]:
                place, name = layer._place(inner)
                setattr(place, name, layers[0].get_submodule(inner))
                layer.table = {key: weight for key, weight in layer.table.items() if not key.startswith(f"{inner}.")}
        place, name = self._place(path)
        setattr(place, name, nn.ModuleList(layers))

    def _place(self, path: str) -> tuple[nn.Module, str]:
        """The module that holds a path's last name, made where it is missing."""
        *parents, name = path.split(".")
        place: nn.Module = self
        for parent in parents:
            if not hasattr(place, parent):
                setattr(place, parent, Parameters())
            place = getattr(place, parent)
        return place, name

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """The dtype that embeddings give to the activations; None leaves the parameters' own."""
        return self._dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype | None) -> None:
        for _, graph in self.graphs():
            graph._dtype = dtype

    def cast(self, x: Tensor) -> Tensor:
        """An activation in the compute dtype."""
        return x if self._dtype is None else x.to(self._dtype)

    def graphs(self) -> Iterator[tuple[str, "GraphModule"]]:
        """This graph and those inside it, each with the prefix of its names."""
        for path, module in self.named_modules():
            if isinstance(module, GraphModule):
                yield "".join(f"{name}." for name in path.split(".") if name and name not in WRAPPERS), module

    def blocks(self) -> list["GraphModule"]:
        """The layers in the order they run, without the layers inside them."""
        found: dict[str, GraphModule] = {}
        for prefix, graph in self.graphs():
            if graph is not self and not prefix.startswith(tuple(found)):
                found[prefix] = graph
        return list(found.values())

    @property
    def weights(self) -> dict[str, Weight]:
        """Every parameter by its full name, with its shape and its group in the optimiser."""
        tables = ((prefix, graph.table) for prefix, graph in self.graphs())
        return {prefix + name: weight for prefix, table in tables for name, weight in table.items() if weight.trained}

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Set every parameter and buffer to its initial value."""
        for prefix, graph in self.graphs():
            for path, weight in graph.table.items():
                place, name = graph._place(path)
                assign(getattr(place, name), initial_value(seed, prefix + path, weight))
        for _, graph in self.graphs():
            graph.finish_init()

    @torch.no_grad()
    def after_step(self) -> None:
        """What the nodes do after each optimiser step, such as a power iteration; what was measured counts once."""
        for total in (False, True):
            take_together([x for x, weight in self._measured() if weight.total == total], total)
        for _, graph in self.graphs():
            graph.finish_step()
        self.forget()

    @torch.no_grad()
    def forget(self) -> None:
        """Drop what forward passes have measured, as when their step is not taken."""
        for x, weight in self._measured():
            x.fill_(weight.number)

    def _measured(self) -> list[tuple[Tensor, Weight]]:
        """The tensors that forward passes write to."""
        found = [(graph._place(path), weight) for _, graph in self.graphs() for path, weight in graph.table.items()]
        return [(getattr(place, name), weight) for (place, name), weight in found if weight.measured]

    def finish_init(self) -> None:
        """This graph's own actions once its parameters have their initial values."""

    def finish_step(self) -> None:
        """This graph's own actions after an optimiser step."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GraphModule":
        """What moves or casts tensors; `to_empty` wipes buffers, so the constants are set again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for path, value in self._constants.items():
            place, name = self._place(f"constants.{path}")
            getattr(place, name).fill_(value)
        return self


def causal_mask(scores_TS: Tensor, window: int | None = None, documents: Tensor | None = None) -> Tensor:
    """Minus infinity where the key is later than the query, `window` or more tokens before it, or of another document.

    The queries are the last of the tokens that the keys are of. `documents` [batch, keys] numbers them, for scores
    [batch, ..., queries, keys].
    """
    queries, keys = scores_TS.shape[-2:]
    # In fp32, because torch.compile makes slow code of integers and booleans; they are exact to 2^24.
    key_S = torch.arange(keys, dtype=torch.float32, device=scores_TS.device)
    query_T1 = key_S[keys - queries :, None]
    hidden_TS = key_S > query_T1
    if window is not None:
        hidden_TS = hidden_TS | (key_S <= query_T1 - window)
    if documents is not None:
        others = documents[:, keys - queries :, None] != documents[:, None, :]
        hidden_TS = hidden_TS | others.view(len(others), *[1] * (scores_TS.ndim - 3), queries, keys)
    return scores_TS.masked_fill(hidden_TS, float("-inf"))


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float) -> Tensor:
    """Layer normalization over the last axis in fp32, given back in the dtype of `x`."""
    gain = None if weight is None else weight.float()
    return F.layer_norm(x.float(), x.shape[-1:], gain, None if bias is None else bias.float(), eps).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in the dtype of `x`; fp32 master weights are rounded here, and gradients come back fp32."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def merge_heads(x_BHTK: Tensor) -> Tensor:
    """[batch, heads, seq, K] to [batch, seq, heads * K]."""
    return x_BHTK.transpose(1, 2).flatten(2)


def slowed(frequency: Tensor, factor: float, length: float, slow: float, fast: float, base: float, ramp: str) -> Tensor:
    """Frequencies divided by `factor` where they turn `slow` times in `length` tokens, kept from `fast` turns on.

    Between, they change in step with the turns, or with the index of the pair as YaRN has it.
    """
    if ramp == "turns":
        kept = ((frequency * length / (2.0 * math.pi) - slow) / (fast - slow)).clamp(0.0, 1.0)
    else:
        pairs = frequency.shape[0]
        first, last = (pairs * math.log(length / (turns * 2.0 * math.pi)) / math.log(base) for turns in (fast, slow))
        if ramp == "whole_pairs":
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0.0), min(last, 2.0 * pairs - 1.0)
        index = torch.arange(pairs, device=frequency.device, dtype=torch.float32)
        kept = 1.0 - ((index - first) / (last - first if last != first else 1e-3)).clamp(0.0, 1.0)
    return frequency * (kept + (1.0 - kept) / factor)


def _angles(
    start: int, seq: int, pairs: int, numbers: Sequence[float], ramp: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine [seq, pairs] of the angles that RoPE rotates by, in fp32."""
    base, factor, *turns = numbers
    exponent = torch.arange(pairs, device=device, dtype=torch.float32) / pairs
    position = torch.arange(start, start + seq, device=device, dtype=torch.float32)
    frequency = base**-exponent
    if turns:
        length, slow, fast = turns
        frequency = slowed(frequency, factor, length, slow, fast, base, ramp)
    else:
        frequency = frequency / factor
    angle = position[:, None] * frequency
    return angle.cos(), angle.sin()


@lru_cache(maxsize=16)
def _kept_angles(*given: Any) -> tuple[Tensor, Tensor]:
    start, seq, pairs, ramp, device, *numbers = given
    return _angles(start, seq, pairs, numbers, ramp, device)


def _registered_angles() -> Any:
    """`_angles`, made once, as an operator: torch.compile would make them again for every number that is rotated."""

    def angles(
        start: int, seq: int, pairs: int, numbers: list[float], ramp: str, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        # Copies, since compiled code may write to what it is given.
        cos, sin = _kept_angles(start, seq, pairs, ramp, device, *numbers)
        return cos.clone(), sin.clone()

    def fake(
        start: int, seq: int, pairs: int, numbers: list[float], ramp: str, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        cos = torch.empty(seq, pairs, device=device)
        return cos, torch.empty_like(cos)

    operator = torch.library.custom_op(f"{__name__.replace('.', '_')}::angles", angles, mutates_args=())
    operator.register_fake(fake)
    return operator


_ANGLES = _registered_angles()


def rope(
    x: Tensor,
    base: float,
    width: int | None = None,
    interleaved: bool = False,
    factor: float = 1.0,
    turns: tuple[float, float, float] | None = None,
    ramp: str = "turns",
    start: int = 0,
) -> Tensor:
    """Rotary embedding of [..., seq, K] for positions from `start` on, in fp32, given back in the dtype of `x`.

    Frequencies are divided by `factor`; where `turns` gives a length and two counts of turns, the fast ones are not.
    """
    rotated, kept = (x, None) if width is None else torch.split(x, [width, x.shape[-1] - width], dim=-1)
    pairs = rotated.shape[-1] // 2
    numbers = [base, factor, *(turns or ())]
    same = all(isinstance(number, (int, float)) for number in numbers)  # for all layers: the others are tensors
    cos, sin = (_ANGLES if same else _angles)(start, x.shape[-2], pairs, numbers, ramp, x.device)
    if interleaved:
        a, b = rotated.float().reshape(*rotated.shape[:-1], pairs, 2).unbind(-1)
        y = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = rotated.float().chunk(2, dim=-1)
        y = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return y.to(x.dtype) if kept is None else torch.cat((y.to(x.dtype), kept), dim=-1)


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """`cap * tanh(x / cap)` in fp32, given back in the dtype of `x`."""
    return (cap * torch.tanh(x.float() / cap)).to(x.dtype)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis in fp32, given back in the dtype of `x`."""
    return torch.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


def split_heads(x_BTD: Tensor, heads: int, parts: int | None = None) -> Tensor | tuple[Tensor, ...]:
    """[batch, seq, parts * heads * K] to `parts` views [batch, heads, seq, K]; one view when `parts` is None."""
    x_BTPHK = x_BTD.reshape(*x_BTD.shape[:2], parts or 1, heads, -1)
    values = tuple(x_BTHK.transpose(1, 2) for x_BTHK in x_BTPHK.unbind(2))
    return values[0] if parts is None or parts == 1 else values


class QkNormCap(GraphModule):
    """qk_norm_cap: QK layer normalization with softmax capping (arXiv:2410.16682, section 4.7)."""

    def __init__(self, layer: int = 0) -> None:
        super().__init__()
        self.declare("attn.ln.weight", (64,), "constant", 1.0, decay=False)
        self.declare("attn.qkv.weight", (192, 64), "normal", 0.02)
        self.declare("attn.ln_q.weight", (16,), "constant", 1.0, decay=False)
        self.declare("attn.ln_k.weight", (16,), "constant", 1.0, decay=False)
        self.declare("attn.proj.weight", (64, 64), "normal", 0.002886751345948129)
        self.declare("ff.ln.weight", (64,), "constant", 1.0, decay=False)
        self.declare("ff.fc1.weight", (256, 64), "normal", 0.02)
        self.declare("ff.fc2.weight", (64, 256), "normal", 0.002886751345948129)

    def forward(self, x: Tensor) -> Tensor:
        # attn: Multihead attention
        attn_ln = layer_norm(x, weight=self.attn.ln.weight, eps=1e-05)  # qk_norm_cap.yaml:13
        attn_qkv = linear(attn_ln, self.attn.qkv.weight)  # qk_norm_cap.yaml:14
        attn_heads_q, attn_heads_k, attn_heads_v = split_heads(attn_qkv, 4, 3)  # qk_norm_cap.yaml:15
        attn_ln_q = layer_norm(attn_heads_q, weight=self.attn.ln_q.weight, eps=1e-05)  # qk_norm_cap.yaml:16
        attn_ln_k = layer_norm(attn_heads_k, weight=self.attn.ln_k.weight, eps=1e-05)  # qk_norm_cap.yaml:17
        attn_rope_q = rope(attn_ln_q, 10000.0)  # qk_norm_cap.yaml:18
        attn_rope_k = rope(attn_ln_k, 10000.0)  # qk_norm_cap.yaml:19
        attn_bmm1 = torch.matmul(attn_rope_q, attn_rope_k.mT) * 0.25  # qk_norm_cap.yaml:20
        attn_cap = soft_cap(attn_bmm1, 50.0)  # qk_norm_cap.yaml:21
        attn_mask = causal_mask(attn_cap)  # qk_norm_cap.yaml:22
        attn_softmax = softmax(attn_mask)  # qk_norm_cap.yaml:23
        attn_bmm2 = torch.matmul(attn_softmax, attn_heads_v)  # qk_norm_cap.yaml:24
        attn_merge = merge_heads(attn_bmm2)  # qk_norm_cap.yaml:25
        attn_proj = linear(attn_merge, self.attn.proj.weight)  # qk_norm_cap.yaml:26
        add_attn = x + attn_proj  # qk_norm_cap.yaml:27
        # ff: Feed Forward
        ff_ln = layer_norm(add_attn, weight=self.ff.ln.weight, eps=1e-05)  # qk_norm_cap.yaml:31
        ff_fc1 = linear(ff_ln, self.ff.fc1.weight)  # qk_norm_cap.yaml:32
        ff_act = F.relu(ff_fc1).square()  # qk_norm_cap.yaml:33
        ff_fc2 = linear(ff_act, self.ff.fc2.weight)  # qk_norm_cap.yaml:34
        add_ff = add_attn + ff_fc2  # qk_norm_cap.yaml:35
        return add_ff


def build(seed: int | None = 0) -> QkNormCap:
    """The module with its initial values, which `seed` and each parameter's name decide; None leaves them unset."""
    module = QkNormCap()
    if seed is not None:
        module.initialize(seed)
    return module
