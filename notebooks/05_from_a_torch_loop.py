# %% [markdown]
# # From a torch loop
#
# An ordinary `torch.optim` loop becomes an adaptive one in two steps. The first changes nothing
# but the form, and the result is the same; the second tunes.

# %%
import copy
import itertools
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func import data

SMALL = "SMALL" in os.environ
STEPS = 5 if SMALL else 150
plt.style.use("plain.mplstyle")
torch.set_default_dtype(torch.float64)  # so that rounding does not blur "the same"

digits = data.load("digits")
digits = digits._replace(mean=digits.mean.double(), std=digits.std.double())
train_batches = list(itertools.islice(data.train_batches(digits, 64, seed=0), STEPS))
val_batches = list(itertools.islice(data.validation_batches(digits, 64, seed=0), STEPS))
test_images = data.normalize(digits.test.images, digits.mean, digits.std)

torch.manual_seed(0)
fresh = nn.Sequential(
    nn.Conv2d(1, 8, 5, stride=2),
    nn.BatchNorm2d(8),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(8 * 12 * 12, 10),
)


def accuracy(model):
    model.eval()
    return float((model(test_images).argmax(1) == digits.test.labels).float().mean())


# %% [markdown]
# ## The loop as it is
#
# With momentum, weight decay, clipping and a cosine schedule, as such loops tend to have.

# %%
model = copy.deepcopy(fresh)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
losses = []
for images, labels in train_batches:
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
print(f"test accuracy {accuracy(model):.1%}")

# %% [markdown]
# ## The same loop in pure functions
#
# | torch | here |
# | --- | --- |
# | `model`, `F.cross_entropy` | `functionalize(model, F.cross_entropy)`: loss, params, buffers |
# | `torch.optim.SGD(...)` | `sgd(...)`, of the same arguments |
# | `clip_grad_norm_` before the step | `clip_grad_norm` around the optimizer |
# | `CosineAnnealingLR` | `plain(..., schedule)` |
# | `zero_grad`, `backward`, `step` | `state, info = tuner.step(state, batch)` |
# | the model has the result | `write_back(model, state)` |

# %%
loss_fn, params, buffers = atf.functionalize(fresh, F.cross_entropy)
optimizer = atf.clip_grad_norm(atf.sgd(lr=0.05, momentum=0.9, weight_decay=5e-4), 1.0)
tuner = atf.plain(loss_fn, optimizer, atf.schedules.cosine(0.05, STEPS))
state = tuner.init(params, buffers=buffers)
same_losses = []
for batch in train_batches:
    state, info = tuner.step(state, batch)
    same_losses.append(float(info.loss))
same_model = copy.deepcopy(fresh)
atf.write_back(same_model, state)

# %%
print(f"test accuracy {accuracy(same_model):.1%}")
apart = max(abs(a - b) for a, b in zip(losses, same_losses, strict=True))
print(f"largest difference of a training loss  {apart:.1e}")
same = same_model.state_dict()
for name, value in model.state_dict().items():
    print(f"largest difference of {name:22s} {(value - same[name]).abs().max():.1e}")

# %% [markdown]
# Weights, running statistics and counters are those of torch, up to rounding.
#
# ## The tuned loop
#
# `marthe` in place of `plain`, no schedule, the hyperparameter's start in `init`, and a validation
# batch a step. For long runs, compile: `step = atf.jit(tuner.step)`.

# %%
tuner = atf.marthe(loss_fn, optimizer)
state = tuner.init(params, {"lr": 0.05}, buffers)
tuned_losses, lrs = [], []
for batch, val_batch in zip(train_batches, val_batches, strict=True):
    lrs.append(float(state.hparams["lr"]))
    state, info = tuner.step(state, batch, val_batch)
    tuned_losses.append(float(info.loss))
tuned_model = copy.deepcopy(fresh)
atf.write_back(tuned_model, state)
print(f"test accuracy {accuracy(tuned_model):.1%}")

# %%
cosine = [atf.schedules.cosine(0.05, STEPS)(t) for t in range(STEPS)]
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
for name, curve, rates in (("torch.optim", losses, cosine), ("tuned", tuned_losses, lrs)):
    left.plot(rates, label=name)
    right.plot(curve, label=name)
left.set(title="learning rate", xlabel="step", ylabel="lr")
right.set(title="training loss", xlabel="step", ylabel="nats", yscale="log")
left.legend()
plt.show()

# %% [markdown]
# Where the schedule was good already there is little to win. What is won is shown by starts that
# are wrong: the same loop, lr off by a factor, and beside it the recipe, which also lets lr fall
# over the last fifth and takes its model from an average of the weights.

# %%
print("start lr   with the cosine   tuned   recipe")
run = atf.recipe(loss_fn, optimizer, STEPS)
for lr in (0.0005, 5.0):
    results = []
    for tuner in (
        atf.plain(loss_fn, optimizer, atf.schedules.cosine(lr, STEPS)),
        atf.marthe(loss_fn, optimizer),
    ):
        state = tuner.init(params, {"lr": lr}, buffers)
        for batch, val_batch in zip(train_batches, val_batches, strict=True):
            state, _ = tuner.step(state, batch, val_batch)
        model = copy.deepcopy(fresh)
        atf.write_back(model, state)
        results.append(accuracy(model))
    state = run.init(params, {"lr": lr}, buffers)
    for t, (batch, val_batch) in enumerate(zip(train_batches, val_batches, strict=True)):
        state, _ = run.step(t, state, batch, val_batch)
    atf.write_back(model, run.model(state, train_batches))  # BatchNorm's statistics, too
    results.append(accuracy(model))
    print(f"{lr:<10g} {results[0]:15.1%} {results[1]:7.1%} {results[2]:8.1%}")
