"""What all tests share."""

from hypothesis import settings

# Examples are drawn alike on every machine, and a busy one is not a failure.
settings.register_profile("blockgraph", deadline=None, derandomize=True)
settings.load_profile("blockgraph")
