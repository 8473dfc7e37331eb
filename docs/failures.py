"""What messages mean and what to do, by situation; ``messages.py`` makes a page of it."""

from __future__ import annotations

from typing import NamedTuple


class Situation(NamedTuple):
    """Messages that have one cause; ``parts`` are pieces of them that tell them from all others."""

    title: str
    text: str
    parts: tuple[str, ...]


HEAD = """\
# When something fails

Errors come in words, as early as possible: at `init` where something can be known there, else at the first step. Look
for yours with your browser's search; "…" stands for what only your run knows. Every message of the package is on this
page, and a test keeps it so.

Where an error comes from torch instead, run the step once in eager, without `jit` and `torch.compile`: there torch's
error is translated. If that does not help, [what torch cannot do](gotchas.md) may have it, and
`python -m adatune_func` prints what a bug report needs.

## Nothing fails, but lr does not move { #silent }

* `info.accepted` is False again and again: steps are refused, as too long or because the loss explodes. lr falls by
  itself within some tens of steps; if it does not end, look for NaN or huge numbers in the batches.
* `info.z_reset["lr"]` is True at each step: the optimizer has a derivative that is not finite. Take
  [`safe_sqrt`](gotchas.md#own-optimizers) in place of `sqrt`.
* `info.hypergrads["lr"]` is exactly 0: Z is 0, as at a first step and at the first after `tuner.train`. If it stays,
  the outer loss does not see the parameters.
* `info.kept["lr"]` is 0 again and again: training expands, and its tangent is forgotten. lr steps back at each.
* `info.snr["lr"]` stays near 0.07: the hypergradient is noise. Take larger validation batches or a longer memory, mu.
* lr moves, and the wrong way: a gradient is stopped in the loss, or there are kinks. `atf.check_tangents` says which
  part is off.
"""

