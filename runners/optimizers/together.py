"""Several optimisers that act as one."""

from itertools import islice
from typing import Any

from torch.optim import Optimizer


class Together(Optimizer):
    """Takes the steps of its parts; groups and state are theirs, in their order, under one state dict."""

    def __init__(self, *parts: Optimizer):
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._share()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step of each part."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; this makes new groups, which the parts are handed."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self.parts:
            part.state = self.state
            part.param_groups = list(islice(groups, len(part.param_groups)))
