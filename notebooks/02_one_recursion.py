# %% [markdown]
# # One recursion
#
# Training is a map $u_{t+1} = \Phi(u_t, \eta)$ on parameters and optimizer state. How $u$ moves
# with a hyperparameter $\eta$ is a tangent $Z$, and one recursion carries it along:
#
# $$Z_{t+1} = A_t\,(\mu Z_t) + B_t, \qquad
#   A_t = \frac{\partial\Phi}{\partial u},\quad B_t = \frac{\partial\Phi}{\partial\eta},
#   \qquad h_t = \langle\nabla E(w_{t+1}),\, Z_{t+1}\rangle .$$
#
# $\mu = 0$ is HD, $\mu = 1$ is RTHO, between them lies MARTHE. This page draws $Z$, then what
# $\mu$ does to $h$, then why a small $\mu$ can mislead.

# %%
import os

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf

SMALL = "SMALL" in os.environ
STEPS = 20 if SMALL else 60
LR, MUS = 0.05, (0.0, 0.9, 0.99, 1.0)
plt.style.use("plain.mplstyle")

# %% [markdown]
# A tiny smooth problem in float64: fit $\sin 3x$, 32 points a batch, SGD with momentum.

# %%
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))


loss_fn, params, buffers = atf.functionalize(model, F.mse_loss)
sgd = atf.sgd(momentum=0.9)
x = torch.rand(STEPS + 1, 32, 1) * 2 - 1
batches = [(x[t], torch.sin(3 * x[t])) for t in range(STEPS)]
val_batch = (x[STEPS], torch.sin(3 * x[STEPS]))

# %% [markdown]
# ## Z is the derivative of the run
#
# The rule `additive(0.0)` computes everything and moves nothing. As long as no step is refused,
# $\eta$ stays constant, and with $\mu = 1$, $Z_t$ should be $dw_t/d\eta$ of the whole run so far.
# Run twice more, with lr a little higher and a little lower, and compare.


# %%
def trajectory(tuner, lr):
    state, states, infos = tuner.init(params, {"lr": lr}, buffers), [], []
    for batch in batches:
        state, info = tuner.step(state, batch, val_batch)
        states.append(state)
        infos.append(info)
    return states, infos


tuned = {
    mu: trajectory(atf.marthe(loss_fn, sgd, mu=mu, hyper_update=atf.additive(0.0)), LR)
    for mu in MUS
}
assert all(info.accepted for _, infos in tuned.values() for info in infos)
eps = 1e-6
ahead, _ = trajectory(atf.plain(loss_fn, sgd), LR + eps)
behind, _ = trajectory(atf.plain(loss_fn, sgd), LR - eps)

NAME = "0.weight"  # the first layer's eight weights
z = torch.stack([state.z.params[NAME][0, :, 0] for state in tuned[1.0][0]])
differences = torch.stack(
    [
        (a.params[NAME] - b.params[NAME])[:, 0] / (2 * eps)
        for a, b in zip(ahead, behind, strict=True)
    ]
)
print(f"largest |Z| {z.abs().max():.3g}, largest error {(z - differences).abs().max():.1g}")

# %%
_, axis = plt.subplots(figsize=(6.4, 3.4))
times = range(1, STEPS + 1)
for k in range(4):
    axis.plot(times, z[:, k], color=f"C{k}", label=f"$Z$ of weight {k}")
    axis.plot(times[::3], differences[::3, k], "o", color=f"C{k}", markersize=4, fillstyle="none")
axis.plot([], [], "ko", markersize=4, fillstyle="none", label="finite differences")
axis.set(title="how four weights move with lr", xlabel="step", ylabel="$dw/d\\eta$")
axis.legend(ncols=2)
plt.show()

# %% [markdown]
# ## mu is a horizon
#
# Give each step a learning rate of its own. The last outer loss has a slope in every one of
# them, and unrolling the recursion shows what $\mu$ does with these slopes:
#
# $$h_T = \sum_{a \ge 0} \mu^a \,\frac{dE(w_T)}{d\eta_{T-1-a}} .$$
#
# A step of age $a$ counts $\mu^a$, and the horizon is about $1/(1-\mu)$ steps. The slopes come
# from reverse mode through the whole run, which knows nothing of tangents.


# %%
def final_loss(lrs):
    w, momenta = params, sgd.init(params)
    for lr, batch in zip(lrs, batches, strict=True):
        grads = torch.func.grad(lambda w, batch=batch: loss_fn(w, buffers, batch)[0])(w)
        updates, momenta = sgd.update(grads, momenta, w, {**sgd.hparams, "lr": lr})
        w = {name: w[name] + updates[name] for name in w}
    return loss_fn(w, buffers, val_batch)[0]


