"""Edits applied to the text of a spec, step by step, in every block that it holds."""

from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Table
from pathlib import Path

from blockgraph.edits.draft import Around, Draft
from blockgraph.edits.file import Edit, edit_of
from blockgraph.edits.layout import Keys, Layout, quoted
from blockgraph.edits.moving import JOIN, held, relocated
from blockgraph.edits.places import Finder, Lacking
from blockgraph.edits.verbs import Outcome, Verbs
from blockgraph.errors import Problem, Problems, SpecError
from blockgraph.library import parts, shown
from blockgraph.link import Linker
from blockgraph.names import unique
from blockgraph.syntax import Mapping, Scalar, parse


def applied(text: str, edit: Edit, around: Around, name: str) -> tuple[str, list[str]]:
    """The text of a spec with an edit in every block that it holds, and what was done; `name` stands in messages.

    Raises `SpecError` at the edit's words where the base lacks a place, or has all that the edit would bring.
    """
    outcome = Outcome(name)
    layout = Layout(text)
    for where, known in _blocks(text, around):
        layout = _in_block(layout, where, known, edit, around, outcome)
    layout = _in_slots(layout, text, edit, around, outcome)
    _refuse(edit, outcome)
    return _headed(layout, edit).text, outcome.done + outcome.there


def _blocks(text: str, around: Around) -> Iterator[tuple[Keys, Table[str, int]]]:
    """Where the blocks of a text stand, each with the dims that it knows from around it."""
    problems = Problems()
    tree = parse(text, around.file, problems)
    if "model" not in tree.items:
        problems.stop_if_any()
        yield (), {}
        return
    graph = Linker(around.ops, around.library, problems).link(tree, around.folder)
    problems.stop_if_any()
    assert graph is not None
    known = {name: size.known for name, size in graph.dims.sizes.items() if size.known is not None}
    blocks = tree.items.get("blocks")
    for key in blocks.items if isinstance(blocks, Mapping) else ():
        yield ("blocks", key), known


def _in_block(
    layout: Layout, where: Keys, known: Table[str, int], edit: Edit, around: Around, outcome: Outcome
) -> Layout:
    draft = Draft.of(layout, where, around, known)
    about = f"{where[-1]}: " if where else ""
    for number, action in enumerate(edit.actions):
        try:
            verbs = Verbs(draft, action, Finder(draft.graph, edit.places), about, outcome)
            draft = getattr(verbs, action.verb)()
            outcome.found.add(number)
        except Lacking as lacking:
            outcome.lacking.setdefault(number, (where[-1] if where else draft.graph.name, lacking))
        except SpecError as error:
            first = error.problems[0]
            told = f"{edit.name} does not fit {outcome.base}: {first.message}"
            raise SpecError([Problem(told, action.place, first.hint)]) from None
    return draft.layout


def _in_slots(layout: Layout, text: str, edit: Edit, around: Around, outcome: Outcome) -> Layout:
    """With the edit in each block that a slot names and that stands in a file of its own, whose text moves inside."""
    tree = parse(text, around.file)
    slots, blocks = tree.items.get("slots"), tree.items.get("blocks")
    names = slots.items if isinstance(slots, Mapping) else {}
    inside = set(blocks.items) if isinstance(blocks, Mapping) else set()
    moved: dict[str, str] = {}
    for slot, block in names.items():
        if isinstance(block, Scalar) and block.raw not in inside:
            if block.raw not in moved:
                layout, moved[block.raw] = _taken_in(layout, block, edit, around, outcome, {*names, *inside})
                inside.add(moved[block.raw])
            layout = layout.replaced(("slots", slot), quoted(moved[block.raw], "k: {{v: {}}}"))
            outcome.found |= set(range(len(edit.actions)))
    return layout


def _taken_in(
    layout: Layout, block: Scalar, edit: Edit, around: Around, outcome: Outcome, taken: set[str]
) -> tuple[Layout, str]:
    """With the edited text of a block inside, and its name there; a text in braces names the file and the edit."""
    text, folder, done = _edited_block(block, edit, around)
    layout_of = Layout(text)
    name = unique(layout_of.pairs(())["block"][1].value, taken)
    found = held(layout, name, relocated(renamed(text, name), folder, around.folder))
    outcome.done += [f"{block.raw}: {told}" for told in done]
    if found is None:
        return layout, f"{block.raw}{JOIN}{around.library.word_for(edit.path, around.folder)}"
    return found, name


def _edited_block(block: Scalar, edit: Edit, around: Around) -> tuple[str, Path, list[str]]:
    """The text of a block's file with the edits that are named behind it, and with this one; what this one did."""
    base, *before = parts(block.raw)
    problems, library = Problems(), around.library
    path = library.find(base, around.folder, block.place, problems)
    files = [library.find_edit(word, around.folder, block.place, problems) for word in before]
    problems.stop_if_any()
    assert path is not None
    edits = [*(edit_of(file, around.ops) for file in files if file is not None), edit]
    library.open(path, problems)  # so that a text at fault is told as it lies there
    problems.stop_if_any()
    text, names, done = path.read_text(encoding="utf-8").removeprefix("\ufeff"), list[str](), list[str]()
    for one in edits:
        inner = Around(around.ops, library, path.parent, shown_name(shown(path), names))
        text, done = applied(text, one, inner, inner.file)
        names.append(one.name)
    return text, path.parent, done


def _refuse(edit: Edit, outcome: Outcome) -> None:
    """Raise where a place is in no block, or nothing was left to do."""
    problems = Problems()
    for number, (block, lacking) in outcome.lacking.items():
        action = edit.actions[number]
        if number in outcome.found or action.step.optional:
            continue
        word = next((word for word in action.targets if word.raw == lacking.place), action.targets[0])
        asked = f"'{word.raw}'" if word.raw == lacking.place else f"'{word.raw}', because it has no '{lacking.place}'"
        told = f"{outcome.base}: the block {block} has no {asked}: {lacking.looked}"
        problems.add(told, word.place)
    if not problems.found and not outcome.done:
        first = edit.actions[0]
        there = ", ".join(outcome.there) or "it holds no block that an edit can go to"
        problems.add(f"{outcome.base}: nothing to do: {there}", first.place)
    problems.stop_if_any()


def _headed(layout: Layout, edit: Edit) -> Layout:
    """With name, title and paper of the edit behind those of the base."""
    pairs = layout.pairs(())
    kind = "model" if "model" in pairs else "block"
    name = f"{pairs[kind][1].value}_{edit.name}"
    layout = layout.replaced((kind,), name)
    within = "k: [{}]" if layout.flows(()) else "k: {}"
    for key, new in (("title", edit.title), ("paper", edit.paper)):
        old = pairs[key][1].value if key in pairs else ""
        both = (JOIN if key == "title" else "; ").join(filter(None, dict.fromkeys((old or name, new))))
        if key in pairs:
            layout = layout.replaced((key,), quoted(both, within))
        elif new and key == "paper":
            layout = layout.keyed(("paper",), quoted(new, within), (kind, "title"))
        elif new:
            layout = layout.keyed(("title",), quoted(both, within), (kind,))
    return layout


def renamed(text: str, name: str) -> str:
    """A spec's text under another name."""
    layout = Layout(text)
    return layout.replaced(("model" if "model" in layout.pairs(()) else "block",), name).text


def shown_name(path: Path, edits: Iterable[str]) -> str:
    """A base and its edits, as errors call the text that they make."""
    return JOIN.join((str(path), *edits))
