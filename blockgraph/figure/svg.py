"""Graphviz's SVG made accessible, and checked to hold nothing but a drawing."""

from xml.etree import ElementTree

from blockgraph.figure.parts import Scene

SPACE = "http://www.w3.org/2000/svg"
DRAWING = {"svg", "g", "title", "polygon", "polyline", "path", "ellipse", "text"}
Element = ElementTree.Element


def finished(drawn: bytes, scene: Scene) -> str:
    """The SVG with a title for every shape and an outline for screen readers; without dates, ids and comments."""
    ElementTree.register_namespace("", SPACE)
    root = ElementTree.fromstring(drawn)
    names = {f"n{index}": box.about or box.label for index, box in enumerate(scene.boxes)}
    _mark(root, scene)
    for parent in list(root.iter()):
        _check(parent)
        parent.attrib.pop("id", None)
        parent.attrib.pop(f"{{{'http://www.w3.org/XML/1998/namespace'}}}space", None)
        for title in parent.findall(f"{{{SPACE}}}title"):
            _name(parent, title, names, scene)
    root.set("role", "img")
    root.set("aria-label", scene.about)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _mark(root: Element, scene: Scene) -> None:
    """Say which shape and which text show a measured node, so that a page can put another step's number there."""
    with_sub = [box for box in scene.boxes if box.sub]
    marks = {f"n{i}": ("data-node", box.slot) for i, box in enumerate(scene.boxes) if box.tint and box.sub}
    marks |= {f"t{len(scene.words) + 2 * i + 1}": ("data-value", b.slot) for i, b in enumerate(with_sub) if b.tint}
    for group in root.iter(f"{{{SPACE}}}g"):
        name = group.findtext(f"{{{SPACE}}}title", "")
        if name in marks:
            group.set(*marks[name])


def _check(element: Element) -> None:
    """A label can only ever become text; this says so if Graphviz or we should ever be wrong."""
    name = str(element.tag).removeprefix(f"{{{SPACE}}}")
    active = [key for key in element.attrib if key.lower().startswith("on") or key.lower().endswith("href")]
    assert name in DRAWING, f"{name} in a drawing"
    assert not active, f"{active} in a drawing"


def _name(parent: Element, title: Element, names: dict[str, str], scene: Scene) -> None:
    """Replace Graphviz's names by ours; what has none of its own, such as a line of text, loses its title."""
    old, kind = title.text or "", parent.get("class")
    if kind == "graph":
        title.text = scene.about
    elif kind == "cluster":
        title.text = scene.plates[int(old.split("_")[1])].title or "layers"
    elif old in names:
        title.text = names[old]
    elif "->" in old:
        title.text = " to ".join(names[end] for end in old.split("->"))
    else:
        parent.remove(title)