slopes = torch.func.grad(final_loss)(torch.full((STEPS,), LR)).flip(0)  # by age
ages = torch.arange(STEPS)
print("  mu   h by the recursion   by the sum over ages")
for mu in MUS:
    h = tuned[mu][1][-1].hypergrads["lr"]
    print(f"{mu:4g} {h:16.10f} {(slopes * mu**ages).sum():20.10f}")

# %%
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
left.bar(ages, slopes, color="C4")
left.set(title="slope of the final loss in each step's lr", xlabel="age of the step")
left.set_ylabel("dE / dlr of that step")
for mu in MUS:
    right.plot(ages, mu**ages, label=f"$\\mu$ = {mu:g}")
right.set(title="what each slope counts", xlabel="age of the step", ylabel="weight")
right.legend()
plt.show()

# %% [markdown]
# ## The short-horizon bias
#
# What lowers the loss soon need not lower it in the end (Wu et al. 2018, arXiv 1803.02021). Take a
# noisy quadratic, $L(w) = \frac12\sum_i a_i (w_i - c_i)^2$, where each batch is a fresh $c$ and
# the outer loss is without noise. Half the directions are steep and already at their optimum, the
# others flat and far from it. A smaller lr quiets the steep directions within a few steps; the
# flat ones, where all the progress is, reward a large lr only much later.

# %%
N, LENGTH = 20, 20 if SMALL else 500
curvature = torch.tensor([1.0] * N + [0.02] * N)
start = {"w": torch.tensor([0.0] * N + [5.0] * N)}
noise = torch.randn(LENGTH, 2 * N, generator=torch.Generator().manual_seed(0))


def quadratic(params, buffers, batch):
    return 0.5 * (curvature * (params["w"] - batch) ** 2).sum(), buffers


# %% [markdown]
# mu and lr are numbers in the state, so several runs are one state with a row each, trained side
# by side by one vmapped step.


# %%
def side_by_side(tuners, lrs):
    """The learning rates and outer losses along the runs, and where the flat directions end."""
    pairs = zip(tuners, lrs, strict=True)
    states = atf.search.stack([tuner.init(start, {"lr": lr}) for tuner, lr in pairs])
    step, lr, loss = torch.vmap(tuners[0].step, in_dims=(0, None, None)), [], []
    for batch in noise:
        lr.append(states.hparams["lr"])
        states, _ = step(states, batch, torch.zeros(2 * N))
        loss.append(0.5 * (curvature * states.params["w"] ** 2).sum(-1))
    return torch.stack(lr), torch.stack(loss), states.params["w"][:, N:].mean(-1)


constants = [0.01, 0.03, 0.1, 0.3]
fixed = side_by_side([atf.plain(quadratic, atf.sgd())] * len(constants), constants)
tuned = side_by_side([atf.marthe(quadratic, atf.sgd(), mu=mu) for mu in MUS], [0.5] * len(MUS))

best = fixed[1][-1].argmin()
_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
for k, mu in enumerate(MUS):
    left.plot(tuned[0][:, k], label=f"$\\mu$ = {mu:g}")
    right.plot(tuned[1][:, k])
right.plot(fixed[1][:, best], "k--", linewidth=1, label=f"best constant lr, {constants[best]:g}")
left.set(title="learning rate", xlabel="step", ylabel="lr", yscale="log")
right.set(title="outer loss", xlabel="step", ylabel="E", yscale="log")
ticks = [0.02, 0.05, 0.1, 0.2, 0.5]
left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
left.minorticks_off()
left.legend()
right.legend()
plt.show()

# %%
names = [f"constant lr {lr:g}" for lr in constants] + [f"tuned, mu {mu:g}" for mu in MUS]
losses, flats = torch.cat([fixed[1][-1], tuned[1][-1]]), torch.cat([fixed[2], tuned[2]])
print("                   outer loss   flat directions (from 5, the optimum is 0)")
for name, loss, flat in zip(names, losses, flats, strict=True):
    print(f"{name:18s} {loss:10.2f} {flat:10.2f}")

# %% [markdown]
# At first lr falls under every mu, as that lowers the loss soon. Under a short horizon it goes on
# falling, the flat directions hardly move, and a plain constant lr wins in the end; ten steps see
# no further here than one. With a long memory lr turns round once Z has seen what the flat
# directions gain, and falls again when they have arrived. This costs no more time: Z has the same
# size, whatever mu. Its price is elsewhere. A long memory notices late when lr has become too
# high, and where training is chaotic long tangents explode.
