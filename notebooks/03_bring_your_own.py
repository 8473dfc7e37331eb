# %% [markdown]
# # Bring your own
#
# Your loss, your loop, your optimizer, your hyperparameter. The library asks for pure functions
# and derives the rest; whether it derived right is a question for finite differences.
#
# ## A loss
#
# `loss_fn(params, buffers, batch) -> (loss, buffers)`. A module is not needed: parameters are any
# tree of tensors.

# %%
import os
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data

SMALL = "SMALL" in os.environ
STEPS = 5 if SMALL else 200
plt.style.use("plain.mplstyle")
digits = data.load("digits")


def logits(params, images):
    hidden = torch.tanh(images.flatten(1) @ params["W1"] + params["b1"])
    return hidden @ params["W2"] + params["b2"]


def loss_fn(params, buffers, batch):
    images, labels = batch
    return F.cross_entropy(logits(params, images), labels), buffers


torch.manual_seed(0)
params = {
    "W1": torch.randn(28 * 28, 32) / 28,
    "b1": torch.zeros(32),
    "W2": torch.randn(32, 10) / 32**0.5,
    "b2": torch.zeros(10),
}

# %% [markdown]
# ## An optimizer
#
# `Optimizer(init, update, hparams)`, and `params + updates` is the step. Here is Muon (Jordan et
# al. 2024): momentum whose matrices are orthogonalised by a few Newton-Schulz iterations,
#
# $$b \leftarrow \beta b + g, \qquad
#   W \leftarrow W - \eta \, \mathrm{orth}\big((1-\nu)\, g + \nu\, b\big).$$
#
# $\nu$ is a hyperparameter of our own, the weight of momentum against the fresh gradient (after
# Ma and Yarats 2019). Vectors take the same direction with a rate of their own, `vector_lr`.


# %%
class MuonState(NamedTuple):
    momentum_buffer: dict  # every leaf of a state is floating point


def orthogonalised(G):
    """Singular values of G towards 1, singular vectors as they are."""
    X = G / (G.norm() + 1e-7)
    for _ in range(5):
        A = X.mT @ X
        X = 3.4445 * X + X @ (-4.7750 * A + 2.0315 * A @ A)
    return X


def muon(lr=0.02, vector_lr=0.02, momentum=0.9, nu=0.9, orth=orthogonalised):
    def init(params):
        return MuonState({name: torch.zeros_like(p) for name, p in params.items()})

    def update(grads, state, params, hparams):
        lr, vector_lr, nu = hparams["lr"], hparams["vector_lr"], hparams["nu"]
        buffer, updates = {}, {}
        for name, g in grads.items():
            buffer[name] = hparams["momentum"] * state.momentum_buffer[name] + g
            d = (1 - nu) * g + nu * buffer[name]
            updates[name] = -lr * orth(d) if g.ndim == 2 else -vector_lr * d
        return updates, MuonState(buffer)

    hparams = {"lr": lr, "vector_lr": vector_lr, "momentum": momentum, "nu": nu}
    return atf.Optimizer(init, update, hparams)


# %% [markdown]
# ## Is it right?
#
# No derivative was written. `check_tangents` trains a few steps in float64, once with the recursion
# and then with each hyperparameter moved up and down, and compares.

# %%
tuned = {"lr": 0.002, "vector_lr": 0.002, "momentum": 0.9, "nu": 0.9}
train_batches = data.train_batches(digits, 64, seed=0)
val_batches = data.validation_batches(digits, 64, seed=0)
pairs = [(next(train_batches), next(val_batches)) for _ in range(2 if SMALL else 8)]


def check(optimizer):
    print("            hypergradient  difference  relative error  cosine of Z")
    for name, row in atf.check_tangents(loss_fn, optimizer, params, tuned, pairs).items():
        print(f"{name:12s} {row.hypergrad:12.6f} {row.difference:11.6f}", end="")
        print(f" {row.relative_error:15.1e} {row.cosine:12.6f}")


check(muon())

# %% [markdown]
# And a check that cannot fail is none. Cut the derivative of the Newton-Schulz iterations, as a
# stray `detach` would: training is the same to the last bit, the tangents are not.

# %%
check(muon(orth=lambda G: orthogonalised(G).detach()))

# %% [markdown]
# ## A loop
#
# The rule moves a hyperparameter it does not know on a logarithmic scale between 0 and infinity.
# $\nu$ should not exceed 1: `domains` says so. The loop is yours too; the state is a tuple of
# tensors, so the best one so far is kept by keeping it. Where lr drops at once, steps were refused.
# `atf.jit` compiles the step, whatever optimizer is in it.

# %%
rule = atf.relative(domains={"nu": (0.0, 1.0)})
tuner = atf.marthe(loss_fn, muon(), hyper_update=rule)
start = {"lr": 1e-4, "vector_lr": 1e-4, "nu": 0.5}
state = best = tuner.init(params, start)
step = tuner.step if SMALL else atf.jit(tuner.step)
lowest, history, losses, refused = float("inf"), [], [], 0
for _ in range(STEPS):
    state, info = step(state, next(train_batches), next(val_batches))
    history.append({name: float(value) for name, value in state.hparams.items()})
    losses.append(float(info.val_loss))
    refused += not info.accepted
    recent = sum(losses[-10:]) / len(losses[-10:])
    if recent < lowest:
        lowest, best = recent, state

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for name in start:
    left.plot([row[name] for row in history], label=name)
right.plot(losses, color="C4")
left.set(title="hyperparameters", xlabel="step", ylabel="value", yscale="log")
right.set(title="validation loss", xlabel="step", ylabel="nats", yscale="log")
left.legend()
plt.show()

# %%
test = data.normalize(digits.test.images, digits.mean, digits.std)
correct = logits(best.params, test).argmax(1) == digits.test.labels
print(f"{refused} null steps, test accuracy of the best state {correct.float().mean():.1%}")
