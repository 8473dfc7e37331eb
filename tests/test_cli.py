"""Sixty mistakes: each is one clear line on stderr and exit code 2, and nothing is written."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adatune_func import networks
from benchmarks import baselines, rtho
from benchmarks.run import training

FINE = ["--network", "mlp", "--batch-size", "150", "--max-steps", "2", "--no-compile"]
LOG = "runs/there/log.jsonl"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of rtho.py, a plain file and damaged data in it."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw", lambda _: None)
        assert rtho.main([*FINE, "--out", str(folder / "runs/there")]) == 0
    (folder / "file").write_text("not a folder")
    (folder / "empty").mkdir()
    cut = folder / "cut/MNIST/raw"
    cut.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        header = bytes([0, 0, 8, 3 if "images" in part else 1]) + (60000).to_bytes(4, "big")
        (cut / f"{part}-ubyte").write_bytes(header + b"\0" * 100)
        (cut / f"{part}-ubyte.gz").write_bytes(gzip.compress(b""))
    return folder


@pytest.fixture(autouse=True)
def inside(place, tmp_path, monkeypatch):
    """Each test has a copy of the place to itself, and is in it."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "draw", lambda _: None)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def assert_refused(script, arguments, words, capsys, tmp_path):
    before = files(tmp_path)
    with pytest.raises(SystemExit) as ended:
        script.main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.count("\n") == 1 and said.startswith(f"{script.parser().prog}: error: "), said
    assert words in said, said
    assert "Traceback" not in said and "[Errno" not in said
    assert files(tmp_path) == before, "something was written"


#: options -> a part of the sentence; on top of FINE
BOTH = {
    "--network alexnet": "no network is called 'alexnet'; known are mlp, lenet, vgg",
    "--network resnet_19": "no network is called 'resnet_19'",
    "--dataset imagenet": "no data set is called 'imagenet'; known are digits, mnist",
    "--optimizer rmsprop": "invalid choice: 'rmsprop'",
    "--device tpu": "invalid choice: 'tpu'",
    "--lr 0": "--lr: must be above 0, got 0",
    "--lr -0.1": "--lr: must be a finite number of at least 0, got -0.1",
    "--lr nan": "--lr: must be a finite number of at least 0, got nan",
    "--lr inf": "--lr: must be a finite number",
    "--lr much": "--lr: must be a number, got 'much'",
    "--momentum 1": "--momentum: must be below 1, got 1",
    "--momentum -0.5": "--momentum: must be a finite number of at least 0",
    "--momentum nan": "--momentum: must be a finite number",
    "--wd=-1e-4": "--wd: must be a finite number of at least 0",
    "--wd nan": "--wd: must be a finite number",
    "--eps 0": "--eps: must be above 0",
    "--eps -1": "--eps: must be a finite number of at least 0",
    "--optimizer adam --lr x": "--lr: must be a number",
    "--grad-clipping 0": "--grad-clipping: must be above 0",
    "--grad-clipping -100": "--grad-clipping: must be a finite number of at least 0",
    "--grad-clipping inf": "--grad-clipping: must be a finite number",
    "--batch-size 0": "--batch-size: must be a whole number above 0, got '0'",
    "--batch-size -1": "--batch-size: must be a whole number above 0",
    "--batch-size 1.5": "--batch-size: must be a whole number above 0, got '1.5'",
    "--batch-size 301": "--batch-size 301 exceeds the 300 images of a split",
    "--network fussy": "--network fussy does not take batches of 150 images of 1 x 28 x 28",
    "--num-epoch 0": "--num-epoch: must be a whole number above 0",
    "--num-epoch ten": "--num-epoch: must be a whole number above 0, got 'ten'",
    "--max-steps 0": "--max-steps: must be a whole number above 0",
    "--checkpoint-every 0": "--checkpoint-every: must be a whole number above 0",
    "--seed -1": "--seed: must be a whole number from 0 to 2^63 - 1, got '-1'",
    "--seed 1e3": "--seed: must be a whole number",
    "--seed 99999999999999999999": "--seed: must be a whole number from 0",
    "--epochs 3": "unrecognized arguments: --epochs 3",
    "3": "unrecognized arguments: 3",
    "--lr": "--lr: expected one argument",
    "--out file": "--out:",
    "--out file/run": "file is a file, not a folder",
    "--out new --model-loc file/model.pt": "--model-loc:",
    "--out new --model-loc empty": "--model-loc empty is a folder, not a file",
    "--out /proc/new/run": "cannot make /proc/new/run",
    "--dataset mnist --data-root file": "MNIST cannot be read or written under 'file'",
    "--dataset mnist --data-root cut": "files of MNIST under 'cut' are damaged or cut short",
    "--resume none": "none holds no run, there is no config.json",
    "--resume empty": "empty holds no run",
    "--resume file": "file holds no run",
    "--resume runs/there --out new": "leave out --out",
}

