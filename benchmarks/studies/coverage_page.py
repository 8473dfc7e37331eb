"""docs/coverage.md, drawn from benchmarks/results/coverage.json."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = ("right", "refused", "unclear", "wrong")

HEAD = """\
# What is covered

Every layer of `torch.nn` and every loss, with its usual options, in float64 on a CPU. In eager the
gradient and the buffers are compared with torch's own backward pass, the exact product with central
differences of the gradient. Compiled, by `atf.jit(tuner.step, backend="aot_eager")`, two steps are
compared with the same two in eager. An entry is *right*, *refused* by an error in the package's own
words, *unclear* where the error is another's, or *wrong*. Made by
`python -m benchmarks.studies.coverage`; the numbers are in `benchmarks/results/coverage.json`.
"""


def page(path: Path) -> str:
    """The counts, what is not right with what was said, and the names of what is."""
    result = json.loads(path.read_text())
    rows = result["rows"]
    versions = sorted({result["runs"][row["run"]]["torch"] for row in rows})
    parts = [HEAD, f"torch {', '.join(versions)}.\n", _counts(rows)]
    for table, title in (("layer", "Layers"), ("loss", "Losses")):
        here = [row for row in rows if row["table"] == table]
        odd = [row for row in here if row["result"] != "right"]
        names = {row["name"] for row in here}
        right = sorted(names - {row["name"] for row in odd})
        parts += [f"## {title}\n", _odd(odd), "Right in all that was run:\n"]
        parts += [_wrapped(", ".join(f"`{name}`" for name in right) + ".") + "\n"]
    return "\n".join(parts)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _counts(rows: Sequence[Mapping[str, Any]]) -> str:
    count = Counter((row["table"], row["mode"], row["result"]) for row in rows)
    kinds = sorted({(row["table"], row["mode"]) for row in rows}, reverse=True)
    lines = [
        f"| {table}, {mode} | " + " | ".join(str(count[table, mode, r]) for r in RESULTS) + " |"
        for table, mode in kinds
    ]
    return "\n".join([f"| | {' | '.join(RESULTS)} |", "| --- |" + " --- |" * 4, *lines, ""])


def _odd(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"| `{row['name']}` | {row['mode']} | {row['result']} | {_plain(row['says'])} |"
        for row in sorted(rows, key=lambda row: (row["name"], row["mode"]))
    ]
    return "\n".join(["| | | | |", "| --- | --- | --- | --- |", *lines, ""])


def _plain(words: str) -> str:
    """As text of a cell: no markup, no bar, no link."""
    return "`" + words.replace("`", "'").replace("|", "/") + "`"
