"""The tables of README and of docs/methods.md, written from the JSON files under results/.

    python -m benchmarks.studies.readme      # rewrite the parts of both between their markers

A part lies between ``<!-- figures: name -->`` and ``<!-- end -->``; ``PARTS`` says how each is
drawn. A test compares the pages with what this module would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.run import record
from benchmarks.studies import recipe_figure

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "docs" / "methods.md")
MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

#: Networks of speed.py as README calls them.
SPEED = {
    "mlp": "MLP, batch 128",
    "lenet": "LeNet, 128",
    "vgg_11": "VGG-11, 64",
    "resnet_18": "ResNet-18, 32",
    "transformer": "transformer, 32",
}
STEPS = {
    "plain": "plain",
    "recipe": "recipe",
    "hd": "`hd`",
    "fast": "`fast`",
    "smooth": "`smooth`",
    "balanced": "`balanced`",
    "exact": "exact",
    "reverse_over_reverse": "by reverse",
    "classic eager": "classic",
}
#: Presets, the strategy that curvature.py knows them by, the method that robustness.py does.
BARGAINS = {
    "`exact`": ("exact", "marthe"),
    "`balanced`": ("gauss_newton on 1/2", "marthe_balanced"),
    "`smooth`": ("finite_difference", ""),
    "`fast`": ("gauss_newton on 1/8, a quarter of it", "marthe_fast"),
    "no curvature": ("no_curvature", ""),
}


def kept(name: str) -> dict[str, Any]:
    return json.loads((record.RESULTS / f"{name}.json").read_text())


def only(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The row with these values; an error if there is none or more than one."""
    (row,) = [r for r in rows if all(r.get(key) == value for key, value in wanted.items())]
    return row


