"""The gallery: a page for every shipped spec, and an index; `--check` compares instead of writing."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from proofs import Proof, collected
from relatives import PLACES, distance, nearest, ops, place_of_norms, told

from blockgraph.compare import Diff
from blockgraph.cost import cost
from blockgraph.drawing import Options, changes, figure, svg_of
from blockgraph.figure.dot import dot
from blockgraph.figure.parts import Scene
from blockgraph.figure.text import short
from blockgraph.graph import Graph
from blockgraph.library import shipped_folder
from blockgraph.load import load
from blockgraph.syntax import plain, read

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "gallery"
DRAWN = "drawn.txt"  # what every figure was drawn from, so that only what changed is drawn again
KINDS = {"blocks": "The ten blocks", "ablations": "Ablations", "models": "Models", "zoo": ""}
FAMILIES = ({"blocks", "ablations"}, {"models", "zoo"})
SEQ = 1024
MANY = 12  # lines of a difference that stand open
ABOUT = f"""# Gallery

Every spec that ships, with its figure, what it changes against its nearest relative, what it costs, and the test that
proves it. `make gallery` writes these pages; nothing here is written by hand.

- *Nearest* is the spec from which the fewest nodes differ, and how many do.
- *Proof* is read from the tests that `make test` runs, as pytest collects them: what they compare a spec with, and
  how closely the two have to agree. All are in fp32, with weights large enough for norms, caps and gates to be felt.
