"""What all tests share."""

import pytest
from hypothesis import settings

# Examples are drawn alike on every machine, and a busy one is not a failure.
settings.register_profile("blockgraph", deadline=None, derandomize=True)
settings.load_profile("blockgraph")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of several processes come first: they take longest, and workers share out the quick ones at the end."""
    items.sort(key=lambda item: item.get_closest_marker("dist") is None)
