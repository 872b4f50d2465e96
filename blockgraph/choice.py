"""What is set for a spec from outside: dims, slots and a named set of dims."""

from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path

from blockgraph.dims import LAYER, RUNTIME, Dims
from blockgraph.errors import OpError, Place, Problems, near_miss
from blockgraph.holding import Slot
from blockgraph.syntax import Mapping, Value, describe, plain

Setting = int | str | Path

OUTSIDE = Place("<set>", 0)


@dataclass
class Choice:
    """Settings of one spec; `places` says where each was written, and paths start from `base`."""

    tree: Mapping
    places: Table[str, Place]
    base: Path
    problems: Problems
    sized: dict[str, Place] = field(default_factory=dict)

    def sort(self, settings: Table[str, Setting]) -> tuple[dict[str, Slot], dict[str, int]]:
        """Blocks for slots, numbers for dims; what is set by name goes before what its `size` says."""
        slots = {name: self.slot(name, value) for name, value in settings.items() if name in self.slots}
        dims = self.size(str(settings["size"])) if "size" in settings else {}
        for name, value in settings.items():
            if name not in slots and name != "size":
                dims |= self.number(name, value, self.place(name))
        return slots, dims

    def tell_unknown(self, settings: Table[str, Setting], used: set[str]) -> None:
        """A problem for every name that is set, here or in one of the spec's `sizes`, and is no dim of it."""
        given = {name: self.place(name) for name in settings if name not in self.slots and name != "size"}
        sets = {key: body for key, body in self.sizes.items.items() if isinstance(body, Mapping)}
        of_sizes = [(name, place) for body in sets.values() for name, place in body.keys.items()]
        for name, place in [*given.items(), *of_sizes]:
            if name in (*RUNTIME, LAYER):
                self.problems.add(f"'{name}' is bound when the model runs, and cannot be set", place)
            elif name not in used:
                known = {*used, *self.slots, "size"} if place in given.values() else used
                hint = near_miss(name, known) or f"known are {', '.join(sorted(known))}"
                self.problems.add(f"no dim {'or slot ' * (name in given)}is called '{name}'", place, hint)
        for body in sets.values():
            for name, value in body.items.items():
                self.number(name, plain(value), value.place)

    @property
    def slots(self) -> dict[str, Value]:
        """The spec's slots."""
        slots = self.tree.items.get("slots")
        return slots.items if isinstance(slots, Mapping) else {}

    @property
    def sizes(self) -> Mapping:
        """The spec's named sets of dims."""
        sizes = self.tree.items.get("sizes")
        return sizes if isinstance(sizes, Mapping) else Mapping({}, {}, self.tree.place)

    def place(self, name: str) -> Place:
        """Where a setting was written."""
        return self.places.get(name, OUTSIDE)

    def slot(self, name: str, value: Setting) -> Slot:
        """The block set for a slot."""
        return Slot(str(value), self.base, self.place(name))

    def size(self, name: str) -> dict[str, int]:
        """The dims of a named set."""
        known = self.sizes.items
        if name not in known:
            hint = near_miss(name, known) or (f"known are {', '.join(known)}" if known else "the spec has no `sizes`")
            self.problems.add(f"no size is called '{name}'", self.place("size"), hint)
        body = known.get(name)
        dims: dict[str, int] = {}
        for dim, value in body.items.items() if isinstance(body, Mapping) else ():
            dims |= self.number(dim, plain(value), value.place)
        return dims

    def number(self, name: str, value: Setting, place: Place) -> dict[str, int]:
        """A dim with its number; empty with a problem where it is none."""
        try:
            size = Dims({}).size(value if isinstance(value, int) else str(value))
        except OpError as error:
            self.problems.add(f"{name}: {error}", place)
            return {}
        assert size.known is not None
        return {name: size.known}