- *Published* is the total of parameters as it was found elsewhere, and where; tests compare it with the count.
- FLOPs are those of matrix products, forward, a token in a sequence of {SEQ}.
"""


@dataclass(frozen=True)
class Exhibit:
    """One spec with all that its page says."""

    name: str
    path: Path
    graph: Graph
    diff: Diff | None
    proofs: tuple[Proof, ...]
    totals: dict[str, str]  # by size, what is published of its parameters

    @property
    def kind(self) -> str:
        """The folder it ships in."""
        return self.path.parent.name

    @cached_property
    def sizes(self) -> dict[str, Graph]:
        """The graph at every named size but the one for tests; as it stands where there is none."""
        sizes = [size for size in plain(read(self.path)).get("sizes", {}) if size != "tiny"]
        return {size: load(self.path, size=size) for size in sizes} or {"as written": self.graph}

    def scenes(self) -> Iterator[tuple[str, Scene]]:
        """Its figures, by file name: itself, and for a block what it changes."""
        yield self.name, figure(self.graph, Options(aligned=self.kind == "blocks"))
        if self.kind in FAMILIES[0] and self.diff:
            yield f"{self.name}-against-{self.diff.a.name}", changes(self.diff)


def main() -> int:
    """Write the gallery, or say which of its files are not what would be written."""
    exhibits = all_exhibits()
    scenes = {name: scene for exhibit in exhibits for name, scene in exhibit.scenes()}
    digests = {name: sha256(dot(scene).encode()).hexdigest()[:16] for name, scene in scenes.items()}
    files = {"README.md": index(exhibits), DRAWN: "".join(f"{name} {digest}\n" for name, digest in digests.items())}
    files |= {f"{exhibit.name}.md": page(exhibit) for exhibit in exhibits}
    return unproven(exhibits) | (check(files, scenes) if "--check" in sys.argv else written(files, scenes))


def all_exhibits() -> list[Exhibit]:
    """Every shipped spec, by folder and name."""
    paths = {p.stem: p for kind in KINDS for p in sorted((shipped_folder() / kind).glob("*.yaml")) if "." not in p.stem}
    graphs = {name: load(path) for name, path in paths.items()}
    said = collected()
    found = []
    for name, path in paths.items():
        (family,) = (family for family in FAMILIES if path.parent.name in family)
        kin = {other: graphs[other] for other, place in paths.items() if place.parent.name in family}
        own = tuple(proof for proof in said.proofs if proof.spec == name)
        totals = {size: total for (spec, size), total in said.totals.items() if spec == name}
        found.append(Exhibit(name, path, graphs[name], nearest(name, kin), own, totals))
    return found


def check(files: dict[str, str], scenes: dict[str, Scene]) -> int:
    """Say what differs; figures are compared by what they are drawn from."""
    expected = {*files, *(f"figures/{name}.svg" for name in scenes)}
    present = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    stale = {name for name in present & {*files} if (FOLDER / name).read_text(encoding="utf-8") != files[name]}
    faults = {"missing": expected - present, "not a part": present - expected, "out of date": stale}
    for what, names in faults.items():
        for name in sorted(names):
            print(f"docs/gallery/{name}: {what}; run `make gallery`")
    return int(any(faults.values()))


def unproven(exhibits: list[Exhibit]) -> int:
    """Say which specs no test proves."""
    for exhibit in (exhibit for exhibit in exhibits if not exhibit.proofs):
        print(f"{exhibit.path.relative_to(ROOT)}: no test proves it; mark the one that does with `pytest.mark.proves`")
    return int(not all(exhibit.proofs for exhibit in exhibits))


def written(files: dict[str, str], scenes: dict[str, Scene]) -> int:
    """Write what changed, and take away what is no part any more."""
    before = (FOLDER / DRAWN).read_text(encoding="utf-8").splitlines() if (FOLDER / DRAWN).exists() else []
    figures = FOLDER / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for line in files[DRAWN].splitlines():
        name, path = line.split()[0], figures / f"{line.split()[0]}.svg"
        if line not in before or not path.exists():
            path.write_text(svg_of(scenes[name], str(path)), encoding="utf-8")
    for path in [*figures.glob("*"), *FOLDER.glob("*.*")]:
        if path.name not in files and path.stem not in scenes:
            path.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"wrote {FOLDER.relative_to(ROOT)}: {len(files) - 2} specs, {len(scenes)} figures")
    return 0


def index(exhibits: list[Exhibit]) -> str:
    """The index: a table for the blocks, one for the ablations, and one for each place of norms in the zoo."""
    proven = sum(bool(exhibit.proofs) for exhibit in exhibits)
    lines = [ABOUT, f"{len(exhibits)} specs, {proven} of them with a proof."]
    groups: dict[str, list[Exhibit]] = {}
    places = [*dict.fromkeys(PLACES.values())]
    for exhibit in sorted(exhibits, key=lambda e: e.kind == "zoo" and 1 + places.index(place_of_norms(e.graph))):
        groups.setdefault(KINDS[exhibit.kind] or f"Zoo: {place_of_norms(exhibit.graph)}", []).append(exhibit)
    usual = ops(next(exhibit.graph for exhibit in exhibits if exhibit.name == "baseline"))
    for title, members in groups.items():
        lines += ["", f"## {title}", "", "| spec | parameters | ops beyond the baseline's | nearest | proof |"]
        lines += ["|---|---|---|---|---|", *(_row(exhibit, usual) for exhibit in members)]
    return "\n".join([*lines, ""])


def _row(exhibit: Exhibit, usual: set[str]) -> str:
    sizes = ", ".join(
        dict.fromkeys(short(cost(graph).parameters).replace("G", "B") for graph in exhibit.sizes.values())
    )
    near = f"[{exhibit.diff.a.name}]({exhibit.diff.a.name}.md), {distance(exhibit.diff)}" if exhibit.diff else ""
    beyond = ", ".join(f"`{op}`" for op in sorted(ops(exhibit.graph) - usual))
    oracles = "; ".join(dict.fromkeys(proof.oracle for proof in exhibit.proofs)) or "no proof"
    return f"| [{exhibit.graph.title or exhibit.name}]({exhibit.name}.md) | {sizes} | {beyond} | {near} | {oracles} |"


def page(exhibit: Exhibit) -> str:
    """The page of one spec."""
    graph, source = exhibit.graph, exhibit.path.relative_to(ROOT).as_posix()
    lines = [f"# {graph.title or exhibit.name}", "", f"Spec: [{source}](../../{source}). Paper: {linked(graph.paper)}."]
    lines += ["", f"![Figure of {exhibit.name}](figures/{exhibit.name}.svg)", *_differences(exhibit)]
    lines += [
        "",
        "## Parameters and FLOPs",
        "",
        f"| size | parameters | a token, forward at {SEQ} tokens | published |",
    ]
    lines += ["|---|---:|---:|---|"]
    for size, sized in exhibit.sizes.items():
        costs = cost(sized)
        flops, published = short(costs.flops(1, SEQ) // SEQ, "FLOP"), exhibit.totals.get(size, "")
        lines.append(f"| {size} | {costs.parameters:,} | {flops} | {published} |")
    return "\n".join([*lines, *_proven(exhibit), "", "[All specs](README.md)", ""])


def _differences(exhibit: Exhibit) -> Iterator[str]:
    diff = exhibit.diff
    if diff is None:
        return
    yield from ("", f"## Against its nearest relative, [{diff.a.title or diff.a.name}]({diff.a.name}.md)", "")
    summary, *lines = told(diff)
    folded = len(lines) > MANY
    yield from (["<details>", f"<summary>{summary}</summary>", ""] if folded else [])
    yield from ("```", *([] if folded else [summary]), *lines, "```")
    yield from (["", "</details>"] if folded else [])
    if exhibit.kind in FAMILIES[0]:
        yield from ("", f"![What it changes](figures/{exhibit.name}-against-{diff.a.name}.svg)")


def _proven(exhibit: Exhibit) -> Iterator[str]:
    yield from ("", "## Proof", "")
    if not exhibit.proofs:
        yield "No test compares it with an implementation of another hand."
        return
    yield from ("| compared with | how closely | test |", "|---|---|---|")
    for proof in exhibit.proofs:
        file, _, function = proof.test.partition("::")
        yield f"| {proof.oracle} | {proof.told} | [{file}](../../{file}), `{function}` |"


def linked(paper: str) -> str:
    """A paper's name with a link where it has an address."""
    name, _, rest = paper.partition(",")
    if name.startswith("arXiv:"):
        return f"[{paper}](https://arxiv.org/abs/{name.removeprefix('arXiv:').split()[0]})"
    return f"<{name}>{',' if rest else ''}{rest}" if name.startswith("https://") else paper


if __name__ == "__main__":
    sys.exit(main())
