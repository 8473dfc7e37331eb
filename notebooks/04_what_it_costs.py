# %% [markdown]
# # What it costs
#
# A tuned step trains, carries the tangent $Z$ along with a Hessian-vector product, and looks at an
# outer batch. Each of these can be had for less, and then $Z$ is approximate. Two benchmarks hold
# the two sides of the bargain: `benchmarks/speed.py` the time of a step over the compiled plain
# step, `benchmarks/curvature.py` the cosine of $Z$ with the exact $Z$ along the same run. This page
# measures nothing, it reads their JSON files.

# %%
import json
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt

plt.style.use("plain.mplstyle")
RESULTS = Path("..", "benchmarks", "results")
MU = 0.99  # near the default of `marthe`, 0.995
speed, curvature = (
    json.loads((RESULTS / name).read_text()) for name in ("speed.json", "curvature.json")
)
for name, file in (("speed", speed), ("curvature", curvature)):
    versions = sorted({run["torch"] for run in file["runs"]})
    print(f"{name}.json: {len(file['rows'])} rows, torch {', '.join(versions)}")

# %% [markdown]
# A method's name says which products it takes and where the outer loss comes from; only the
# products decide how good $Z$ is. Presets and `hd` have names of their own. (`hd` has mu 0, but mu
# is a number in the state: with another one the step costs the same.)

# %%
STRATEGIES = {
    "hd": "no_curvature",
    "balanced": "gauss_newton on 1/2",
    "smooth": "finite_difference",
    "fast": "gauss_newton on 1/8, a quarter of it",
    "reverse_over_reverse": "exact",
}


def strategy_of(method):
    products = method.replace(" (forward mode)", "")
    for outer in (", next batch", ", validation on 1/4"):
        products = products.removesuffix(outer)
    return STRATEGIES.get(products, products)


cosines = defaultdict(dict)  # (network, strategy) -> {lr: cosine}
for row in curvature["rows"]:
    if row["mu"] == MU:
        cosines[row["network"], row["strategy"]][row["lr"]] = row["cosine"]
rates = sorted({lr for by_lr in cosines.values() for lr in by_lr})
for network in {row["network"] for row in speed["rows"]}:
    known = {lr for (name, _), by_lr in cosines.items() if name == network for lr in by_lr}
    cosines[network, "exact"] = dict.fromkeys(known, 1.0)  # by definition

CASE = ("network", "device", "optimizer", "batch_size", "autocast", "channels_last", "threads")
cases = defaultdict(list)
for row in speed["rows"]:
    cases[tuple(row.get(name) for name in CASE)].append(row)
for case, rows in cases.items():
    print(", ".join(f"{name} {value}" for name, value in zip(CASE, case, strict=True)))
    for row in sorted(rows, key=lambda row: row["ratio"]):
        by_lr = cosines.get((row["network"], strategy_of(row["method"])), {})
        found = "  ".join(f"{by_lr[lr]:.3f} at {lr:g}" for lr in sorted(by_lr))
        print(f"  {row['method']:50s} {row['ratio']:5.2f}  {found}")

# %% [markdown]
# One picture for each network and machine, cheap methods on top. Left: time over the compiled
# plain step, the line in each bar is the floor by counting matrix work. Right, where it was
# measured: the cosine of Z with the exact Z, at several learning rates. Good is short on the left
# and far right on the right.


# %%
def draw(case, rows):
    rows = sorted(rows, key=lambda row: -row["ratio"])
    by_lr = [cosines.get((row["network"], strategy_of(row["method"])), {}) for row in rows]
    panels = 2 if any(by_lr) else 1
    figure, axes = plt.subplots(
        1, panels, figsize=(4.5 * panels, 1.2 + 0.3 * len(rows)), sharey=True, squeeze=False
    )
    left, right = axes[0, 0], axes[0, -1]
    y = range(len(rows))
    left.barh(y, [row["ratio"] for row in rows], color="C4", height=0.6)
    floors = [(k, row["floor"]) for k, row in enumerate(rows) if row.get("floor")]
    left.plot([floor for _, floor in floors], [k for k, _ in floors], "k|", markersize=10)
    left.set(title="time over the plain step", yticks=y, xlim=(0, None))
    left.set_yticklabels([row["method"] for row in rows])
    for k, lr in enumerate(rates):
        color = plt.colormaps["viridis"](k / len(rates))
        points = [(line[lr], row) for row, line in enumerate(by_lr) if lr in line]
        if points:
            right.plot(*zip(*points, strict=True), "o", color=color, label=f"lr {lr:g}")
    if any(by_lr):
        right.set(title="cosine of Z", xlim=(-0.05, 1.05))
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    network, device, _, batch_size, autocast, channels_last, threads = case
    extras = ", bfloat16" * bool(autocast) + ", channels_last" * bool(channels_last)
    figure.suptitle(f"{network}, {device}, {threads} threads, batch {batch_size}" + extras)
    plt.show()


for case, rows in cases.items():
    if case[CASE.index("optimizer")] == "sgd":  # the cosines are along runs with SGD
        ours = [row for row in rows if strategy_of(row["method"]) in {s for _, s in cosines}]
        if ours:
            draw(case, ours)

# %% [markdown]
# An error in one product is carried through all later steps, and the larger lr the more it is
# magnified: the same products that are as good as exact at small learning rates are not at large
# ones. What that does to accuracy, and what failed, is in `benchmarks/LOG.md`.
