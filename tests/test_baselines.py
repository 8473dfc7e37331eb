"""baselines.py and rtho.py do what AdaTune's flags say; figures.py draws what they leave."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import adatune_func as atf
from adatune_func import data as image_data
from adatune_func import networks
from benchmarks import baselines, figures, rtho
from benchmarks.run import command_line, jobs, keep, outputs, training

EPOCH = 4  # digits at 299 images a step
FINE = ["--network", "tiny", "--batch-size", "299", "--no-compile"]


def tiny(num_classes: int, in_channels: int) -> torch.nn.Module:
    pool = torch.nn.AvgPool2d(7)
    return torch.nn.Sequential(
        pool, torch.nn.Flatten(), torch.nn.Linear(16 * in_channels, num_classes)
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setitem(networks.NETWORKS, "tiny", tiny)
    monkeypatch.setattr(training, "draw", lambda folder: None)
    monkeypatch.chdir(tmp_path)


def logged(script, *options: str) -> list[dict]:
    assert script.main([*FINE, "--out", "run", *options]) == 0
    return [line for line in outputs.read_log(Path("run")) if "step" in line]


def rates(*options: str) -> list[float]:
    """lr used at step 0, 1, ...: a line holds the lr that its step leads to."""
    start = float(options[options.index("--lr") + 1])
    return [start] + [line["lr"] for line in logged(baselines, *options)]


def cosine(t: float, length: float, lr: float) -> float:
    return 1e-4 * lr + (lr - 1e-4 * lr) * (1 + math.cos(math.pi * t / length)) / 2


@pytest.mark.parametrize(
    ("options", "lr"),
    [
        ("--lr-scheduler constant", lambda t: 0.1),
        ("--lr-scheduler ed --lr-decay 0.5", lambda t: 0.1 * 0.5 ** (t // EPOCH)),
        ("--lr-scheduler ed", lambda t: 0.1 * 0.99 ** (t // EPOCH)),
        ("--lr-scheduler ed --adatune-defaults", lambda t: 0.1),
        ("--lr-scheduler staircase --step-size 2 --lr-decay 0.2",
         lambda t: 0.1 * 0.2 ** (t // (2 * EPOCH))),
        ("--lr-scheduler staircase --step-size 1", lambda t: 0.1 * 0.1 ** (t // EPOCH)),
        ("--lr-scheduler cyclic", lambda t: cosine(t, 10 * EPOCH, 0.1)),
        ("--lr-scheduler cyclic --t-0 1 --t-mult 2",
         lambda t: cosine(t, 4, 0.1) if t < 4 else cosine(t - 4, 8, 0.1)),
        ("--lr-scheduler cyclic --t-0 1 --t-mult 1", lambda t: cosine(t % 4, 4, 0.1)),
    ],
)  # fmt: skip
def test_schedules_move_lr_when_adatune_does(options, lr):
    got = rates("--lr", "0.1", "--max-steps", "11", "--dataset", "digits", *options.split())
    assert got == pytest.approx([lr(t) for t in range(12)], rel=1e-5)


def job_and(script, *options: str):
    args = script.parser().parse_args([*FINE, *options])
    return args, jobs.prepare(args)


def infos(plan: training.Plan, args, job, steps: int = 4):
    state = plan.tuner.init(job.model.params, hparams=plan.hparams, buffers=job.model.buffers)
    batches, seen = training.batches_of(args, job, plan, 0), []
    for _ in range(steps):
        state, info = plan.tuner.step(state, *next(batches))
        seen.append({name: float(h) for name, h in info.hypergrads.items()} | {"mu": info.mu})
    return state, seen


def test_hd_is_the_next_batch_without_recursion():
    args, job = job_and(baselines, "--lr-scheduler", "hd", "--hyper-lr", "1e-3", "--lr", "0.01")
    _, got = infos(baselines.build(args, job), args, job)
    tuner = atf.hd(
        job.model.loss_fn, command_line.optimizer_of(args), hyper_update=atf.additive(1e-3)
    )
    _, want = infos(training.Plan(tuner, {"lr": 0.01}, validated=False), args, job)
    assert got == want and got[0]["lr"] == 0 and got[1]["lr"] != 0


@pytest.mark.parametrize(
    ("options", "kwargs"),
    [
        ("--mu 1 --hyper-lr 1e-4", {"mu": 1.0, "hyper_update": atf.additive(1e-4)}),
        ("--mu 0", {"mu": 0.0}),
        ("--mu 0.5 --hyper-lr 1e-4 --alpha 1e-5",
         {"mu": 0.5, "hyper_update": atf.additive(1e-4, 1e-5)}),
        ("--mu -1", {"mu": atf.adaptive()}),
        ("--first-order", {"mu": 0.0, "hvp": atf.no_curvature}),
        ("--no-recipe", {}),
    ],
)  # fmt: skip
def test_flags_of_rtho_mean_what_they_say(options, kwargs):
    args, job = job_and(rtho, "--lr", "0.01", *options.split())
    _, got = infos(rtho.build(args, job), args, job)
    tuner = atf.marthe(job.model.loss_fn, command_line.optimizer_of(args), **kwargs)
    _, want = infos(training.Plan(tuner, {"lr": 0.01}), args, job)
    assert got == want


def test_the_recipe_is_what_runs_without_a_method_named():
    args, job = job_and(rtho, "--lr", "0.01")
    plan = rtho.build(args, job)
    _, got = infos(plan, args, job)
    steps = job.steps_per_epoch * args.num_epoch
    its = atf.recipe(job.model.loss_fn, command_line.optimizer_of(args), steps)
    _, want = infos(training.Plan(its.tuner, {"lr": 0.01}), args, job)
    assert got == want and args.recipe
    assert [plan.due(t) for t in range(600)] == [its.due(t) for t in range(600)]


def test_grad_clipping_bounds_gradients_products_and_the_outer_gradient():
    _, job = job_and(rtho)
    c = 1e-3
    args, _ = job_and(
        rtho, "--no-recipe", "--grad-clipping", str(c), "--momentum", "0", "--wd", "0", "--lr", "1"
    )
    plan = rtho.build(args, job)
    state = plan.tuner.init(job.model.params, hparams={"lr": 1.0}, buffers=job.model.buffers)
    moved, info = plan.tuner.step(state, *next(training.batches_of(args, job, plan, 0)))
    for name, w in job.model.params.items():
        assert (moved.params[name] - w).abs().max() <= c * 1.0001
    entries = sum(w.numel() for w in job.model.params.values())
    assert abs(float(info.hypergrads["lr"])) <= c * c * entries * 1.0001
    # Z' = (I - lr H) Z + B: with H Z clipped and lr 1, no entry of Z grows by more than 2 c.
    z = torch.nn.utils.parameters_to_vector(list(moved.z.params.values()))
    later, _ = plan.tuner.step(moved, *next(training.batches_of(args, job, plan, 1)))
    z_later = torch.nn.utils.parameters_to_vector(list(later.z.params.values()))
    assert (z_later - 0.99 * z).abs().max() <= 2 * c * 1.0001


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizer_options(optimizer):
    options = ["--optimizer", optimizer, "--lr", "0.02", "--momentum", "0.8", "--wd", "1e-3"]
    args, _ = job_and(rtho, *options, "--eps", "1e-5")
    hparams = command_line.optimizer_of(args).hparams
    assert hparams["lr"] == 0.02 and hparams["weight_decay"] == 1e-3
    assert hparams.get("momentum", 0.8) == 0.8 and hparams.get("eps", 1e-5) == 1e-5


@pytest.mark.parametrize("script", [rtho, baselines])
def test_adatune_defaults(script, monkeypatch):
    seen = {}
    monkeypatch.setattr(training, "run", lambda args, *_: seen.update(vars(args)))
    assert script.main(["--adatune-defaults", "--wd", "0"]) == 0
    want = {"network": "vgg", "dataset": "cifar_10", "num_epoch": 200, "batch_size": 128}
    want |= {"optimizer": "sgd", "lr": 0.01, "wd": 0.0, "model_loc": "./model.pt", "seed": 42}
    if script is rtho:
        want |= {"hyper_lr": 1e-8, "alpha": 1e-6, "mu": 0.99999, "grad_clipping": 100.0}
        want |= {"momentum": 0.9}
    else:
        want |= {"lr_scheduler": "hd", "momentum": 0.0}
    assert {name: seen[name] for name in want} == want


def test_only_what_needs_them_pays_for_validation_batches():
    for script, options, width in ((rtho, "", 2), (baselines, "--lr-scheduler cyclic", 1)):
        args, job = job_and(script, *options.split())
        assert len(next(training.batches_of(args, job, script.build(args, job), 0))) == width


def test_an_epoch_line_averages_its_epoch():
    lines = logged(rtho, "--num-epoch", "2", "--checkpoint-every", "3")
    epochs = [line for line in outputs.read_log(Path("run")) if "epoch" in line]
    for number, epoch in enumerate(epochs):
        losses = [line["loss"] for line in lines[number * EPOCH : (number + 1) * EPOCH]]
        assert epoch["train_loss"] == pytest.approx(sum(losses) / EPOCH, rel=1e-12)


def test_the_test_set_is_seen_once(monkeypatch):
    seen = []
    evaluate = jobs.evaluate

    def spying(job, state, split):
        seen.append("test" if split is job.data.test else "validation")
        return evaluate(job, state, split)

    monkeypatch.setattr(jobs, "evaluate", spying)
    logged(rtho, "--num-epoch", "3")
    assert seen == ["validation"] * 3 + ["test"]


def run_folder(name: str, lr: float, seed: int, accuracies: list[float]) -> Path:
    folder = Path(name)
    folder.mkdir()
    config = {"script": "rtho.py", "lr": lr, "seed": seed, "model_loc": name}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"epoch": i + 1, "val_accuracy": a, "train_loss": 1.0, "val_loss": 1.0, "lr": lr}
        for i, a in enumerate(accuracies)
    ]
    outputs.append(folder, lines)
    return folder


def test_runs_that_differ_in_the_seed_are_one_line():
    folders = [
        run_folder("a", 0.1, 1, [0.5, 0.7]),
        run_folder("b", 0.1, 2, [0.7, 0.9, 1.0]),
        run_folder("c", 0.2, 1, [0.2]),
    ]
    groups = figures.grouped([figures.read(folder) for folder in folders])
    assert figures.names(groups) == ["rtho, lr 0.1 (2 seeds)", "rtho, lr 0.2"]
    epochs, mean, spread = figures.mean_and_spread(groups[0].runs, figures.PANELS[0][2])
    assert epochs.tolist() == [1, 2]
    assert mean.tolist() == pytest.approx([60, 80])
    assert spread.tolist() == pytest.approx([20 / math.sqrt(2)] * 2)
    assert figures.main([*map(str, folders), "--out", "new/figure.png"]) == 0
    assert Path("new/figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none"], "none holds no run"),
        (["empty"], "empty has no finished epoch to draw"),
        (["a", "--out", "figure.txt"], "no such kind of picture"),
        (["a", "--out", "a/config.json/figure.png"], "config.json"),
        ([], "required: RUN"),
    ],
)
def test_mistakes_of_figures_are_one_line(arguments, words, capsys):
    run_folder("a", 0.1, 1, [0.5])
    run_folder("empty", 0.1, 1, [])
    with pytest.raises(SystemExit) as ended:
        figures.main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("script", "command"),
    [
        (baselines, "--network vgg --dataset cifar_10 --optimizer sgd --momentum 0.9"
         " --lr-scheduler cyclic"),
        (rtho, "--network vgg --dataset cifar_10 --optimizer sgd --momentum 0.9 --hyper-lr 1e-8"),
    ],
)  # fmt: skip
def test_adatunes_two_commands_run_as_written(script, command, monkeypatch):
    """With a few random images for CIFAR-10's, and two steps of each run."""

    def read(root):
        images = torch.randint(0, 256, (210, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, 10, (210,))
        split = image_data.Split
        return split(images[:200], labels[:200]), split(images[200:], labels[200:])

    source = image_data.SOURCES["cifar_10"]._replace(read=read, validation=64)
    monkeypatch.setitem(image_data.SOURCES, "cifar_10", source)
    assert script.main([*command.split(), "--max-steps", "2"]) == 0
    (folder,) = Path("runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    assert "vgg" in folder.name and "cifar_10" in folder.name


def test_runs_that_differ_have_folders_of_their_own():
    commands = (
        *(
            "",
            "--lr 0.1",
            "--mu 1",
            "--hyper-lr 1e-8",
            "--seed 1",
            "--num-epoch 2",
            "--first-order",
        ),
        *("--grad-clipping 1", "--max-steps 5", "--average 20", "--adatune-defaults"),
    )
    parser = rtho.parser()
    names = [
        command_line.run_name(parser, parser.parse_args(command.split())) for command in commands
    ]
    assert len(set(names)) == len(commands) and names[0] == "rtho-lenet-digits-sgd-seed42"


def test_a_run_is_kept_as_a_row_of_a_json_file():
    assert logged(rtho, "--dataset", "digits", "--max-steps", "5")
    for _ in range(2):
        keep.main(["run", "--output", "kept.json"])
    (row,) = json.loads(Path("kept.json").read_text())["rows"]
    assert json.loads(Path("kept.json").read_text())["runs"][0]["torch"] == torch.__version__
    summary = json.loads(Path("run/summary.json").read_text())
    assert row["test_accuracy"] == summary["test_accuracy"] and row["script"] == "rtho.py"
    assert len(row["lrs"]) == 5 and row["epochs"][0]["steps"] == 4 and row["null_steps"] == 0
    Path("run/summary.json").unlink()
    with pytest.raises(ValueError, match="has not finished"):
        keep.main(["run", "--output", "kept.json"])


def test_auto_searches_once_and_the_run_keeps_what_was_found(monkeypatch, capsys):
    monkeypatch.setattr(rtho, "SEARCH_MEMBERS", 4)
    auto = ["--dataset", "digits", "--hyper-lr", "auto", "--alpha", "auto", "--max-steps", "3"]
    lines = logged(rtho, *auto)
    assert "found --hyper-lr" in capsys.readouterr().out
    config = outputs.read_config(Path("run"))
    tried = json.loads(Path("run/search.json").read_text())
    assert len(tried) == 3 * 4 and Path("run/search.png").stat().st_size > 1000
    narrow = [row["hyper_lr.lr"] for row in tried if row["round"] == 1]
    assert any(config["hyper_lr"] == pytest.approx(beta / 3) for beta in narrow)
    assert 0.1 * max(row["alpha"] for row in tried) >= config["alpha"] >= 0
    found = f"--hyper-lr {config['hyper_lr']!r} --alpha {config['alpha']!r}"
    by_hand = logged(rtho, "--dataset", "digits", "--max-steps", "3", *found.split())
    assert [line["lr"] for line in by_hand] == [line["lr"] for line in lines]
    assert not Path("run/search.json").exists()

    assert logged(rtho, *auto) == lines
    monkeypatch.setattr(rtho, "searched", None)  # a resumed run knows what was found
    assert rtho.main(["--resume", "run", "--max-steps", "5"]) == 0


def test_auto_leaves_an_alpha_that_was_given(monkeypatch):
    monkeypatch.setattr(rtho, "SEARCH_MEMBERS", 4)
    logged(rtho, "--dataset", "digits", "--hyper-lr", "auto", "--alpha", "1e-9", "--max-steps", "2")
    assert outputs.read_config(Path("run"))["alpha"] == 1e-9


def test_average_is_what_is_validated_and_kept():
    logged(rtho, "--num-epoch", "1", "--average", "3", "--lr", "0.05")
    kept = torch.load("run/model.pt", weights_only=True)
    tensors = torch.load("run/checkpoint.pt", weights_only=True)["tensors"]
    for name, value in kept.items():
        assert torch.equal(value, tensors[f"tuner/opt_state/average/{name}"])
        assert not torch.equal(value, tensors[f"tuner/params/{name}"])
