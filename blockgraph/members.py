"""Lines under `nodes` to named members: nodes with their ops, groups with members of their own."""

from collections.abc import Mapping as Table
from dataclasses import dataclass

from blockgraph.dims import Dims
from blockgraph.errors import Place, Problems, closest, near_miss
from blockgraph.names import check_name
from blockgraph.op import Op
from blockgraph.schema import fill, word
from blockgraph.scope import Entry, Scope
from blockgraph.syntax import Mapping, Scalar, Value, describe

COMMON = ("op", "in", "title")
GROUP = ("nodes", "title")


@dataclass
class Members:
    """Reads the nodes and groups of one text; a member that is at fault is entered all the same, without an op."""

    ops: Table[str, type[Op]]
    dims: Dims
    problems: Problems

    def read(self, tree: Mapping, inputs: tuple[str, ...]) -> Scope:
        """Every member of the text, in a scope that knows the inputs."""
        root = Scope("", inputs=inputs)
        self.fill(root, tree, None)
        for name in inputs:
            if name in root.members:
                body = tree.items["nodes"]
                assert isinstance(body, Mapping)
                self.problems.add(f"'{name}' is the name of an input already; choose another", body.keys[name])
        return root

    def fill(self, scope: Scope, tree: Mapping, above: Entry | Scope | None) -> None:
        """Enter the members of a scope; `above` is what the first of them reads when it does not say."""
        body = tree.items["nodes"]
        if not isinstance(body, Mapping) or not body.items:
            about = f"{scope.path}: " if scope.path else ""
            found = "" if isinstance(body, Mapping) else f", found {describe(body)}"
            self.problems.add(f"{about}'nodes' holds at least one `name: {{op: ...}}`{found}", body.place)
            return
        for name, text in body.items.items():
            check_name(name, "the name", body.keys[name], self.problems, module=True)
            above = scope.members[name] = self.member(scope, name, text, body.keys[name], above)

    def member(self, scope: Scope, name: str, text: Value, place: Place, above: Entry | Scope | None) -> Entry | Scope:
        """A node or a group."""
        path = scope.within(name)
        if not isinstance(text, Mapping):
            hint = f"did you mean `{{op: {text.raw}}}`?" if isinstance(text, Scalar) and text.raw in self.ops else ""
            self.problems.add(f"{path}: a node is written `{{op: ...}}`, found {describe(text)}", text.place, hint)
            return Entry(path, Mapping({}, {}, text.place), place, scope, home=path, above=above)
        if "nodes" in text.items and "op" not in text.items:
            group = Scope(path, scope, self.title(text, path), place)
            self.refuse_unknown(text, path)
            self.fill(group, text, above)
            return group
        return self.entry(Entry(path, text, place, scope, home=path, above=above))

    def entry(self, entry: Entry) -> Entry:
        """The node with its op and its outputs, as far as its line allows."""
        entry.title = self.title(entry.text, entry.path)
        entry.op = self.op(entry)
        entry.outputs = entry.op.ports_out() if entry.op else ()
        for port in entry.outputs if len(entry.outputs) > 1 else ():
            if not check_name(port, f"{entry.label}: the output", entry.place, self.problems):
                entry.op = None
        if len(set(entry.outputs)) < len(entry.outputs):
            self.problems.add(f"{entry.label}: two outputs have one name: {', '.join(entry.outputs)}", entry.place)
            entry.op = None
        return entry

    def on_port(self, owner: Entry, port: str, text: Mapping) -> Entry:
        """A node that is written on a weight port of another; its parameters live under the owner's path."""
        path, place = f"{owner.path}@{port}", owner.text.keys[port]
        entry = self.entry(Entry(path, text, place, owner.scope, home=owner.home))
        if entry.op is not None and (len(entry.outputs) != 1 or type(entry.op).layers is not Op.layers):
            self.problems.add(f"{entry.label}: a weight is one value, which this op does not give", place)
            entry.op = None
        return entry

    def op(self, entry: Entry) -> Op | None:
        """The op of a node, its fields read and checked; None with problems where they do not fit."""
        items = entry.text.items
        if "op" not in items:
            self.tell_no_op(entry)
            return None
        name = word(items["op"], f"{entry.path}: an op", self.problems)
        entry.kind = name or "?"
        if name is None or name not in self.ops:
            hint = near_miss(name or "", self.ops) or "`blockgraph ops` lists the ops"
            if name is not None:
                self.problems.add(f"no op is called '{name}'", items["op"].place, hint)
            return None
        kind = self.ops[name]
        apart = (*COMMON, *kind.weights)
        fields = Mapping({k: v for k, v in items.items() if k not in apart}, entry.text.keys, entry.text.place)
        about = f"{entry.label}: "
        others = [key for key in apart if key != "op"]  # which is there, so no misspelt key was meant to be it
        return fill(kind, fields, self.problems, about=about, context={"dims": self.dims}, known=others)

    def tell_no_op(self, entry: Entry) -> None:
        """A problem for a line with neither `op` nor `nodes`, at the key that was meant to be one of them."""
        near = {key: closest(key, ("op", "nodes")) for key in entry.text.items if key not in COMMON}
        misspelt = next((key for key, meant in near.items() if meant), None)
        if misspelt is not None:
            hint = f"did you mean '{near[misspelt]}'?"
            self.problems.add(f"{entry.path}: unknown key '{misspelt}'", entry.text.keys[misspelt], hint)
        else:
            tight = next((key for key in entry.text.items if key.startswith(("op:", "nodes:"))), None)
            hint = f"a space follows the colon in '{tight}'" if tight else "a node has `op`, a group has `nodes`"
            self.problems.add(f"{entry.path}: 'op' is missing", entry.text.place, hint)

    def title(self, text: Mapping, path: str) -> str:
        """The figure's label for a node or a group; empty where none is given."""
        value = text.items.get("title")
        return (word(value, f"{path}: a title", self.problems) or "") if value is not None else ""

    def refuse_unknown(self, text: Mapping, path: str) -> None:
        """A problem for every key that means nothing in a group."""
        for key in text.items:
            if key not in GROUP:
                hint = near_miss(key, GROUP) or f"a group has {' and '.join(GROUP)}"
                self.problems.add(f"{path}: unknown key '{key}'", text.keys[key], hint)