def grid(head: list[str], lines: list[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells) + "\n"


def starts() -> str:
    """Mean (worst) of the recipe by start, and of the best cosine."""
    heads = [f"{start:g}".replace("1e-0", "1e-") for start in recipe_figure.STARTS]
    return grid(["from lr", *heads, "best cosine"], recipe_figure.lines())


def speed() -> str:
    """Milliseconds of a step of ``torch.optim``, the faster of eager and compiled, and ratios."""
    rows = kept("speed")["rows"]
    lines = []
    for network, title in SPEED.items():
        its = [r for r in rows if r["network"] == network and r["optimizer"] == "sgd"]
        its = [r for r in its if r["device"] == "cpu" and not r["autocast"]]
        its = [r for r in its if not r["channels_last"]]
        # The newest are those with the recipe, in one thread.
        alike = {(r["threads"], r["batch_size"]) for r in its if r["method"] == "recipe"}
        its = [r for r in its if not alike or (r["threads"], r["batch_size"]) in alike]
        its = [r for r in its if alike or r["threads"] == 2]
        if its:
            by = {row["method"]: row for row in its}
            base = min(by[f"torch.optim {mode}"]["ms"] for mode in ("eager", "compiled"))
            # Ratios and not times: rows may come from several runs, each beside its own baseline.
            faster = min(1.0, by["torch.optim eager"]["ratio"])
            ratios = [f"{by[m]['ratio'] / faster:.2f}" if m in by else "-" for m in STEPS]
            lines.append([title, f"{base:.0f} ms", *ratios])
    return grid(["", "torch.optim", *STEPS.values()], lines)


def bargains() -> str:
    """Cosine of Z with the exact Z on two networks, and accuracy of whole runs, by preset."""
    rows = [row for row in kept("curvature")["rows"] if row["mu"] == 0.99]
    runs = kept("robustness_mnist")["rows"]
    starts = {row["start"] for row in runs if row["method"] == "marthe_fast"}
    runs = [row for row in runs if row["start"] in starts]
    lines = []
    for preset, (strategy, method) in BARGAINS.items():
        cosines = ["1", "1"]
        if strategy != "exact":
            of = {(r["network"], r["lr"]): r["cosine"] for r in rows if r["strategy"] == strategy}
            cosines = [
                " ".join(f"{of[network, lr]:.2f}" for lr in (0.001, 0.01, 0.1))
                for network in ("mlp", "mlp_smooth")
            ]
        lines.append([preset, *cosines, *(_accuracy(runs, method, o) for o in ("sgd", "adamw"))])
    return grid(["preset", "Z, ReLU", "Z, GELU", "accuracy, SGD", "accuracy, AdamW"], lines)


def _accuracy(rows: list[dict[str, Any]], method: str, optimizer: str) -> str:
    its = [r["accuracy"] for r in rows if (r["method"], r["optimizer"]) == (method, optimizer)]
    return f"{sum(its) / len(its):.2f} ({min(its):.2f})" if its else "-"


def measured() -> str:
    """What single commands lead to."""
    jobs, vgg = kept("main_job")["rows"], kept("vgg_cifar_10")["rows"]
    digits, mnist = (only(jobs, dataset=name)["test_accuracy"] for name in ("digits", "mnist"))
    ours = only(vgg, script="rtho.py")["test_accuracy"]
    cyclic = only(vgg, lr_scheduler="cyclic")["test_accuracy"]
    vgg_flags = "--network vgg --dataset cifar_10 --optimizer sgd --momentum 0.9"
    hostile, resume = kept("hostile"), kept("resume")
    kills = len(resume["logged_steps_when_killed"])
    different = 0 if all(resume["equal_bit_for_bit"].values()) else "some"
    population = only(kept("population")["rows"], network="mlp", members=16)
    lines = [
        ["digits, LeNet, lr tuned from 0.001", f"{digits:.2%} test", "`make demo`"],
        [
            "MNIST, LeNet, 3 epochs, lr tuned from 0.001",
            f"{mnist:.2%} test",
            "`python benchmarks/rtho.py --dataset mnist --num-epoch 3`",
        ],
        [
            "CIFAR-10, VGG-11, one epoch, AdaTune's own command and constants: lr falls to 0",
            f"{ours:.1%} test",
            f"`python benchmarks/rtho.py {vgg_flags} --hyper-lr 1e-8 --adatune-defaults "
            "--num-epoch 1`",
        ],
        [
            "the same, cosine with restarts",
            f"{cyclic:.1%} test",
            f"`python benchmarks/baselines.py {vgg_flags} --lr-scheduler cyclic "
            "--adatune-defaults --num-epoch 1`",
        ],
        [
            "HD, logistic regression on MNIST, iterations to training loss 0.29, by start",
            baydin(),
            "`python benchmarks/studies/baydin.py`",
        ],
        [
            "16 MLPs in one vmapped step, over one after the other",
            f"{population['speedup']:.1f} x",
            "`python -m benchmarks.studies.population`",
        ],
        [
            f"{hostile['runs']} hostile runs (NaN batches, start lr 1e3, ...): broken numbers",
            f"{hostile['broken']}",
            "`make test-all`",
        ],
        [
            "`kill -9`, then `--resume`: runs that were not bit for bit the same",
            f"{different} of {kills}",
            "`make test-all`",
        ],
    ]
    return grid(["what", "figure", "command"], lines)


#: What people would otherwise pick: what it finds, what is left to set, its price, its devices.
RIVALS: dict[str, tuple[str, str, str, str, str]] = {
    "recipe": (
        "**`atf.recipe`**",
        "lr; any number of optimizer or loss",
        "the length, or later the end; validation batches",
        "1.6 plain steps, long runs",
        "all of torch's; many by `torchrun`",
    ),
    "hd": (
        "HD, as `atf.hd`",
        "lr; any number of optimizer or loss",
        "nothing; sees one step ahead only",
        "see `hd` above",
        "the same",
    ),
    "cosine": (
        "cosine, AdamW",
        "nothing",
        "lr, by a grid; the length",
        "1 step, times the grid",
        "all; DDP, FSDP",
    ),
    "schedule_free": (
        "schedule-free",
        "the schedule, not lr",
        "lr, beta, warm-up; `train()` and `eval()` around evaluation",
        "1 step",
        "all; DDP",
    ),
    "prodigy": (
        "Prodigy",
        "lr, growing from d0",
        "a schedule; d0 below the right lr",
        "1 step",
        "all; FSDP",
    ),
    "d_adaptation": (
        "D-Adaptation",
        "lr, growing from d0",
        "a schedule; d0 below the right lr",
        "1 step",
        "all; FSDP",
    ),
    "mechanic": ("Mechanic", "a factor on lr", "a schedule, the optimizer", "1 step", "all"),
    "adatune": (
        "AdaTune",
        "lr of SGD and Adam",
        "hyper-lr, alpha, mu",
        "see `classic` above",
        "one, CUDA",
    ),
    "torchopt": (
        "TorchOpt",
        "what you differentiate: a toolbox",
        "the outer loop and its optimizer",
        "steps unrolled are kept in memory",
        "all; its own RPC",
    ),
}


def rivals() -> str:
    """What can be said in words, and what the packages were asked."""
    asked = {row["method"]: row for row in kept("rival_facts")["rows"]}
    head = [
        "",
        "finds",
        "you still set",
        "costs",
        "memory",
        "resumes",
        "`torch.compile`",
        "devices",
    ]
    lines = []
    for method, (name, finds, still, costs, devices) in RIVALS.items():
        measured = ["-", "-", "-"]
        if row := asked.get(method):
            graphs = {None: "raises", 0: "falls back to eager", 1: "one graph"}
            memory = f"+{row['kept_beside_adamw']:g}" if row["kept_beside_adamw"] else "0"
            resumes = {"KeyError": "no: KeyError"}.get(row["resumes"], row["resumes"])
            compiles = graphs.get(row["graphs"], f"{row['graphs']} graphs")
            compiles += ", gradient and all" * (method in ("recipe", "hd"))
            measured = [memory, resumes, compiles]
        lines.append([name, finds, still, costs, *measured, devices])
    return grid(head, lines)


def baydin() -> str:
    rows = kept("baydin")["rows"]
    said = []
    for optimizer, name in (("sgd", "SGD"), ("adam", "Adam")):
        its = [row for row in rows if row["method"] == "hd" and row["optimizer"] == optimizer]
        counts = [row["iterations"] for row in sorted(its, key=lambda row: row["start"])]
        said.append(f"{name} " + " ".join("-" if n is None else str(n) for n in counts))
    return "; ".join(said)


PARTS: dict[str, Callable[[], str]] = {
    "starts": starts,
    "measured": measured,
    "speed": speed,
    "bargains": bargains,
    "rivals": rivals,
}


def rewritten(text: str) -> str:
    """A page's text with every marked part drawn anew."""
    return MARKED.sub(lambda match: match[1] + PARTS[match[2]]() + match[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text()))
