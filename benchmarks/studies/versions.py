"""Which torch runs what: the suite in eager and through the compiler, one interpreter a version.

    python -m benchmarks.studies.versions venv-2.6/bin/python venv-2.11/bin/python --suites jit

Each interpreter has its own torch, optree and pytest; the package is taken from this checkout. A
suite that a version does not finish is a row with what it did until then and why it ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.run import record

ROOT = Path(__file__).parents[2]

#: What needs a package beside torch and optree, or is about this very machine, is left out.
CORE = [
    *("averaging", "by_prefix", "errors", "functional", "guard", "hvp"),
    *("hyper_update", "laws", "optimizers", "recursion", "schedules"),
]

#: name of a suite: pytest's arguments
SUITES: dict[str, list[str]] = {
    "eager": ["-m", "not acceptance and not compiles", *(f"tests/test_{n}.py" for n in CORE)],
    "jit": ["-m", "not acceptance", "-k", "not inductor", "tests/test_jit.py"],
    "inductor": ["-m", "not acceptance", "-k", "inductor", "tests/test_jit.py"],
    "dynamo": ["-m", "compiles and not acceptance", "tests/test_compile.py"],
}


def versions(python: str) -> dict[str, str]:
    """What an interpreter has."""
    code = (
        "import platform, torch, optree; "
        "print(torch.__version__.split('+')[0], optree.__version__, platform.python_version())"
    )
    line = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(zip(("torch", "optree", "python"), line.split()[-3:], strict=True))


def run(python: str, suite: str, seconds: float) -> dict[str, Any]:
    """Counts of one suite under one interpreter, and the first line of each kind of failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        ended = "whole"
        try:
            subprocess.run(
                [*command, *SUITES[suite]],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
        if not report.exists():
            return {"passed": 0, "failed": 0, "skipped": 0, "ended": f"{ended}, no report"}
        return {**counts(report), "ended": ended}


def counts(report: Path) -> dict[str, Any]:
    """What a JUnit report says."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    why = {
        str(fault.get("message", "")).split("\n")[0][:160]
        for case in suite.iter("testcase")
        for fault in (*case.iter("failure"), *case.iter("error"))
    }
    return {
        "passed": total - skipped - failed,
        "failed": failed,
        "skipped": skipped,
        "failures": sorted(why)[:5],
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Which torch runs what.")
    parser.add_argument("pythons", nargs="+", help="one interpreter a version of torch")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=["eager", "jit"])
    parser.add_argument("--seconds", type=float, default=900.0, help="limit for one suite")
    parser.add_argument("--output", type=Path, default=record.RESULTS / "versions.json")
    args = parser.parse_args(argv)
    for python in args.pythons:
        for suite in args.suites:
            row = {**versions(python), "suite": suite, **run(python, suite, args.seconds)}
            print(record.table([row], ["torch", "suite", "passed", "failed", "skipped", "ended"]))
            run_of_it = record.provenance({"suites": args.suites, "seconds": args.seconds})
            record.merge(args.output, [row], ["torch", "optree", "python", "suite"], run_of_it)


if __name__ == "__main__":
    main()
