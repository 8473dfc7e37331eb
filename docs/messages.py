"""Every message with which the package refuses something, read from its source.

    python docs/messages.py      # writes docs/errors.md anew, from failures.py and these

What stands in a message in braces is shown as "…".
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from failures import HEAD, SITUATIONS

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "adatune_func"

#: What never leaves the package.
INTERNAL = ("a checksum is wrong", "a number of a tensor was asked for")


class Message(NamedTuple):
    """One place in the source that says something."""

    kind: str  # the exception's name, or Warning
    words: str
    place: str


def template(node: ast.expr, constants: dict[str, str]) -> str:
    """The string that an expression makes, with "…" for what only a run knows."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, constants) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left, constants) + template(node.right, constants)
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    return "…"


def says_something(words: str) -> bool:
    """Whether a template has words of its own."""
    return len([word for word in words.split() if word.strip("…():,")]) >= 2


def messages_of(path: Path, text: str) -> Iterator[Message]:
    """The messages of one file."""
    tree = ast.parse(text)
    constants: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = template(node.value, constants)
    for node in ast.walk(tree):
        for kind, value in said_by(node):
            words = re.sub(r"\{[a-z]+\}", "…", " ".join(template(value, constants).split()))
            if says_something(words) and not words.startswith(INTERNAL):
                yield Message(kind, words, f"{path.relative_to(PACKAGE)}:{node.lineno}")


def said_by(node: Any) -> Iterator[tuple[str, ast.expr]]:
    """``(kind, words)`` of what a node of the source says, if it does."""
    if isinstance(node, ast.Call) and node.args:
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name.endswith("Error"):
            yield name, node.args[0]
        elif name in ("Saying", "_missing"):  # what torch says, and what that means
            yield "NotImplementedError", node.args[1]
        elif name == "_check":
            yield "ValueError", node.args[1]
        elif name == "warn":
            yield "UserWarning", node.args[0]
        elif isinstance(node.func, ast.Call):  # type(error)("...")
            yield "OSError", node.args[0]
    elif isinstance(node, ast.FunctionDef) and node.name.startswith("words_for"):
        for inner in ast.walk(node):
            if isinstance(inner, ast.Return) and inner.value is not None:
                yield "TypeError", inner.value
    elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "HELD":
        yield "ValueError", node.value


def messages() -> list[Message]:
    """Those of the whole package, each once, in the order of their files."""
    found: dict[str, Message] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for message in messages_of(path, path.read_text()):
            found.setdefault(message.words, message)
    return list(found.values())


def sorted_out() -> dict[str, list[Message]]:
    """The messages by the title of their situation; an error for one without, or a part unused."""
    found: dict[str, list[Message]] = {situation.title: [] for situation in SITUATIONS}
    unused = {part for situation in SITUATIONS for part in situation.parts}
    homeless: list[str] = []
    for message in messages():
        hits = [(len(p), p, s.title) for s in SITUATIONS for p in s.parts if p in message.words]
        if not hits:
            homeless.append(f"{message.place}: {message.words}")
            continue
        _, part, title = max(hits)  # the longest part knows best
        unused.discard(part)
        found[title].append(message)
    if homeless or unused:
        lines = [*homeless, *(f"no message has {part!r} any more" for part in sorted(unused))]
        raise ValueError("docs/failures.py does not fit the package:\n" + "\n".join(lines))
    return found


def page() -> str:
    """``errors.md``: each situation, what it means, what to do, and its messages."""
    text, by_title = [HEAD], sorted_out()
    for situation in SITUATIONS:
        text.append(f"\n## {situation.title}\n\n{textwrap.fill(situation.text, 116)}\n\n")
        for message in by_title[situation.title]:
            said = f"{message.kind}: {message.words}".replace("`", "'")
            lines = textwrap.wrap(f"`{said}`", 114, break_long_words=False, break_on_hyphens=False)
            text.append(textwrap.indent("\n".join(lines), "  ").replace("  ", "* ", 1) + "\n")
    return "".join(text)


if __name__ == "__main__":
    (DOCS / "errors.md").write_text(page())