SITUATIONS = (
    Situation(
        "The loss has the wrong form",
        "A `loss_fn` takes `(params, buffers, batch)` and returns `(loss, buffers)`, the loss a floating-point tensor "
        "without dimensions, the buffers those it was given, moved or not. Most criteria want a mean over the batch. "
        "[My own loss](own_loss.md) shows the forms that there are.",
        (
            "loss_fn must return (loss, buffers)",
            "the loss must be a scalar tensor",
            "the loss must be a scalar, got shape",
            "the loss must be floating point",
            "loss_fn must return the buffers",
            "must be a tensor, loss_fn returns",
            "and comes back",
        ),
    ),
    Situation(
        "The loss does not see the parameters",
        "What is trained is what the loss computes with. A function that calls its module directly reads the module's "
        "own weights, which never move: let `functionalize` make the loss, or call `torch.func.functional_call`. The "
        "same holds for a penalty that is read off the model from outside, and for a forward hook that holds it.",
        (
            "the loss does not depend on params",
            "of which a copy is trained: what is read there",
            "holds the module (as",
        ),
    ),
    Situation(
        "The loss writes into what it was given",
        "A step is pure: its state stays as it was. What writes in place, BatchNorm into its statistics or an "
        "embedding with `max_norm` into its weight, has to write into a clone. `functionalize` clones buffers for you.",
        (
            "the loss writes into its params in place",
            "the loss writes in place into a tensor",
            "with max_norm",
        ),
    ),
    Situation(
        "An operation has no derivative",
        "Exact products differentiate a gradient once more, which not every kernel of torch offers. The message names "
        "the way out: another exact product, or finite differences, which need gradients only. What is known, "
        "operation by operation, is on [what is covered](coverage.md).",
        (
            "saved-tensor hooks",
            "an autograd.Function has a derivative",
            "torch.func cannot reach the memory",
            "inside the loss, take derivatives by torch.func.grad",
            "two precisions meet",
            "the loss uses an operation without",
        ),
    ),
    Situation(
        "Finite differences and random numbers",
        "A finite difference takes the gradient twice, so both have to see the same dropout mask. Exact products share "
        "one evaluation and have no such trouble.",
        (
            "randomness must be",
            "finite_difference needs a loss without random numbers",
            'finite_difference(randomness="same") cannot run',
        ),
    ),
    Situation(
        "Gauss-Newton products need to see the model's output",
        "They treat model and criterion apart. A loss from `functionalize(model, criterion)` has both; one that is "
        "written by hand says so with `ModelLoss(model_fn, criterion)`. The presets `balanced` and `fast` are of this "
        "kind.",
        ("gauss_newton cannot look", "gauss_newton has to see"),
    ),
    Situation(
        "Products of a part of the batch",
        "`on_fraction` and `accumulate` cut a batch along dim 0, so each of its tensors has the samples there, and "
        "their number has to fit.",
        (
            "fraction must lie in",
            "parts must be 1 or more",
            "to take part of a batch",
            "samples leaves none",
            "samples do not split",
            "shared_product was built for",
        ),
    ),
    Situation(
        "Parameters that cannot be trained",
        "Parameters are a tree of dense floating-point tensors of 32 or 64 bits with finite values, each tensor once. "
        "What is frozen or integer belongs in the buffers; 16 bits belong inside the loss, under "
        "`torch.autocast(device, torch.bfloat16)` ([why](many_devices.md#bfloat16)), and Z may wait in bfloat16, too.",
        (
            "params is empty",
            "params must be a tree of tensors",
            "params must be floating point",
            "params must be dense",
            "params are on the meta device",
            "params hold a number that is not finite",
            "params hold one tensor twice",
            "under float16 autocast",
            "z_dtype must be one of",
        ),
    ),
    Situation(
        "Buffers that do not fit",
        "Buffers are a flat dict of tensors, those of the module. `init` takes them as third argument, and forgetting "
        "them is the usual reason: `tuner.init(params, hparams, buffers)`.",
        (
            "buffers must be a dict",
            "buffers must be tensors",
            "are not those of the module",
        ),
    ),
    Situation(
        "The module cannot be made pure",
        "`functionalize` copies a module and calls the copy with the values of a state. What is no plain `nn.Module`, "
        "or has no shapes yet, or keeps state outside of buffers, it cannot call that way.",
        (
            "module must be an nn.Module",
            "has no shape yet",
            "a ScriptModule",
            "wrapped in",
            "forward leaves",
            "is a name of the module and of its criterion",
            "the module is in eval mode",
        ),
    ),
    Situation(
        "The batch is not read as you meant it",
        "A batch is `(*inputs, target)`, or a dict of `forward`'s keywords, or one input that is its own target. A "
        "criterion is called with the module's output and the target; where either is no tensor, a small function "
        "takes the tensor out of it.",
        (
            "the batch is empty",
            "the batch was read as",
            "batch the criterion is given all",
            "take the tensor out of it",
            "criterion=None takes the loss",
            "a batch holds",
        ),
    ),
    Situation(
        "A hyperparameter's name",
        "What may be in `hparams` are the names that the optimizer lists (`atf.sgd().hparams`) and those of an "
        "`atf.Loss`. The name is torch's: `lr`, not `learning_rate`; `beta1` and `beta2`, not `betas`.",
        (
            "has no hyperparameter",
            "is a hyperparameter of",
            "takes no keyword",
            "hparams of this run have no lr",
            "scheduled needs a hyperparameter lr",
            "hyper_lr has no entry",
            "domains has",
            "to tune, such as {'lr': 0.1}",
        ),
    ),
    Situation(
        "A hyperparameter's value",
        "A start is a number or a tensor without dimensions, inside its domain (`atf.DOMAINS`). The default rule moves "
        "the logarithm, so it cannot start at 0 nor on a border: start beside it, leave it out of `hparams`, or take "
        "`atf.additive`.",
        (
            "hparams must be a dict",
            "must be a number or a 0-d tensor",
            "must be a scalar, got shape",
            "must be floating point, got",
            "is not finite",
            "lies outside",
            "lies on the border",
            "cannot move on a logarithmic scale",
            "here, and in the loss",
            "the loss keeps",
        ),
    ),
    Situation(
        "A hyperparameter a group",
        "A dict from name prefix to value needs an optimizer that knows groups, `by_prefix` or `by_ratio`. A prefix is "
        'whole dotted components, the longest one wins, and `""` is the rest.',
        (
            "takes one number for",
            "to be a flat dict with dotted names",
            "must be a finite ratio",
            "has no prefix for the parameter",
            "no parameter takes",
            "no matrix has the prefix",
        ),
    ),
    Situation(
        "An argument of an optimizer, a rule or a wrapper",
        "These are the ranges in which the formulas hold. An argument that is to be called first, `atf.relative()` and "
        "not `atf.relative`, is the commonest mistake.",
        (
            "… must be …, got",
            "must lie in [0, 1), got",
            "window must be",
            "adjust_lr_fn must be",
            "nesterov momentum",
            "must be above 0",
            "kappa must be a positive",
            "kappa must be a number above 1",
            "mu must lie in",
            "adaptive mu is defined",
            "hyper_lr and alpha must be",
            "step and halving",
            "longest must be",
            "every leaf of opt_state",
        ),
    ),
    Situation(
        "What judges a step",
        'With outer loss "validation" a step takes a validation batch as third argument; with "next_batch" it takes '
        "none. A hyperparameter inside the training loss must not be judged by that loss "
        "([why](loss_hyperparameters.md#what-judges)).",
        (
            "outer must be one of",
            "an averaged optimizer needs",
            'outer="validation" needs step',
            "val_loss_fn is never called",
            "is tuned inside the training loss",
            'with outer="next_batch" a hyperparameter',
        ),
    ),
    Situation(
        "A state of another tuner",
        "A state belongs to the tuner whose `init` made it: another optimizer, rule or mu has another one. To go on "
        "with the same weights, start anew: `tuner.init(state.params, {...}, state.buffers)`.",
        (
            "step takes the state that init returns",
            "a state holds hyperparameters as 0-d tensors",
            "which is not of this tuner",
            "this state has no tangent",
            "not of plain: start from init",
            "this state has no average",
            "nothing in this state is scheduled",
        ),
    ),
    Situation(
        "Writing back into a module",
        "`write_back(module, state)` copies by name. A criterion that brought parameters of its own is given as third "
        "argument, and a population is taken apart by `search.unstack` first.",
        (
            "which the criterion brought",
            "a sweep's needs search.unstack",
            "recalibrate needs at least one batch",
            "a pass moves none of the running statistics",
        ),
    ),
    Situation(
        "jit: what cannot be traced",
        "`jit` calls a function once on tensors without numbers and writes down what it does. A branch, a number or a "
        "shape that depends on a value is not known then, and the message names the line: take `torch.where`, keep "
        "numbers as tensors. In eager the same function runs.",
        (
            "the shape of a result depends",
            "a Python number or a branch",
            "a jitted function captures",
            "a jitted function carries no autograd graph",
            "jit takes no lazy conjugates",
            "jit takes tensors and",
        ),
    ),
    Situation(
        "jit: too many kinds of arguments",
        "Each shape, dtype, device and Python number is a graph of its own. The message says what differs: usually a "
        "short last batch (`drop_last=True`), or a step number that should be a tensor.",
        ("jit has traced",),
    ),
    Situation(
        "jit: donated states",
        "With `donate=True` the old state's memory becomes the new one's. Keep only what a step returned; without "
        "`donate` both stay.",
        (
            "the state was used up",
            "donate=True needs a function",
            "donate=True: no result",
        ),
    ),
    Situation(
        "Schedules, shapes and windows",
        "A schedule and a shape take the step as a tensor and return a tensor without dimensions; windows are whole "
        "numbers of steps.",
        (
            "schedule must return",
            "a shape must give",
            "steps must be at least 1",
            "decay must be positive",
            "last must lie in",
            "must be a finite number from 0 up",
            "must be a whole number from 1 up",
            "length must be at most every",
            "must be a whole number from 0 up",
            "begins with the step's number",
        ),
    ),
    Situation(
        "Checkpoints",
        "A checkpoint is loaded into a state of the same structure: build the same tuner with the same `hparams`, "
        "`init`, then `atf.load(path, state)`. The message names the first entry that differs. A file that is damaged "
        "cannot be repaired; take the one before it.",
        (
            "the checkpoint …",
            "is not a checkpoint of adatune_func",
            "has format",
            "not a tensor or a tree",
            "…: … is …, here it is",
            "in the checkpoint, here it is",
            "is not a checkpoint, or it is damaged",
            "notes are strings and numbers",
            "two entries would both be called",
            "cannot read",
            "cannot write",
        ),
    ),
    Situation(
        "Several processes",
        "Under `torchrun` each process calls `torch.distributed.init_process_group()`, builds the same model from the "
        "same seed, and gives its tuner `mean=replicas.mean()` ([one run on many devices](many_devices.md)). "
        "`sharded` goes around what moves each number by itself, everything else around `sharded`.",
        (
            "this is one of several processes",
            "a group of ranks is",
            "a batch for … ranks",
            "is not what it is on rank 0",
            "sharded needs an optimizer",
            "an average is of whole parameters",
        ),
    ),
    Situation(
        "Populations and searches",
        "States that are stacked for one vmapped step have the same structure and shapes and differ in numbers only.",
        (
            "find_hyper_lr needs",
            "a round needs at least",
            "a population needs at least one state",
            "differ in structure",
            "a sweep needs at least one batch",
            "in state 0 and",
        ),
    ),
    Situation(
        "check_tangents",
        "It compares the hypergradient with differences of whole runs, so these have to be finite and the same twice. "
        "What it finds wrong is no error but a sentence in its report: print that.",
        (
            "check_tangents needs at least one",
            "the run itself is not finite",
            "two runs of the same numbers differ",
            "check_tangents works in float64",
        ),
    ),
    Situation(
        "A name that is not there",
        "Names that have moved work for one version and warn with the new one; CHANGELOG says what to type instead, "
        "from_adatune.md what AdaTune's are. `data` and `networks` are imported by themselves.",
        (
            "is gone: …",
            "AdaTune's … is",
            "module 'adatune_func' has no attribute",
            "the old name goes with",
        ),
    ),
    Situation(
        "Data and networks",
        "The small data sets and networks that come with the package. Files that are there are not fetched again; what "
        "is damaged is deleted by hand.",
        (
            "batch_size must be from 1",
            "are damaged or cut short (",
            "no data set is called",
            "images and … labels",
            "could not be downloaded",
            "cannot be read or written",
            "the digits come with scikit-learn",
            "held_out must be",
            "there is no text file",
            "is too short",
            "has no piece of",
            "is not UTF-8",
            "this data set needs torchvision",
            "no network is called",
            "a DenseNet-BC's depth",
            "LeNet needs images",
            "width must be a multiple",
            "are more than the context",
            "are not filled by patches",
            "a Wide ResNet's depth",
        ),
    ),
)
