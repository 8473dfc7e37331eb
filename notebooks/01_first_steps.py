# %% [markdown]
# # First steps
#
# A small network learns to read digits. Its learning rate starts far too low, and tunes itself
# while the network trains. The data are real, 8 x 8 scans that come with scikit-learn.

# %%
import itertools
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import data

SMALL = "SMALL" in os.environ  # a few steps only: the tests run the notebooks that way
STEPS = 10 if SMALL else 200
plt.style.use("plain.mplstyle")

digits = data.load("digits")
_, axes = plt.subplots(1, 10, figsize=(9, 1))
for axis, image in zip(axes, digits.train.images, strict=False):
    axis.imshow(image[0], cmap="gray_r")
    axis.axis("off")
plt.show()

# %% [markdown]
# `functionalize` turns a module and a criterion into a pure function and the values to start from.

# %%
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, 10))
loss_fn, params, buffers = atf.functionalize(model, F.cross_entropy)

# %% [markdown]
# The tuner has two functions. `init` makes a state: what is named in `hparams` is tuned. `step`
# trains one batch, judges the result on a validation batch, and moves lr. One loop does for all
# runs below. In a long run, compile it: `step = atf.jit(tuner.step)`. `jit` writes a step down as
# one flat graph, in which nothing waits for the device:

# %%
tuner = atf.marthe(loss_fn, atf.sgd(momentum=0.9))
state, batch = tuner.init(params, {"lr": 1e-5}), next(data.train_batches(digits, 64, seed=0))
traced = atf.jit(tuner.step).graph(state, batch, batch).graph
products = [node for node in traced.nodes if "mm" in str(node.target)]
print(f"one step: {len(traced.nodes)} operations before they are fused, {len(products)} products")


# %%
def train(tuner, hparams):
    state = tuner.init(params, hparams, buffers)
    train_batches = data.train_batches(digits, 64, seed=0)
    val_batches = data.validation_batches(digits, 64, seed=0)
    infos, lrs = [], []
    for _ in range(STEPS):
        lrs.append(float(state.hparams["lr"]))
        state, info = tuner.step(state, next(train_batches), next(val_batches))
        infos.append(info)
    return state, infos, lrs


def accuracy(state):
    atf.write_back(model, state)  # back into the nn.Module
    images = data.normalize(digits.test.images, digits.mean, digits.std)
    return float((model(images).argmax(1) == digits.test.labels).float().mean())


sgd = atf.sgd(momentum=0.9)
runs = {
    "tuned": train(atf.marthe(loss_fn, sgd), {"lr": 1e-5}),
    "constant": train(atf.plain(loss_fn, sgd), {"lr": 1e-5}),
}


# %%
def mark_null_steps(axis, infos, lrs):
    refused = [t for t, info in enumerate(infos) if not info.accepted]
    axis.plot(refused, [lrs[t] for t in refused], "ko", markersize=4, label="null steps")


_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for name, (_, infos, lrs) in runs.items():
    left.plot(lrs, label=name)
    right.plot([info.loss for info in infos])
mark_null_steps(left, *runs["tuned"][1:])
left.set(title="learning rate", xlabel="step", ylabel="lr", yscale="log")
right.set(title="training loss", xlabel="step", ylabel="nats", yscale="log")
left.legend()
plt.show()

# %% [markdown]
# lr climbs by at most 10 % a step, over decades, until more would no longer lower the validation
# loss. Is the result any good? Here are constant learning rates beside it, on the test images,
# which no run has seen. They train side by side, as one vmapped step.

# %%
plain = atf.plain(loss_fn, sgd)
constants = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
states = [plain.init(params, {"lr": lr}, buffers) for lr in constants]
batches = itertools.islice(data.train_batches(digits, 64, seed=0), STEPS)
sweep = atf.search.sweep(plain, states, ((batch,) for batch in batches))
print(f"tuned from 1e-05  {accuracy(runs['tuned'][0]):6.1%}")
for lr, state in zip(constants, atf.search.unstack(sweep.state), strict=True):
    print(f"constant {lr:<8g} {accuracy(state):6.1%}")

# %% [markdown]
# The black dots are null steps. Where a step is too long for the weights, or would make the
# validation loss explode, the state stays as it was, lr is lowered, and `info.accepted` is False.
# A start that is far too high is left that way.

# %%
state, infos, lrs = train(atf.marthe(loss_fn, sgd), {"lr": 100.0})
_, axis = plt.subplots(figsize=(5.4, 3))
axis.plot(lrs, label="tuned from 100")
mark_null_steps(axis, infos, lrs)
axis.set(title="learning rate", xlabel="step", ylabel="lr", yscale="log")
axis.legend()
plt.show()
print(f"test accuracy {accuracy(state):.1%}")

# %% [markdown]
# Any hyperparameter of the optimizer can join, each for one Hessian-vector product more a step.

# %%
start = {"lr": 1e-5, "weight_decay": 1e-3}
state, infos, _ = train(atf.marthe(loss_fn, sgd), start)
for name, value in state.hparams.items():
    mean = torch.stack([info.hypergrads[name] for info in infos]).mean()
    print(f"{name:12s} {start[name]:g} -> {value:.2g}, mean hypergradient {mean:+.2g}")
print(f"test accuracy {accuracy(state):.1%}")

# %% [markdown]
# ## A whole run: the recipe
#
# A long run need not derive lr at every step. `atf.recipe` tunes in windows, judges at an average
# of the weights and lets lr fall to 0 over the last fifth; both kinds of step are compiled here, by
# `wrap=atf.jit`. It has nothing to set but the length, wherever it starts.

# %%
LENGTH = 12 if SMALL else 600
run = atf.recipe(loss_fn, sgd, LENGTH, wrap=(lambda step: step) if SMALL else atf.jit)
_, axis = plt.subplots(figsize=(5.4, 3))
for start in (1e-6, 1.0):
    state, lrs = run.init(params, {"lr": start}, buffers), []
    train_batches = data.train_batches(digits, 64, seed=0)
    val_batches = data.validation_batches(digits, 64, seed=0)
    for t in range(LENGTH):
        lrs.append(float(atf.effective_lr(state)))
        state, _ = run.step(t, state, next(train_batches), next(val_batches))
    axis.plot(lrs[:-1], label=f"recipe from {start:g}")
    print(f"recipe from {start:<8g} {accuracy(run.model(state)):6.1%}")
axis.set(title="learning rate in use", xlabel="step", ylabel="lr", yscale="log")
axis.legend()
plt.show()
