# %% [markdown]
# # What it costs
#
# A tuned step trains, carries the tangent $Z$ along with a Hessian-vector product, and looks at an
# outer batch. Each of these can be had for less, and then $Z$ is approximate. Two benchmarks hold
# the two sides of the bargain: `benchmarks/studies/speed.py` the time of a step over the compiled
# plain step, `benchmarks/studies/curvature.py` the cosine of $Z$ with the exact $Z$ along the same
# run. This page measures nothing, it reads their JSON files.

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

CASE = ("network", "optimizer", "device", "batch_size", "autocast", "channels_last", "threads")
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
# The price: time of a step over that of the compiled plain step, cheap methods on top. The line in
# each bar is the floor by counting matrix work; whoever is below it does less than counted or
# stands beside a slow plain step.
#
# Drawn are the steps in two threads. VGG-11 and ResNet-18 are older there than `jit`'s leaving
# convolutions the layout that they have; what they take since, in one thread, is in the list above.

# %%
drawn = {
    case: [row for row in rows if strategy_of(row["method"]) in {s for _, s in cosines}]
    for case, rows in cases.items()
    if case[1] == "sgd" and case[-1] == max(other[-1] for other in cases)
}
figure, axes = plt.subplots(
    -(-len(drawn) // 2), 2, figsize=(9, 1.2 * len(drawn)), layout="constrained", squeeze=False
)
for axis, (case, rows) in zip(axes.flat, drawn.items(), strict=False):
    rows = sorted(rows, key=lambda row: -row["ratio"])
    axis.barh([row["method"] for row in rows], [row["ratio"] for row in rows], 0.6, color="C4")
    axis.plot([row["floor"] for row in rows], range(len(rows)), "k|", markersize=8)
    network, _, device, batch_size, autocast, channels_last, _ = case
    extras = ", bfloat16" * bool(autocast) + ", channels_last" * bool(channels_last)
    axis.set_title(f"{network}, {device}, batch {batch_size}{extras}", fontsize=9)
    axis.set(xlim=(0, 5))
    axis.set_xlabel("time over the compiled plain step", fontsize=8)
    axis.tick_params(labelsize=7)
for axis in axes.flat[len(drawn) :]:
    axis.remove()
plt.show()

# %% [markdown]
# What it buys: the median cosine of $Z$ with the exact $Z$, at several learning rates. `_smooth` is
# the network with GELU for ReLU and average for max-pooling.

# %%
networks = sorted({row["network"].removesuffix("_smooth") for row in curvature["rows"]})
networks += [f"{network}_smooth" for network in networks]
shown = ["no_curvature", *dict.fromkeys(STRATEGIES.values()), "gauss_newton", "exact on 1/2"]
shown = [name for name in reversed(dict.fromkeys(shown)) if name != "exact"]
figure, axes = plt.subplots(
    2, len(networks) // 2, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained"
)
for axis, network in zip(axes.flat, networks, strict=True):
    for k, lr in enumerate(rates):
        points = [(cosines[network, name].get(lr), y) for y, name in enumerate(shown)]
        points = [point for point in points if point[0] is not None]
        if points:
            color = plt.colormaps["viridis"](k / len(rates))
            axis.plot(*zip(*points, strict=True), "o", color=color, label=f"lr {lr:g}")
    axis.set_title(network, fontsize=9)
    axis.set(xlim=(-0.12, 1.08), yticks=range(len(shown)), yticklabels=shown)
    axis.set_xlabel("cosine of Z", fontsize=8)
    axis.tick_params(labelsize=7)
figure.legend(*axes.flat[networks.index("mlp")].get_legend_handles_labels(), loc="outside right")
plt.show()

# %% [markdown]
# Both at once, for the MLP at lr 0.01: with ReLU and, taking the same times, with GELU. Good is top
# left. With kinks, finite differences (`smooth`) buy nothing; without, nothing beats them.

# %%
(times,) = [rows for case, rows in drawn.items() if case[0] == "mlp"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True)
for axis, network in zip(axes, ("mlp", "mlp_smooth"), strict=True):
    cosines[network, "exact"] = dict.fromkeys(rates, 1.0)
    for row in times:
        cosine = cosines[network, strategy_of(row["method"])].get(0.01)
        if cosine is not None:
            axis.plot(row["ratio"], cosine, "o", color="C4")
            at = row["ratio"], cosine
            axis.annotate(
                row["method"], at, (2, 3), textcoords="offset points", rotation=40, fontsize=7
            )
    axis.set(title=network, xlabel="time over the plain step", xlim=(1, 2.7), ylim=(-0.05, 1.5))
axes[0].set(ylabel="cosine of Z", yticks=(0, 0.25, 0.5, 0.75, 1))
plt.show()

# %% [markdown]
# An error in one product is carried through all later steps, and the larger lr the more it is
# magnified: the same products that are as good as exact at small learning rates are not at large
# ones. What that does to accuracy, and what failed, is in `benchmarks/LOG.md`.
