"""Batches that a run has passed over, by their index in the data."""

from collections.abc import Iterable

Interval = tuple[int, int]  # the first index, and the one behind the last


def batch_of(step: int, passed: Iterable[Interval]) -> int:
    """Index of the batch that step number `step`, counted from 1, is trained on."""
    index = step - 1
    for first, end in disjoint(passed):
        if index >= first:
            index += end - first
    return index


def disjoint(intervals: Iterable[Interval]) -> list[Interval]:
    """The same indices in order, as intervals that neither meet nor overlap."""
    found: list[Interval] = []
    for first, end in sorted(intervals):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return found
