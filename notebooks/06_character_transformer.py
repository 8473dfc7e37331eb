# %% [markdown]
# # A character transformer
#
# A small decoder learns to write Python. Its text is a part of Python's own library, so nothing is
# downloaded. Its learning rate starts where no run should start, far too low and far too high, and
# `atf.recipe` finds one while it trains. (`benchmarks/language_model.py` does this for any text.)

# %%
import os
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import adatune_func as atf
from adatune_func import data, networks

SMALL = "SMALL" in os.environ  # a few steps only: the tests run the notebooks that way
STEPS = 6 if SMALL else 400
BATCH, CONTEXT = (4, 16) if SMALL else (16, 48)
plt.style.use("plain.mplstyle")

library = Path(sysconfig.get_paths()["stdlib"])
modules = ("argparse", "ast", "configparser", "csv", "difflib", "enum", "inspect", "textwrap")
with TemporaryDirectory() as folder:
    path = Path(folder) / "library.txt"
    path.write_text("\n".join((library / f"{name}.py").read_text() for name in modules))
    text = data.load_text(path, "characters")
print(f"{len(text.train):,} characters to train on, {text.vocabulary} different ones")

# %% [markdown]
# The three parts of a text are contiguous and do not overlap: `train`, `validation`, which judges
# the steps, and `test`, which is seen at the end. Batch t is a function of (seed, t).

# %%
torch.manual_seed(0)
model = networks.Decoder(text.vocabulary, context=CONTEXT, width=48, layers=2, heads=4)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")


def cross_entropy(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


loss_fn, params, buffers = atf.functionalize(model, cross_entropy)

# %% [markdown]
# One recipe for all starts: tuned steps in windows, judged at an average of the weights, lr falling
# to 0 over the last fifth. A long run is compiled, `wrap=atf.jit`; a transformer takes the compiler
# some minutes, so this short one is not.

# %%
run = atf.recipe(loss_fn, atf.adamw(eps=1e-6), STEPS)


def train(step, state):
    train_batches = data.text_batches(text.train, BATCH, CONTEXT, seed=0)
    val_batches = data.text_batches(text.validation, BATCH, CONTEXT, seed=1)
    losses, lrs = [], []
    for t, batch, val_batch in zip(range(STEPS), train_batches, val_batches, strict=False):
        lrs.append(float(atf.effective_lr(state)))
        state, info = step(t, state, batch, val_batch)
        losses.append(float(info.loss))
    return state, losses, lrs


starts = (1e-6, 0.1)
runs = {
    f"recipe from {lr:g}": train(run.step, run.init(params, {"lr": lr}, buffers)) for lr in starts
}

# %% [markdown]
# Beside them the same optimizer with that learning rate kept, and the same cool-down.

# %%
shaped = atf.scheduled(atf.adamw(eps=1e-6), atf.shapes.cooldown(STEPS))
plain = atf.plain(loss_fn, shaped)
for lr in starts:
    state = plain.init(params, {"lr": lr}, buffers)
    runs[f"{lr:g} kept"] = train(lambda t, state, batch, _: plain.step(state, batch), state)

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for k, (name, (_, losses, lrs)) in enumerate(runs.items()):
    style = {"color": f"C{k % 2}", "linestyle": "-" if "recipe" in name else ":"}
    left.plot(range(STEPS - 1), lrs[:-1], **style)
    window = torch.tensor(losses).unfold(0, min(10, STEPS), 1).mean(-1)
    right.plot(range(len(window)), window, label=name, **style)
left.set(title="learning rate in use", xlabel="step", ylabel="lr", yscale="log")
right.set(title="training loss", xlabel="step", ylabel="nats a character, mean of 10 steps")
right.legend()
plt.show()

# %% [markdown]
# On the test part, in nats a character (guessing evenly is the logarithm of the vocabulary):


# %%
def test_loss(state):
    with torch.no_grad():
        pieces = data.text_in_order(text.test, 64, CONTEXT, most=20 if SMALL else 512)
        losses = [float(loss_fn(state.params, buffers, batch)[0]) for batch in pieces]
    return sum(losses) / len(losses)


print(f"{'evenly':20s} {torch.tensor(float(text.vocabulary)).log():.3f}")
for name, (state, _, _) in runs.items():
    print(f"{name:20s} {test_loss(run.model(state) if 'recipe' in name else state):.3f}")

# %% [markdown]
# And what it writes by then, going on with the first words of the test part:

# %%
atf.write_back(model, run.model(runs["recipe from 1e-06"][0]))
model.eval()
tokens = text.test[:CONTEXT].long()
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for _ in range(10 if SMALL else 300):
        likely = model(tokens[None, -CONTEXT:])[0, -1].div(0.8).softmax(0)
        tokens = torch.cat([tokens, torch.multinomial(likely, 1, generator=generator)])
print(data.to_text(text, tokens))
