"""One self-contained HTML page: text, figures and tables, readable offline."""

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 3rem auto; padding: 0 1.2rem; color: #1a1a1a; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
figure { margin: 1rem 0; } figcaption { color: #555; font-size: 0.9rem; }
.row { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-end; }
.row figure { flex: 1 1 20rem; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.9rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child, .words th, .words td { text-align: left; }
caption { caption-side: top; text-align: left; color: #555; font-size: 0.9rem; padding-bottom: 0.3rem; }
.wide { overflow-x: auto; margin: 1.2rem 0; }
pre { background: #f6f6f6; padding: 0.8rem 1rem; overflow-x: auto; font-size: 0.88rem; }
"""


@dataclass
class Page:
    """A page in the making; every text is escaped, figures are SVG files of our own."""

    title: str
    parts: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def heading(self, text: str, anchor: str = "") -> None:
        """A section begins, which links may name by its anchor."""
        named = f' id="{html.escape(anchor)}"' if anchor else ""
        self.parts.append(f"<h2{named}>{html.escape(text)}</h2>")

    def contents(self, entries: Sequence[tuple[str, str]]) -> None:
        """Links to sections: the anchor of each, and its words."""
        items = (f'<li><a href="#{html.escape(anchor)}">{html.escape(text)}</a></li>' for anchor, text in entries)
        self.parts.append(f"<nav><ul>{''.join(items)}</ul></nav>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Lines as they are."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def figures(self, files: Sequence[tuple[Path, str]]) -> None:
        """SVG files side by side, each with its caption."""
        drawn = (_figure(_inline(path), text) for path, text in files)
        self.parts.append(f'<div class="row">{"".join(drawn)}</div>')

    def drawing(self, svg: str, caption: str) -> None:
        """An SVG element of our own, with its caption."""
        self.parts.append(_figure(svg, caption))

    def script(self, text: str) -> None:
        """A script of our own, run once where it stands; no other one will run on the page."""
        self.scripts.append(text)
        self.parts.append(f"<script>{text}</script>")

    def table(
        self, headings: Sequence[str], lines: Sequence[Sequence[str]], caption: str = "", words: bool = False
    ) -> None:
        """A table; the first column is text, the others are numbers, or `words` too."""
        kind = ' class="words"' if words else ""
        above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in headings)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
        self.parts.append(f'<div class="wide"><table{kind}>{above}<tr>{head}</tr>{body}</table></div>')

    def __str__(self) -> str:
        title = html.escape(self.title)
        allowed = "".join(f" 'sha256-{_digest(text)}'" for text in self.scripts)
        scripts = f"; script-src{allowed}" if allowed else ""
        policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{scripts}"
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
            f"<body><h1>{title}</h1>{''.join(self.parts)}</body></html>\n"
        )


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _inline(path: Path) -> str:
    """The SVG element of a file, without the XML header."""
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
