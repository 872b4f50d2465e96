"""Lines of generated Python, broken as a formatter would break them."""

import ast
import textwrap

WIDTH = 120
BODY = " " * 8  # indent of the lines of a method


def statement(target: str, value: str, comment: str = "", indent: int = 8) -> list[str]:
    """`target = value  # comment`; over several lines the comment stays on the first, where a traceback shows it."""
    place, note = " " * indent, f"  # {comment}" if comment else ""
    start = f"{place}{target} = " if target else place
    if len(start + value + note) <= WIDTH:
        return [start + value + note]
    head, items = _call(value)
    inner = f"{place}    {', '.join(items)}"
    body = [inner] if len(inner) <= WIDTH or not head else [f"{place}    {item}," for item in items]
    return [f"{start}{head}({note}", *body, f"{place})"]


def signature(name: str, inputs: list[str], output: str, indent: int = 4) -> list[str]:
    """The first line of a function, or its lines."""
    place = " " * indent
    line = f"{place}def {name}({', '.join(inputs)}) -> {output}:"
    if len(line) <= WIDTH:
        return [line]
    return [f"{place}def {name}(", *(f"{place}    {word}," for word in inputs), f"{place}) -> {output}:"]


def docstring(first: str, *rest: str, indent: int = 0) -> list[str]:
    """A docstring of paragraphs; the text may hold anything that a user has written."""
    space = " " * indent
    paragraphs = [textwrap.wrap(one_line(text), WIDTH - indent - len('""".""""')) for text in (first, *rest) if text]
    lines = [line for paragraph in paragraphs for line in ("", *paragraph)][1:]
    lines = [f'"""{lines[0]}', *lines[1:]]
    lines = [f'{lines[0]}"""'] if len(lines) == 1 else [*lines, '"""']
    return [f"{space}{line}" if line else "" for line in lines]


def one_line(text: str) -> str:
    """A user's text without what would end a line, a comment or a docstring."""
    return " ".join(text.replace("\\", "/").replace('"', "'").split())


def _call(value: str) -> tuple[str, list[str]]:
    """The function and the arguments of a call; any other expression is one item of a pair of parentheses."""
    tree = ast.parse(value, mode="eval").body
    if not isinstance(tree, ast.Call):
        return "", [value]
    words = [f"{keyword.arg}={_segment(value, keyword.value)}" for keyword in tree.keywords]
    return ast.unparse(tree.func), [*(_segment(value, argument) for argument in tree.args), *words]


def _segment(value: str, node: ast.expr) -> str:
    found = ast.get_source_segment(value, node)
    assert found is not None
    return found
