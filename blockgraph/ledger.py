"""Bytes of the tensors that live, by what they are for."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Moment = dict[str, int]

# Beside the weights themselves and the optimiser's state, a step needs memory for these.
GATHERED = "gathered"  # weights as kernels read them: copies in the compute dtype, or gathered from the shards
REDUCED = "reduced"  # whole gradients on their way to the shards
GRADIENTS = "gradients"  # of the weights, or this rank's shards of them
INPUT = "input"  # made before the first layer
LAYERS = "layers"  # made by the layers in the forward pass
OUTPUT = "output"  # made after the last layer, logits and loss among it
BACKWARD = "backward"  # gradients of activations, and activations that are computed again
KINDS = (GATHERED, REDUCED, GRADIENTS, INPUT, LAYERS, OUTPUT, BACKWARD)


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that live while it is entered, each under the kind that was set when it was made.

    What is made of weights alone, such as their copies in bf16, is `GATHERED`. Each time that bytes are added, a
    moment is noted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = INPUT
        self.live: Counter[str] = Counter()
        self.moments: list[Moment] = []
        self._held: Counter[str] = Counter()
        self._known: dict[int, tuple[str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors(result):
            if _key(tensor) not in self._known:
                self.add(tensor, GATHERED if self._of_weights(args) else self.kind)
        return result

    def add(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor until its storage is freed."""
        storage = tensor.untyped_storage()
        self._known[_key(tensor)] = kind, storage.nbytes()
        self.grow({kind: storage.nbytes()})
        weakref.finalize(storage, self._drop, _key(tensor))

    def skip(self, weight: Tensor) -> None:
        """Leave a weight's own bytes out."""
        self._known[_key(weight)] = GATHERED, 0

    def move(self, tensor: Tensor, kind: str) -> None:
        """Count a tensor under another kind from now on."""
        before, size = self._known[_key(tensor)]
        self._known[_key(tensor)] = kind, size
        self.live[before] -= size
        self.live[kind] += size

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Count what is made in the block under this kind."""
        before, self.kind = self.kind, kind
        yield
        self.kind = before

    def hold(self, kind: str, size: int) -> None:
        """Count bytes for which no tensor is made here, in place of those held before under this kind."""
        self.grow({kind: size - self._held[kind]})
        self._held[kind] = size

    def grow(self, sizes: Moment) -> None:
        """Count bytes for which no tensor is made here; fewer, where a size is negative."""
        self.live.update(sizes)
        self.moments.append(dict(self.live))

    def _of_weights(self, args: Any) -> bool:
        kinds = [self._known.get(_key(tensor), ("", 0))[0] for tensor in tensors(args)]
        return bool(kinds) and set(kinds) == {GATHERED}

    def _drop(self, key: int) -> None:
        kind, size = self._known.pop(key)
        self.live[kind] -= size


def tensors(tree: Any) -> list[Tensor]:
    """Every tensor in nested containers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _key(tensor: Tensor) -> int:
    """The same for tensors that share a storage, as long as it lives."""
    return int(tensor.untyped_storage()._cdata)
