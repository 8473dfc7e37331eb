"""The pages of docs/ show every name and flag, their links lead somewhere, their code runs."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adatune_func as atf
from benchmarks import baselines, rtho

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MIGRATION = (DOCS / "from_adatune.md").read_text()

#: What from_adatune.md may leave out.
LACKING = {"-h", "--help"}


named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "code", text, flags=re.S | re.M)


def shown(page: Path) -> set[str]:
    """What mkdocstrings is asked for on a page, members by name included."""
    names = set()
    for name, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", page.read_text(), flags=re.M):
        members = re.search(r"members: \[(.*)\]", options)
        names |= {name, *(f"{name}.{m}" for m in (members[1].split(", ") if members else []))}
    return names


def anchors(page: Path) -> set[str]:
    """As the toc extension makes them of headings, and those of mkdocstrings."""
    found = shown(page)
    for title in re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M):
        given = re.search(r"\{ #(\S+) \}$", title)
        words = re.sub(r"[^\w\s-]", "", title).strip().lower()
        found.add(given[1] if given else re.sub(r"[-\s]+", "-", words))
    return found


def flags(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def test_every_public_name_is_on_a_page():
    names = set().union(*(shown(page) for page in (DOCS / "api").glob("*.md")))
    missing = {f"adatune_func.{name}" for name in atf.__all__} - names
    assert not missing


def test_what_the_pages_show_exists():
    for page in PAGES:
        for name in shown(page):
            assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("parser", [rtho.parser(), baselines.parser()], ids=lambda p: p.prog)
def test_every_flag_is_in_the_table(parser):
    for flag in flags(parser) - LACKING:
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", MIGRATION), flag


def test_every_flag_named_exists():
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", MIGRATION))
    assert named <= flags(rtho.parser()) | flags(baselines.parser())


def test_defaults_are_those_of_the_parser():
    parser, rows = rtho.parser(), 0
    ours = {action.dest: action.default for action in parser._actions}
    tables = MIGRATION.split("### Both scripts")[1].split("### baselines.py")[0]
    for flag, theirs, here in re.findall(r"^\| `--(\S+)` \| (.+?) \| (.+?) \|", tables, flags=re.M):
        name = flag.replace("-", "_")
        assert agrees(theirs, rtho.ADATUNE.get(name, ours[name])), f"--{flag}: {theirs}"
        if name != "model_loc":  # in words
            assert agrees(here, ours[name]), f"--{flag}: {here}"
        rows += 1
    assert rows >= 15


def agrees(cell: str, value: object) -> bool:
    """Whether a cell begins with a value: a number, a `word`, or off."""
    said = cell.split()[0].strip("`,:")
    if value is None or value is False:
        return said == "off"
    return float(said) == value if isinstance(value, int | float) else said == value


@named
def test_links_lead_somewhere(page):
    text = without_code(page.read_text())
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, flags=re.M))
    used = set(re.findall(r"\]\[([^\]]+)\]", text))
    assert used == set(defined)
    for target in [*re.findall(r"\]\((\S+?)\)", text), *defined.values()]:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked in PAGES or linked == DOCS / "recursion.svg", target
        assert not anchor or anchor in anchors(linked), target


@named
def test_every_python_block_runs(page):
    """Blocks marked py are of another library and do not."""
    names: dict[str, object] = {"__name__": page.stem}
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.S | re.M)
    assert len(blocks) == page.read_text().count("```python"), "one is indented or not closed"
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


def test_every_error_is_on_its_page(monkeypatch):
    """Whoever writes a new message says in docs/failures.py what it means, and runs messages.py."""
    monkeypatch.syspath_prepend(str(DOCS))
    messages = importlib.import_module("messages")
    assert len(messages.messages()) > 150
    assert (DOCS / "errors.md").read_text() == messages.page(), "run: python docs/messages.py"
    new = messages.Message("ValueError", "nobody has heard of this", "file.py:1")
    monkeypatch.setattr(messages, "messages", lambda: [new])
    with pytest.raises(ValueError, match=r"file.py:1: nobody has heard of this"):
        messages.page()


@named
def test_lines_are_not_too_long(page):
    drawn = r"<!-- figures: \w+ -->\n.*?<!-- end -->"  # tables written from the results
    lines = re.sub(drawn, "", page.read_text(), flags=re.S).splitlines()
    if page.name == "coverage.md":  # its table is made from what errors say, a row each
        lines = [line for line in lines if not line.startswith("|")]
    assert max(map(len, lines)) <= 120


def test_the_pages_build(tmp_path):
    for tool in ("mkdocs", "material", "mkdocstrings_handlers"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed: pip install 'adatune-func[docs]'")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    for page in PAGES:
        made = tmp_path / page.relative_to(DOCS).with_suffix("")
        made = made.parent if page.name == "index.md" else made
        assert (made / "index.html").exists()
    html = (tmp_path / "api" / "tuners" / "index.html").read_text()
    assert 'id="adatune_func.marthe"' in html and "float" in html
    assert ":func:" not in html and ":class:" not in html
