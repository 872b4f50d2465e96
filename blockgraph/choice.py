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

    def sort(self, settings: Table[str, Setting]) -> tuple[dict[str, Slot], dict[str, int | None]]:
        """Blocks for slots, numbers for dims; what is set by name goes before what its `size` says."""
        slots = {name: self.slot(name, value) for name, value in settings.items() if name in self.slots}
        dims = self.size(str(settings["size"])) if "size" in settings else {}
        for name, value in settings.items():
            if name not in slots and name != "size":
                dims |= self.number(name, value, self.place(name))
        return slots, dims

    def tell_unfit(self) -> None:
        """A problem for everything in the spec's `sizes` that is no set of dims."""
        for name, body in self.sizes.items.items():
            if not isinstance(body, Mapping):
                self.problems.add(f"the size '{name}' is a mapping of dims, found {describe(body)}", body.place)
                continue
            for dim, value in body.items.items():
                self.number(dim, plain(value), value.place)

    def tell_unknown(self, settings: Table[str, Setting], known: set[str]) -> None:
        """A problem for every name that is set and is no dim of the spec or of a block that it holds.

        Sizes that are not chosen are for the spec's own blocks, so they are looked at where no slot is set.
        """
        for name in settings:
            if name not in self.slots and name != "size":
                self.known(name, self.place(name), "dim or slot", {*known, *self.slots, "size"})
        for size, body in self.sizes.items.items():
            if isinstance(body, Mapping) and (size == settings.get("size") or self.slots.keys().isdisjoint(settings)):
                for name, place in body.keys.items():
                    self.known(name, place, "dim", known)

    def known(self, name: str, place: Place, what: str, known: set[str]) -> None:
        """A problem for a name that is not known."""
        if name in (*RUNTIME, LAYER):
            self.problems.add(f"'{name}' is bound when the model runs, and cannot be set", place)
        elif name not in known:
            hint = near_miss(name, known) or f"known are {', '.join(sorted(known))}"
            self.problems.add(f"no {what} is called '{name}'", place, hint)

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

    def size(self, name: str) -> dict[str, int | None]:
        """The dims of a named set."""
        known = self.sizes.items
        if name not in known:
            hint = near_miss(name, known) or (f"known are {', '.join(known)}" if known else "the spec has no `sizes`")
            self.problems.add(f"no size is called '{name}'", self.place("size"), hint)
        body = known.get(name)
        dims: dict[str, int | None] = {}
        for dim, value in body.items.items() if isinstance(body, Mapping) else ():
            dims |= self.number(dim, plain(value), value.place)
        return dims

    def number(self, name: str, value: Setting, place: Place) -> dict[str, int | None]:
        """A dim with its number; None with a problem where it is none."""
        try:
            size = Dims({}).size(value if isinstance(value, int) else str(value))
        except OpError as error:
            self.problems.add(f"{name}: {error}", place)
            return {name: None}
        return {name: size.known}
