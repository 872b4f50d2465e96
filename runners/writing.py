"""A model that goes on with sequences of tokens, and how the next token is chosen."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockgraph.kernels.cache import Cache
from blockgraph.model import Model
from runners.spec import DOCUMENTS

PART = 1024  # tokens of a prompt that are taken at once; their scores with all earlier ones are in memory


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen: at temperature 0 the likeliest, else drawn.

    Drawn from the `top_k` likeliest, and from the fewest that together have the probability `top_p`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def of(self, logits_BV: Tensor, draws: Sequence[torch.Generator]) -> Tensor:
        """A token for each row; a row's draw is its own, so it does not depend on the others."""
        if self.temperature == 0:
            return logits_BV.argmax(dim=-1)
        scaled_BV, ids_BV = self._ordered(logits_BV.double() / self.temperature)
        share_BV = torch.softmax(scaled_BV, dim=-1)
        if self.top_p is not None:
            share_BV = share_BV * (share_BV.cumsum(-1) - share_BV < self.top_p)
        reached_BV = share_BV.cumsum(-1)
        total_B1 = reached_BV[:, -1:].contiguous()
        drawn_B1 = torch.stack([torch.rand(1, generator=draw, dtype=torch.float64) for draw in draws]).to(total_B1)
        # The last entry with a share, where rounding has made the draw the whole.
        last_B1 = torch.searchsorted(reached_BV, total_B1)
        at_B1 = torch.searchsorted(reached_BV, drawn_B1 * total_B1, right=True).minimum(last_B1)
        return ids_BV.gather(-1, at_B1).squeeze(-1)

    def _ordered(self, scaled_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with their tokens: the likeliest first where that matters, and no more than asked for."""
        if self.top_k is not None:
            found = scaled_BV.topk(min(self.top_k, scaled_BV.shape[-1]), dim=-1)
            return found.values, found.indices
        if self.top_p is not None:
            ordered = scaled_BV.sort(dim=-1, descending=True)
            return ordered.values, ordered.indices
        return scaled_BV, torch.arange(scaled_BV.shape[-1], device=scaled_BV.device).expand_as(scaled_BV)


class Writer:
    """Goes on with rows of tokens of one length, in a cache with room for `capacity` or, without one, all over again.

    `pieces` are the tokens that mean something, and `end` the one that stands behind a document. `others` are inputs
    beside the tokens that stay the same, such as the text that an encoder reads.
    """

    def __init__(self, model: Model, capacity: int, pieces: int, end: int, cached: bool):
        self.model, self.pieces, self.end = model, pieces, end
        self.cache = Cache(capacity) if cached else None
        self.tokens: Tensor | None = None
        self.others: dict[str, Tensor] = {}

    @torch.inference_mode()
    def read(self, tokens_BT: Tensor) -> Tensor:
        """The logits [batch, pieces] behind these tokens, which follow on all that were read before."""
        seen = 0 if self.tokens is None else self.tokens.shape[1]
        self.tokens = tokens_BT if self.tokens is None else torch.cat((self.tokens, tokens_BT), dim=1)
        if self.cache is None:
            logits_BTV = self.model(*self._inputs(0, self.tokens.shape[1]))
        else:
            self.cache.last_only = True
            for first in range(seen, self.tokens.shape[1], PART):
                end = min(first + PART, self.tokens.shape[1])
                logits_BTV = self.model.extend(*self._inputs(first, end), self.cache)
                self.cache.advance(end - first)
        logits: Tensor = logits_BTV[:, -1, : self.pieces].float()
        return logits

    def _inputs(self, first: int, end: int) -> list[Tensor]:
        """The tokens from `first` to before `end`, and the documents they stand in where the model reads them."""
        assert self.tokens is not None
        ends = (self.tokens == self.end).long()
        rows = {DOCUMENTS: ends.cumsum(1) - ends}
        inputs = self.model.graph.inputs
        return [self.others[n] if n in self.others else rows.get(n, self.tokens)[:, first:end] for n in inputs]


def written(writer: Writer, prompt_BT: Tensor, count: int, choice: Choice, seed: int) -> Iterator[list[int | None]]:
    """A token for each row, up to `count` times; None for a row that has ended.

    Row i of a seed is the same whatever the number of rows. Raises `ArithmeticError` when logits are not finite.
    """
    draws = [_draw(seed, row) for row in range(len(prompt_BT))]
    open_ = [True] * len(prompt_BT)
    new_BT = prompt_BT
    for _ in range(count):
        logits_BV = writer.read(new_BT)
        if not logits_BV.isfinite().all():
            raise ArithmeticError("the model's logits are not finite")
        chosen_B = choice.of(logits_BV, draws)
        found = chosen_B.tolist()
        open_ = [was and token != writer.end for was, token in zip(open_, found, strict=True)]
        yield [token if goes_on else None for token, goes_on in zip(found, open_, strict=True)]
        if not any(open_):
            return
        new_BT = chosen_B[:, None]


def _draw(seed: int, row: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
