"""Model, optimiser and data of a run, and the one way a step is taken."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from blockgraph.model import Model
from runners import optim
from runners.config import RunConfig
from runners.loss import Loss, loss_for, without_own
from runners.probing import Probing
from runners.samples import Samples
from runners.schedule import factor
from runners.shards import Dataset
from runners.spec import DOCUMENTS
from runners.stored import Stored
from runners.world import World

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Step:
    """What a step measured: losses of its batch in nats, and the gradient's norm before clipping.

    `own_loss` is what the model's nodes add, such as for the balance of experts.
    """

    number: int
    loss: float
    z_loss: float
    grad_norm: float
    own_loss: float = 0.0

    @property
    def fault(self) -> str:
        """Why the step must not be taken, or nothing."""
        if not math.isfinite(self.loss):
            return f"the loss of step {self.number} is {self.loss}"
        return "" if math.isfinite(self.grad_norm) else f"the gradient norm of step {self.number} is {self.grad_norm}"


class Trainer:
    """Takes steps; a step is a function of the state before it, the seed, its number and the index of its batch.

    The data follow from that index, and random draws from the number, so that a checkpoint needs neither. Each
    process takes its share of every batch, in the order of the ranks, so what is learned does not follow from theirs.
    """

    def __init__(
        self,
        model: Model,
        config: RunConfig,
        data: Dataset,
        world: World,
        compiled: bool,
        loss: Loss | None = None,
        cap: float | None = None,
    ):
        model.compute_dtype = DTYPES[config.train.precision]
        self.model, self.config, self.world = model, config, world
        self.train, self.validation = data.train.shuffled(config.train.seed), data.validation
        self.optimizer = optim.make(model, model.weights, config.optim, compiled)
        self.parameters = dict(model.named_parameters())
        self.loss = loss or loss_for(config.optim.z_loss, compiled)
        self.probing = Probing(model, world, cap)
        self.numbered = DOCUMENTS in model.graph.inputs

    def step(
        self, number: int, batch: int | None = None, accepts: Callable[[Step], bool] = lambda step: not step.fault
    ) -> Step:
        """Measure step `number`, counted from 1, and take it if `accepts` agrees.

        `batch` is the index of its batch in the data, `number - 1` where no batch was passed over.
        """
        torch.manual_seed(self.config.train.seed << 32 | number)
        losses = self._backward(number - 1 if batch is None else batch).double()
        norm = optim.grad_norm(self.parameters.values()).double()
        # One message for all that is summed over the processes; of each shard there are `copies`.
        loss, z_loss, own, square = self.world.sum(torch.stack([*losses, norm.square() / self.world.copies]))
        norm = square.sqrt().float()
        step = Step(number, loss.item(), z_loss.item(), norm.item(), own.item())
        if self.probing.active:
            self.probing.weights()
        if accepts(step):
            self._update(number, norm)
        else:
            self.model.forget()
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
        total, micro = torch.zeros((), dtype=torch.float64), self.config.train.micro
        for first in range(0, self.held_out, micro * self.world.size):
            start = first + micro * self.world.rank
            count = max(0, min(micro, self.held_out - start))
            # A process that has none left still takes part in gathering the weights.
            loss, *_ = self._losses(self.validation, start if count else 0, count or 1)
            total += loss.item() * count
        self.model.train()
        return self.world.sum(total.to(self.world.device)).item() / self.held_out

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
    def restore(self, model: Stored, moments: Stored) -> None:
        """Set the state to what `tensors` returned; a process reads its own shards, one at a time."""
        for name, value in _persistent(self.model).items():
            model.fill(value, name)
        state = self.optimizer.state_dict()
        names = [name.rpartition(".") for name in moments]
        index = {name: number for number, name in enumerate(self._names)}
        state["state"] = {index[name]: {} for name, _, _ in names}
        for name, _, key in names:
            state["state"][index[name]][key] = self._moment(name, key, moments)
        self.optimizer.load_state_dict(state)

    def _moment(self, name: str, key: str, moments: Stored) -> Tensor:
        """A saved moment, sharded as its parameter is, in the place of the one that is there; a count stays whole."""
        parameter, saved = self.parameters[name], f"{name}.{key}"
        if moments.shape(saved) != parameter.shape:
            return moments[saved]
        moment: Tensor = self.optimizer.state.get(parameter, {}).get(key, torch.empty_like(parameter))
        moments.fill(moment, saved)
        return moment

    @property
    def _names(self) -> list[str]:
        """Names of the parameters in the optimiser's own order."""
        known = {id(parameter): name for name, parameter in self.parameters.items()}
        return [known[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]

    def _backward(self, index: int) -> Tensor:
        """Gradients of the whole batch, gathered over its micro-batches; the losses of this process's share of it."""
        batch, z_loss, world = self.config.train.batch, self.config.optim.z_loss, self.world
        share = batch // world.size
        first = index * batch + share * world.rank
        total = torch.zeros(3, device=world.device)
        for start in range(0, share, self.config.train.micro):
            count = min(self.config.train.micro, share - start)
            self._reduce_gradients(start + count == share)
            loss, z, own = self._losses(self.train, first + start, count)
            # FSDP takes the mean over the processes, and a sum is needed.
            torch.autograd.backward((loss + z_loss * z + own) * (count / batch * world.size))
            if self.probing.active:
                self.probing.fold()
            total += torch.stack([loss, z_loss * z, own]).detach() * (count / batch)
        return total

    def _reduce_gradients(self, last: bool) -> None:
        """Let the next backward pass send its gradients only if it is the last one of the step."""
        if self.world.mesh:
            # A method of FSDP's class, which takes a second to import.
            cast(Any, self.model).set_requires_gradient_sync(last)

    def _losses(self, samples: Samples, first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss of some sequences, and the means of its z-loss and of what the model adds, which may be 0."""
        outputs, targets = self._predicted(samples, first, count)
        loss, z, *own = self.loss(outputs, targets)
        if self.probing.active:
            self.probing.log_z(loss, without_own(outputs) if own else outputs, targets)
        return loss, z, own[0] if own else torch.zeros_like(z)

    def _predicted(self, samples: Samples, first: int, count: int) -> tuple[Any, Tensor]:
        """What the model puts out for some sequences, and the tokens that it should have foretold."""
        if not self.numbered:
            tokens = samples.batch(first, count).to(self.world.device)
            return self.model(tokens[:, :-1]), tokens[:, 1:]
        tokens, documents = (x.to(self.world.device) for x in samples.batch_with_documents(first, count))
        if self.config.data.packing == "across":
            documents.zero_()
        return self.model(tokens[:, :-1], documents=documents), tokens[:, 1:]

    def _update(self, number: int, norm: Tensor) -> None:
        optim.clip(self.parameters.values(), self.config.optim.clip, norm)
        optim.set_factor(self.optimizer, factor(self.config, number))
        self.optimizer.step()
        if self.probing.active:
            self.probing.updates(self.optimizer)
        self.model.after_step()


def _persistent(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, each once; a parameter that layers share has one name here."""
    saved = model.state_dict().keys()
    return {**dict(model.named_parameters()), **{name: b for name, b in model.named_buffers() if name in saved}}
