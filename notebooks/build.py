"""Make each notebook from the percent script beside it: ``make notebooks``.

    python notebooks/build.py [01_first_steps.py ...]

Nothing of the machine stays in the file but what the cells print: no times, no random cell names.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def build(script: Path) -> None:
    notebook = jupytext.read(script, fmt="py:percent")
    path = {"path": str(HERE)}
    NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": path},
    ).execute()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.NotebookNode()
    nbformat.validate(notebook)
    nbformat.write(notebook, script.with_suffix(".ipynb"))


def main() -> None:
    for name in ("SMALL", "MPLBACKEND"):  # all steps, and pictures in the notebook
        os.environ.pop(name, None)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    for script in [HERE / name for name in sys.argv[1:]] or sorted(HERE.glob("[0-9]*.py")):
        began = time.perf_counter()
        build(script)
        print(f"{script.name}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
