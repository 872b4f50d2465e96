"""Sigma-reparametrisation (2410.16682, section 4.1; Zhai et al., arXiv 2303.06296). Axes: N matrices, E out, D in."""

from typing import ClassVar, Literal

from pydantic import Field

from blockgraph.dims import Size
from blockgraph.errors import OpError
from blockgraph.fields import ONE, Init, Multiplier, Start, constant
from blockgraph.op import Op, Param, Site, State, Style
from blockgraph.types import Type

POWER_ITERATIONS = 15  # at initialisation; afterwards one for every optimiser step


class SigmaReparam(Op):
    """`gamma / sigma(W) * W` with the spectral norm `sigma = u W v`, in fp32; the gradient flows through sigma.

    weight [E, D] -> [E, D]. gamma has shape (1,); u and v are fp32 state that one power iteration renews after every
    optimiser step, outside the forward pass, so that recomputation sees the same weight. `init: sigma` starts gamma
    at sigma(W), which leaves W as it is at step 0. Each of a stack of matrices [N, E, D], such as those of experts, has
    a sigma and a gamma of its own. A matrix that starts at zeros stays there for the first step.
    """

    name: ClassVar = "sigma_reparam"
    style: ClassVar = Style("weight", "σ Reparam")
    paper: ClassVar = "https://arxiv.org/abs/2303.06296"
    weights: ClassVar = ("gamma",)
    of_weight: ClassVar = ("init", "decay", "lr")
    example: ClassVar = "fc1: {op: linear, in: x, out: d_ff, weight: {op: sigma_reparam}}"

    init: Literal["sigma"] | Start = Field(ONE, description="gamma at step 0: a number, or sigma")
    decay: bool = Field(False, description="whether weight decay applies to gamma")
    lr: Multiplier = Field(ONE, description="multiplier of the learning rate of gamma")

    def infer(self, weight: Type) -> Type:
        """The type of the matrix, or of the stack."""
        if len(weight.sizes) not in (2, 3):
            raise OpError("reparametrises a matrix [out, in], or a stack of them, found {}", weight)
        return weight.real()

    def flops(self, weight: Type) -> Size:
        """Two for every entry of a stack, for its sigma; a product of one matrix with one vector counts as nothing."""
        return weight.entries * 2 if len(weight.sizes) == 3 else Size.constant(0)

    def parameters(self, weight: Type) -> tuple[Param, ...]:
        """gamma, one number for each matrix."""
        start = constant(1.0) if self.init == "sigma" else Init("constant", self.init)
        # fully_shard refuses 0-d parameters.
        return (Param("gamma", weight.sizes[:-2] or (Size.constant(1),), start, self.decay, self.lr),)

    def states(self, weight: Type) -> tuple[State, ...]:
        """The vectors of the power iteration: u [E] and v [D], for each matrix."""
        unit = Init("unit", ONE)
        return State("u", weight.sizes[:-1], unit), State("v", (*weight.sizes[:-2], weight.last), unit)

    def lower(self, site: Site, weight: str, gamma: str, u: str, v: str) -> str:
        """The rescaled matrix."""
        return f"sigma_reparam({weight}, {gamma}, {u}, {v})"

    def on_init(self, site: Site, weight: str, gamma: str, u: str, v: str) -> str:
        """u and v come close to the singular vectors; gamma takes sigma where that is asked for."""
        steps = f"power_iteration(full({weight}), {u}, {v}, {POWER_ITERATIONS})"
        sigma = f"assign({gamma}, spectral_norm(full({weight}), {u}, {v}).reshape(-1))"
        return f"{steps}\n{sigma}" if self.init == "sigma" else steps

    def on_step(self, site: Site, weight: str, gamma: str, u: str, v: str) -> str:
        """One power iteration on the new weight."""
        return f"power_iteration(full({weight}), {u}, {v})"