RTHO = {
    "--recipe --average 5": "--recipe has an average of its own: leave out --average",
    "--mu 1.5": "--mu: must be a number up to 1, got '1.5'",
    "--mu nan": "--mu: must be a number up to 1, got 'nan'",
    "--mu half": "--mu: must be a number up to 1, got 'half'",
    "--hyper-lr=-1e-8": "--hyper-lr: must be a finite number of at least 0",
    "--hyper-lr nan": "--hyper-lr: must be a finite number",
    "--hyper-lr 1e-8 --alpha -1": "--alpha: must be a finite number of at least 0",
    "--hyper-lr automatic": "--hyper-lr: must be a number, got 'automatic', or auto",
    "--hyper-lr 1e-8 --alpha auto": "--alpha auto goes with --hyper-lr auto",
    "--alpha auto": "--alpha adapts --hyper-lr: give that too",
    "--alpha 1e-6": "--alpha adapts --hyper-lr: give that too",
    "--lr-scheduler cyclic": "unrecognized arguments: --lr-scheduler cyclic",
    "--resume runs/there --network lenet": "the checkpoint lacks tuner/",
    "--resume runs/there --network mlp --optimizer adam": "it comes from another optimizer",
    "--resume runs/there --hyper-lr 1e-8": "hyper_state is RelativeState, here it is AdditiveState",
}

BASELINES = {
    "--lr-scheduler linear": "invalid choice: 'linear'",
    "--lr-scheduler cyclic --t-0 0": "--t-0: must be a whole number above 0",
    "--lr-scheduler cyclic --t-mult 0": "--t-mult: must be a whole number above 0",
    "--lr-scheduler cyclic --t-mult 1.5": "--t-mult: must be a whole number above 0",
    "--lr-scheduler staircase --step-size 0": "--step-size: must be a whole number above 0",
    "--lr-scheduler staircase --lr-decay 0": "--lr-decay: must be above 0",
    "--lr-scheduler staircase --lr-decay nan": "--lr-decay: must be a finite number",
    "--lr-scheduler ed --lr-decay -1": "--lr-decay: must be a finite number of at least 0",
    "--lr-scheduler ed --step-size 3": "--step-size is for --lr-scheduler staircase, not ed",
    "--lr-scheduler cyclic --lr-decay 0.5": "--lr-decay is for --lr-scheduler ed and staircase",
    "--lr-scheduler staircase --t-0 3": "--t-0 is for --lr-scheduler cyclic, not staircase",
    "--lr-scheduler constant --t-mult 2": "--t-mult is for --lr-scheduler cyclic",
    "--lr-scheduler cyclic --hyper-lr 1e-8": "--hyper-lr is for --lr-scheduler hd, not cyclic",
    "--hyper-lr -1": "--hyper-lr: must be a finite number of at least 0",
    "--mu 0.9": "unrecognized arguments: --mu 0.9",
    "--resume runs/there": "runs/there holds a run of rtho.py, not of baselines.py",
}


def fussy(num_classes, in_channels):
    return torch.nn.Linear(5, num_classes)


@pytest.mark.parametrize(
    ("script", "options"),
    [(script, options) for script, table in ((rtho, RTHO | BOTH), (baselines, BASELINES))
     for options in table],
)  # fmt: skip
def test_a_mistake_is_one_line(script, options, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "fussy", fussy)
    words = (BOTH | (RTHO if script is rtho else BASELINES))[options]
    given = options.split()
    fine = [] if "--resume" in given else FINE
    assert_refused(script, [*fine, *given], words, capsys, tmp_path)


