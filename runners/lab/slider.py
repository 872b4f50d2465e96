"""Figures of a block whose colours follow a run: one slider of steps for all, on a page that needs no network."""

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass

# Shapes and numbers are found by the names that a measured figure gives them; without scripts the last step stands.
SCRIPT = """
for (const box of document.querySelectorAll("[data-slider]")) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const input = box.querySelector("input");
  const figures = box.querySelectorAll("figure");
  const show = () => {
    const at = Number(input.value);
    box.querySelector("output").textContent = data.steps[at];
    data.panels.forEach((nodes, panel) => {
      for (const part of figures[panel].querySelectorAll("[data-node], [data-value]")) {
        const [words, colour] = nodes[part.dataset.node || part.dataset.value][at];
        if (part.dataset.value) part.querySelector("text").textContent = words;
        else for (const shape of part.querySelectorAll("[fill]:not([fill=none])")) shape.setAttribute("fill", colour);
      }
    });
  };
  input.addEventListener("input", show);
  show();
}
"""


@dataclass(frozen=True)
class Panel:
    """One figure as an SVG of measured nodes, its caption, and for each node the words and the colour of every step."""

    svg: str
    caption: str
    nodes: Mapping[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Slider:
    """Panels side by side that show the same step; `about` says what they show."""

    about: str
    steps: list[int]
    panels: tuple[Panel, ...]

    @property
    def html(self) -> str:
        """The element, without the script that all sliders of a page share."""
        data = json.dumps({"steps": self.steps, "panels": [panel.nodes for panel in self.panels]})
        data = data.replace("<", "\\u003c")
        figures = (f"<figure>{p.svg}<figcaption>{html.escape(p.caption)}</figcaption></figure>" for p in self.panels)
        last = len(self.steps) - 1
        return (
            f'<div data-slider><p><label>step <output>{self.steps[-1]}</output> <input type="range" min="0" '
            f'max="{last}" value="{last}" aria-label="{html.escape(self.about)}"></label></p>'
            f'<div class="row">{"".join(figures)}</div><script type="application/json">{data}</script></div>'
        )
