"""The blocks that stacks hold: which one each layer is, and where its text is found."""

from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from pathlib import Path

from blockgraph.errors import OpError, Place, Problems, SpecError, near_miss
from blockgraph.graph import Graph
from blockgraph.library import Library, stem
from blockgraph.members import COMMON
from blockgraph.names import unique
from blockgraph.schema import word
from blockgraph.scope import Entry
from blockgraph.syntax import Mapping, Value, describe, scalars

MAX_HOLDING = 4  # stacks inside blocks of stacks


@dataclass(frozen=True)
class Slot:
    """A block that is to stand for a name: what it is called, where its path starts, where that is said."""

    block: str
    folder: Path
    place: Place


@dataclass
class Found:
    """The text of a block and its folder; `identity` tells one text from another, `block` is how it was asked for.

    `inside` says that the text which asks for it holds it too; `graph` is what it links to.
    """

    text: Mapping
    folder: Path
    identity: object
    block: str
    inside: bool = False
    graph: Graph | None = None


def layer_names(entry: Entry, problems: Problems) -> tuple[str, ...]:
    """The block of every layer, by name; empty with problems where the op's fields do not say."""
    assert entry.op is not None
    try:
        return entry.op.layers()
    except OpError as error:
        problems.add(f"{entry.label}: {error}", entry.place)
        return ()


def tell_unknown_shares(entry: Entry, problems: Problems) -> None:
    """A problem for every path that layers are to share and that leads to no node or group of each block."""
    assert entry.op is not None
    for path in entry.op.sharing():
        for block in entry.blocks:
            known = {*block.groups, *(node.path for node in block.nodes.values() if not node.on_port)}
            if path not in known:
                told = f"{entry.label}: '{path}' is no node or group of the block {block.name}"
                problems.add(told, _place_of(path, entry), near_miss(path, known))


def tell_unknown_values(entry: Entry, problems: Problems) -> None:
    """A problem for every value that is to be carried apart and that no block gives, and where none is left to give."""
    assert entry.op is not None
    given = {name for block in entry.blocks for name in block.outputs}
    for name in entry.op.apart():
        if name not in given:
            told = f"{entry.label}: no block gives a value '{name}'"
            problems.add(
                told, _place_of(name, entry), near_miss(name, given) or f"given are {', '.join(sorted(given))}"
            )
    if not entry.outputs:
        problems.add(f"{entry.label}: every value is carried apart, so it gives none", entry.place)


def _place_of(word: str, entry: Entry) -> Place:
    """Where a word stands among the keys and values of a node's fields."""
    fields = [value for key, value in entry.text.items.items() if key not in COMMON]
    keys = (place for field in fields if isinstance(field, Mapping) for key, place in field.keys.items() if key == word)
    found = (item.place for field in fields for item in scalars(field) if item.raw == word)
    return next(found, next(keys, entry.place))


@dataclass
class Shelf:
    """Where the stacks of one text find their blocks: its slots, the blocks written inside it, the library.

    `chain` are the texts around this one; `found` is what was asked for, by the name that asked.
    """

    tree: Mapping
    folder: Path
    slots: Table[str, Slot]
    library: Library
    problems: Problems
    chain: tuple[object, ...] = ()
    found: dict[str, Found] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def find(self, name: str, entry: Entry) -> Found | None:
        """The block that a stack calls `name`; None with a problem where there is none that it can hold."""
        self.asked.add(name)
        if name not in self.found:
            slot = self.slot(name, entry)
            found = self.look_up(slot) if slot else None
            if found is None or slot is None or not self.fits(found, slot):
                return None
            self.found[name] = found
        return self.found[name]

    def slot(self, name: str, entry: Entry) -> Slot | None:
        """What a name stands for: what was set for it, or what the text's own slots say, or itself."""
        own = self.own_slots()
        if name in self.slots or name not in own.items:
            return self.slots.get(name) or Slot(name, self.folder, _place_of(name, entry))
        block = word(own.items[name], f"the slot '{name}'", self.problems)
        return Slot(block, self.folder, own.items[name].place) if block else None

    def look_up(self, slot: Slot) -> Found | None:
        """The text of a block: written inside this text, or from the library."""
        blocks = self.tree.items.get("blocks")
        inside = blocks.items if isinstance(blocks, Mapping) else {}
        if slot.block in inside:
            text = inside[slot.block]
            if isinstance(text, Mapping):
                return Found(text, self.folder, id(text), slot.block, inside=True)
            self.problems.add(f"a block is a mapping with `block: NAME`, found {describe(text)}", text.place)
            return None
        others = [*self.own_slots().items, *inside]
        try:
            source = self.library.source(slot.block, slot.folder, slot.place, self.problems, others)
        except SpecError as error:
            self.problems.found.extend(error.problems)
            return None
        if source is None:
            return None
        return Found(source.text, source.folder, source.identity, slot.block)

    def names(self) -> dict[str, str]:
        """What each block is called in a whole text, by the name that asked for it.

        A stack's own word stays. What stands in a slot is called by its name, by the last word of its path and by its
        edits, with a count behind where another block is called so.
        """
        slots = self.own_slots().items
        called = {asked: asked for asked in self.found if asked not in slots}
        for asked in (asked for asked in self.found if asked in slots):
            called[asked] = self.name_in_slot(self.found[asked], called, slots)
        return called

    def name_in_slot(self, found: Found, called: Table[str, str], slots: Table[str, Value]) -> str:
        """What the block in a slot is called among those that are called already."""
        others = {name for asked, name in called.items() if self.found[asked].identity != found.identity}
        word = stem(found.block)
        return unique(word, others if word == found.block else others | slots.keys())

    def fits(self, found: Found, slot: Slot) -> bool:
        """Whether a text is a block that can stand here."""
        if "model" in found.text.items:
            self.problems.add(f"'{slot.block}' is a model; a stack holds blocks", slot.place)
        elif found.identity in self.chain:
            self.problems.add(f"the block '{slot.block}' holds itself", slot.place)
        elif len(self.chain) > MAX_HOLDING:
            self.problems.add(f"stacks in blocks are nested deeper than {MAX_HOLDING} levels", slot.place)
        else:
            return True
        return False

    def own_slots(self) -> Mapping:
        """The slots that the text itself names."""
        slots = self.tree.items.get("slots")
        return slots if isinstance(slots, Mapping) else Mapping({}, {}, self.tree.place)

    def tell_unused(self) -> None:
        """A problem for every slot that no stack holds; blocks written inside may wait to be chosen."""
        own = self.own_slots()
        for name in own.items.keys() - self.asked:
            self.problems.add(f"the slot '{name}' is held by no stack", own.keys[name], near_miss(name, self.asked))