DAMAGED = {
    "checkpoint.pt": (b"hello", "checkpoint.pt is not a checkpoint, or it is damaged"),
    "config.json": (b'{"lr": 0.', "config.json is damaged"),
    "log.jsonl": (b"", "log.jsonl is shorter than it was at the checkpoint"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_run_is_not_resumed(name, capsys, tmp_path):
    content, words = DAMAGED[name]
    (tmp_path / "runs/there" / name).write_bytes(content)
    assert_refused(rtho, ["--resume", "runs/there"], words, capsys, tmp_path)


def test_a_config_that_is_no_dict(capsys, tmp_path):
    (tmp_path / "runs/there/config.json").write_text("[1]")
    assert_refused(rtho, ["--resume", "runs/there"], "config.json is damaged", capsys, tmp_path)


def test_a_checkpoint_cut_short(capsys, tmp_path):
    path = tmp_path / "runs/there/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(rtho, ["--resume", "runs/there"], "damaged or cut short", capsys, tmp_path)


def test_a_checkpoint_of_an_older_version(capsys, tmp_path):
    path = tmp_path / "runs/there/checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    del saved["notes"]["best_loss"]
    torch.save(saved, path)
    words = "checkpoint.pt lacks best_loss: it is of an older version"
    assert_refused(rtho, ["--resume", "runs/there"], words, capsys, tmp_path)


def test_a_foreign_checkpoint(capsys, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "runs/there/checkpoint.pt")
    words = "is not a checkpoint of adatune_func"
    assert_refused(rtho, ["--resume", "runs/there"], words, capsys, tmp_path)


def test_a_model_that_went_missing(capsys, tmp_path):
    (tmp_path / "runs/there/model.pt").unlink()
    config = json.loads((tmp_path / "runs/there/config.json").read_text())
    (tmp_path / "runs/there/config.json").write_text(json.dumps({**config, "max_steps": 8}))
    assert rtho.main(["--resume", "runs/there", "--max-steps", "8"]) == 0  # an epoch's end makes it
    (tmp_path / "runs/there/model.pt").unlink()
    words = "the best model so far is not at runs/there/model.pt"
    assert_refused(rtho, ["--resume", "runs/there"], words, capsys, tmp_path)


def test_a_device_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [*FINE, "--device", "cuda"]
    assert_refused(rtho, arguments, "torch sees no CUDA device here", capsys, tmp_path)


def test_tensorboard_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = "--tensorboard needs tensorboard: pip install tensorboard"
    assert_refused(rtho, [*FINE, "--tensorboard", "--out", "new"], words, capsys, tmp_path)


def test_a_folder_without_permission(capsys, tmp_path, monkeypatch):
    """Root may write everywhere, so the system's answer is put in its mouth."""
    access = os.access
    locked = tmp_path / "empty"
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    arguments = [*FINE, "--out", "empty/run"]
    assert_refused(rtho, arguments, "empty is a folder that you cannot write to", capsys, tmp_path)


def test_a_download_without_network(capsys, tmp_path, monkeypatch):
    from urllib.error import URLError

    from adatune_func.data import image_sets

    class CIFAR100:
        def __init__(self, *args, **kwargs):
            raise URLError("no route to host")

    monkeypatch.setattr(
        image_sets, "torchvision_datasets", lambda: type("m", (), {"CIFAR100": CIFAR100})
    )
    words = "CIFAR100 is not complete under 'data' and could not be downloaded"
    assert_refused(rtho, [*FINE, "--dataset", "cifar_100"], words, capsys, tmp_path)


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [("rtho", "--lr nan", "--lr: must be a finite number"),
     ("rtho", "--network alexnet", "no network is called 'alexnet'"),
     ("baselines", "--resume empty", "empty holds no run")],
)  # fmt: skip
def test_as_a_command(tmp_path, script, options, words):
    root = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, str(root / "benchmarks" / f"{script}.py"), *options.split()],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert ended.returncode == 2
    assert words in ended.stderr and ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_missing_folders_are_made():
    options = ["--out", "a/b/c", "--model-loc", "d/e/best.pt"]
    assert rtho.main([*FINE, *options]) == 0
    assert Path("a/b/c/summary.json").exists() and Path("d/e/best.pt").exists()
    values = torch.load("d/e/best.pt", weights_only=True)
    module = networks.network("mlp", num_classes=10, in_channels=1, image_size=28)
    module.load_state_dict(values)


def test_events_are_written_where_tensorboard_is_installed():
    pytest.importorskip("tensorboard")
    assert rtho.main([*FINE, "--tensorboard", "--out", "new"]) == 0
    assert len(list(Path("new").glob("events.out.tfevents.*"))) == 1
