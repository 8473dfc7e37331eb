"""Imports of the package point one way, downwards: who reads a file needs what lies below only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "adatune_func"

#: Rooms and files of the core, the lowest first; what stands in one line does not know each other.
LEVELS = [
    {"trees", "schedules", "renamed"},
    {"optimizers", "curvature", "rules", "guard", "shapes", "checkpoint", "graphs", "replicas"},
    {"recursion", "options", "presets", "jit", "sharding"},
    {"state", "checking"},
    {"plain_training", "windows", "horizon"},
    {"tuner", "functional", "check"},
    {"search", "recipe", "methods"},
]

#: What the core never imports, and what imports nothing of the core.
OUTSIDE = {"data", "networks"}

LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}


def room_of(path: Path) -> str:
    """The first name below the package: a room, or a file of its own."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """``(line, parts)`` of what is imported below the package; ``("benchmarks",)`` from there."""
    package = path.parent.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) + 1 - node.level]
            base += tuple((node.module or "").split(".")) if node.module else ()
            for alias in node.names:
                yield node.lineno, (*base, alias.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            for name in names:
                first, *rest = name.split(".")
                if first == "adatune_func":
                    yield node.lineno, tuple(rest)
                elif first == "benchmarks":
                    yield node.lineno, ("benchmarks",)


def fault(room: str, target: str) -> str | None:
    """Why ``room`` may not import ``target``."""
    if target == room:
        return None
    if target == "benchmarks" or (target in OUTSIDE and room not in OUTSIDE):
        return f"the core imports {target}"
    if room in OUTSIDE:
        return f"{room} imports {target}" if target in LEVEL else None
    if target not in LEVEL:
        return f"{target} has no level: add it to LEVELS"
    return None if LEVEL[target] < LEVEL[room] else f"{room} imports {target}, which is not below"


def faults(path: Path, text: str) -> list[str]:
    """``file:line: why`` for each import that points upwards, sideways or out of the core."""
    return [
        f"{path.name}:{line}: {why}"
        for line, parts in imports(path, text)
        if (why := fault(room_of(path), parts[0] if parts else "__init__"))
    ]


#: All that the package has, and who uses it as a user does.
ABOVE = (PACKAGE / "__init__.py", PACKAGE / "__main__.py")
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path not in ABOVE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    assert faults(path, path.read_text()) == []


def test_every_level_is_a_place():
    found = {room_of(path) for path in FILES}
    assert found == set(LEVEL) | OUTSIDE


@pytest.mark.parametrize("room", sorted(room_of(p) for p in PACKAGE.glob("*/__init__.py")))
def test_no_circle_within_a_room(room):
    """Files of a room, ``__init__`` among them, in an order where each imports earlier ones."""
    folder = PACKAGE / room
    waiting = {
        path.stem: {
            parts[1] if len(parts) > 1 and (folder / f"{parts[1]}.py").exists() else "__init__"
            for _, parts in imports(path, path.read_text())
            if parts and parts[0] == room
        }
        for path in folder.glob("*.py")
    }
    waiting["__init__"].discard("__init__")
    while free := [name for name, needs in waiting.items() if not needs & set(waiting)]:
        for name in free:
            del waiting[name]
    assert not waiting, f"files of {room} import each other in a circle: {waiting}"


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("trees/tree.py", "from ..recursion import phi", "trees imports recursion"),
        ("rules/snr.py", "from ..optimizers import sgd", "rules imports optimizers"),
        ("tuner.py", "from .networks import MLP", "the core imports networks"),
        ("guard.py", "import benchmarks.rtho", "the core imports benchmarks"),
        ("curvature/ggn.py", "from adatune_func import sgd", "sgd has no level"),
        ("data/batches.py", "from ..trees import tree_map", "data imports trees"),
    ],
)
def test_a_wrong_import_is_named_with_its_line(file, line, why):
    (found,) = faults(PACKAGE / file, f'"""A file."""\n\n{line}\n')
    assert found.startswith(f"{Path(file).name}:3: ") and why in found


def test_files_are_short():
    """One idea a file; the recursion and the tuner are read in one sitting."""
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path.name: n for path, n in lengths.items() if n > 260} == {}
    assert lengths[PACKAGE / "recursion.py"] + lengths[PACKAGE / "tuner.py"] <= 400


def written(path: Path) -> list[tuple[int, str]]:
    """``(line, text)`` of what is code: no imports, docstrings, comments, signatures."""
    text, left_out = path.read_text(), set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
        elif isinstance(node, ast.FunctionDef):
            left_out |= set(range(node.lineno, node.body[0].lineno))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if n not in left_out]
    return [(n, line) for n, line in lines if line and not line.startswith(("#", '"'))]


def repeated(sources: dict[str, list[tuple[int, str]]], size: int = 6) -> list[str]:
    """``file:line and file:line`` for each ``size`` lines that stand twice."""
    places: dict[tuple[str, ...], list[str]] = {}
    for name, lines in sources.items():
        for k in range(len(lines) - size + 1):
            block = tuple(line for _, line in lines[k : k + size])
            places.setdefault(block, []).append(f"{name}:{lines[k][0]}")
    return [" and ".join(found) for found in places.values() if len(found) > 1]


def test_no_six_lines_stand_twice():
    found = {str(p.relative_to(PACKAGE)): written(p) for p in sorted(PACKAGE.rglob("*.py"))}
    assert repeated(found) == []
    found["copy.py"] = found["recursion.py"]
    assert "recursion.py" in repeated(found)[0]
