"""Model, optimiser and data of a run, and the one way a step is taken."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blockgraph.kernels.base import GraphModule
from runners import optim
from runners.config import RunConfig
from runners.loss import loss_for
from runners.schedule import factor
from runners.shards import Dataset

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Step:
    """What a step measured: losses of its batch in nats, and the gradient's norm before clipping."""

    number: int
    loss: float
    z_loss: float
    grad_norm: float

    @property
    def fault(self) -> str:
        """Why the step must not be taken, or nothing."""
        if not math.isfinite(self.loss):
            return f"the loss of step {self.number} is {self.loss}"
        return "" if math.isfinite(self.grad_norm) else f"the gradient norm of step {self.number} is {self.grad_norm}"


class Trainer:
    """Takes steps; step `n` is a function of the state after step `n - 1`, the seed and `n` alone.

    The data of a step follow from its number, and so do random draws, so that a checkpoint needs neither.
    """

    def __init__(self, model: GraphModule, config: RunConfig, data: Dataset, device: torch.device, compiled: bool):
        model.compute_dtype = DTYPES[config.train.precision]
        self.model, self.config, self.device = model.to(device), config, device
        self.train, self.validation = data.train.shuffled(config.train.seed), data.validation
        self.optimizer = optim.make(model, model.weights, config.optim)
        self.parameters = dict(model.named_parameters())
        self.loss = loss_for(config.optim.z_loss, compiled)
        if compiled:
            for block in model.blocks():
                block.compile()

    def step(self, number: int) -> Step:
        """Take step `number`, counted from 1, unless its loss or gradient is not finite."""
        torch.manual_seed(self.config.train.seed << 32 | number)
        losses = self._backward(number)
        norm = optim.grad_norm(self.parameters.values())
        step = Step(number, *torch.stack([*losses, norm]).tolist())
        if not step.fault:
            self._update(number, norm)
        self.optimizer.zero_grad()
        return step

    @property
    def count(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.train.steps

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss in nats over the held-out sample, without z-loss."""
        self.model.eval()
        total, micro, count = 0.0, self.config.train.micro, self.held_out
        for first in range(0, count, micro):
            loss, _ = self._losses(self.validation.batch(first, min(micro, count - first)))
            total += loss.item() * min(micro, count - first)
        self.model.train()
        return total / count

    @property
    def held_out(self) -> int:
        """Sequences of the held-out sample."""
        return min(len(self.validation), max(1, self.config.log.evaluate_tokens // self.config.data.seq))

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The whole state, by name: what `restore` takes to go on as if nothing had happened."""
        moments = self.optimizer.state_dict()["state"]
        named = {f"{self._names[index]}.{key}": value for index in moments for key, value in moments[index].items()}
        return {"model": _persistent(self.model), "optim": named}

    @torch.no_grad()
    def restore(self, model: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        """Set the state to what `tensors` returned."""
        for name, value in _persistent(self.model).items():
            value.copy_(model[name])
        state = self.optimizer.state_dict()
        names = [name.rpartition(".") for name in moments]
        index = {name: number for number, name in enumerate(self._names)}
        state["state"] = {index[name]: {} for name, _, _ in names}
        for name, _, key in names:
            # A copy, because the loaded tensor may be a view of the checkpoint's file.
            state["state"][index[name]][key] = moments[f"{name}.{key}"].clone()
        self.optimizer.load_state_dict(state)

    @property
    def _names(self) -> list[str]:
        """Names of the parameters in the optimiser's own order."""
        known = {id(parameter): name for name, parameter in self.parameters.items()}
        return [known[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]

    def _backward(self, number: int) -> Tensor:
        """Gradients of the whole batch, gathered over its micro-batches; the mean losses."""
        batch, micro, z_loss = self.config.train.batch, self.config.train.micro, self.config.optim.z_loss
        total = torch.zeros(2, device=self.device)
        for first in range((number - 1) * batch, number * batch, micro):
            loss, z = self._losses(self.train.batch(first, micro))
            torch.autograd.backward((loss + z_loss * z) * (micro / batch))
            total += torch.stack([loss, z_loss * z]).detach() * (micro / batch)
        return total

    def _losses(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = tokens.to(self.device)
        return self.loss(self.model(tokens[:, :-1]), tokens[:, 1:])

    def _update(self, number: int, norm: Tensor) -> None:
        optim.clip(self.parameters.values(), self.config.optim.clip, norm)
        optim.set_factor(self.optimizer, factor(self.config, number))
        self.optimizer.step()
        self.model.after_step()


def _persistent(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, each once; a parameter that layers share has one name here."""
    saved = model.state_dict().keys()
    return {**dict(model.named_parameters()), **{name: b for name, b in model.named_buffers() if name in saved}}
