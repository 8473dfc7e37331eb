"""A checkpoint gives back what was saved, bit for bit, or says in one line why it cannot."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import adatune_func as atf
from adatune_func import checkpoint
from adatune_func.trees import tree_leaves, tree_map
from tests.cases import METHODS, OPTIMIZERS, PROBLEMS, dropout_mlp, start

SMALL = {"w": torch.arange(3.0), "s": (torch.ones(2),)}


def trained(problem, optimizer, method="marthe", steps=3):
    tuner = METHODS[method](problem.loss_fn, optimizer, atf.exact)
    state = start(problem, tuner, {"lr": 0.05})
    for batch, val_batch in problem.batches[:steps]:
        state, _ = tuner.step(state, batch, val_batch)
    return tuner, state


def bits(tree):
    return [(leaf.dtype, leaf.shape, leaf.stride(), leaf.tolist()) for leaf in tree_leaves(tree)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd_momentum", "adam", "clipped"])
def test_a_state_comes_back_bit_for_bit(tmp_path, optimizer, method):
    problem = PROBLEMS["conv_batchnorm"]()
    tuner, state = trained(problem, OPTIMIZERS[optimizer], method)
    atf.save(state, tmp_path / "c.pt")
    loaded = atf.load(tmp_path / "c.pt", like=start(problem, tuner, {"lr": 0.7}))
    assert type(loaded) is type(state) and type(loaded.opt_state) is type(state.opt_state)
    assert bits(loaded) == bits(state)
    again = [tuner.step(s, *problem.batches[3]) for s in (state, loaded)]
    assert bits(again[0]) == bits(again[1])


def test_several_hyperparameters_by_prefix_come_back(tmp_path):
    problem = PROBLEMS["tanh_mlp"]()
    tuner = atf.marthe(problem.loss_fn, atf.by_prefix(atf.adam()))
    hparams = {"lr": {"": 0.01, "0": 0.02}, "weight_decay": {"": 1e-3, "2": 1e-2}}
    state, _ = tuner.step(start(problem, tuner, hparams), *problem.batches[0])
    atf.save(state, tmp_path / "c.pt")
    assert bits(atf.load(tmp_path / "c.pt", like=start(problem, tuner, hparams))) == bits(state)


def test_every_kind_of_number_comes_back(tmp_path):
    special = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    tree = {
        "special": special,
        "half": torch.randn(3).to(torch.bfloat16),
        "counter": torch.tensor(2**62),
        "flag": torch.tensor(True),
        "generator": torch.get_rng_state(),
        "empty": torch.zeros(0, 3),
        "last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }
    atf.save(tree, tmp_path / "c.pt")
    loaded = atf.load(tmp_path / "c.pt", like=tree_map(torch.zeros_like, tree))
    assert str(bits(loaded)) == str(bits(tree))  # as strings, since nan is not nan
    assert loaded["special"].view(torch.int32).equal(special.view(torch.int32))


def test_containers_come_back_as_they_are(tmp_path):
    tree = {"ordered": OrderedDict(b=torch.ones(1), a=torch.zeros(1)), "list": [torch.ones(2)]}
    tree |= {"none": (), "tuple": (torch.ones(1), {})}
    atf.save(tree, tmp_path / "c.pt")
    loaded = atf.load(tmp_path / "c.pt", like=tree)
    assert bits(loaded) == bits(tree)
    assert type(loaded["ordered"]) is OrderedDict and list(loaded["ordered"]) == ["b", "a"]
    assert type(loaded["list"]) is list and type(loaded["tuple"]) is tuple


def test_the_file_is_a_flat_dict_that_needs_no_code(tmp_path):
    _, state = trained(dropout_mlp(), OPTIMIZERS["adam"])
    atf.save(state, tmp_path / "c.pt", {"step": 3})
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert content["format"] == 1 and content["torch"] == torch.__version__
    assert {"params/0.weight", "opt_state/exp_avg/0.weight", "z/params/0.weight", "hparams/lr"} < (
        content["tensors"].keys()
    )
    assert content["types"]["opt_state"] == "AdamState"
    assert not any(leaf.requires_grad for leaf in content["tensors"].values())


def test_a_view_is_saved_alone(tmp_path):
    atf.save({"w": torch.zeros(10**6)[:2], "v": torch.zeros(1).expand(3)}, tmp_path / "c.pt")
    assert (tmp_path / "c.pt").stat().st_size < 10_000


def test_what_is_loaded_shares_no_memory_and_no_graph(tmp_path):
    like = {"w": torch.ones(2), "v": torch.ones(2)}
    shared = torch.zeros(2, requires_grad=True)
    atf.save({"w": shared, "v": shared}, tmp_path / "c.pt")
    loaded = atf.load(tmp_path / "c.pt", like=like)
    loaded["w"] += 1
    assert loaded["v"].eq(0).all() and like["w"].eq(1).all() and not loaded["v"].requires_grad


def test_notes_come_back_with_the_version(tmp_path):
    told = {"step": 7, "accuracy": 0.1 + 0.2, "optimizer": "adam", "tuned": True}
    atf.save(SMALL, tmp_path / "c.pt", told)
    assert checkpoint.notes(tmp_path / "c.pt") == {**told, "torch": torch.__version__}


@pytest.mark.parametrize("value", [None, [1], np.float64(1.0), torch.ones(()), {"a": 1}])
def test_notes_are_strings_and_numbers(tmp_path, value):
    with pytest.raises(TypeError, match="notes are strings and numbers, but 'x' is"):
        atf.save(SMALL, tmp_path / "c.pt", {"x": value})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"a": {"b": 1.0}}, "a/b is float, not a tensor or a tree"),
        ({"a": None}, "a is NoneType"),
        (3, "the state is int"),
    ],
)
def test_only_tensors_can_be_saved(tmp_path, tree, words):
    with pytest.raises(TypeError, match=words):
        atf.save(tree, tmp_path / "c.pt")
    assert not os.listdir(tmp_path)


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two entries would both be called 'a/b'"):
        atf.save({"a/b": torch.ones(1), "a": {"b": torch.ones(1)}}, tmp_path / "c.pt")


def changed(**kwargs):
    _, state = trained(PROBLEMS["tanh_mlp"](), atf.sgd(momentum=0.9), steps=0)
    return state._replace(**kwargs)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        (lambda: trained(PROBLEMS["tanh_mlp"](), atf.adam())[1],
         "opt_state is SGDState, here it is AdamState; it comes from another optimizer"),
        (lambda: SMALL, r"the checkpoint lacks s/0 \(2 such entries\)"),
        (lambda: changed(params={}), "has, and this state lacks, params/0.bias"),
        (lambda: changed(hparams={"lr": torch.tensor(0.1), "momentum": torch.tensor(0.9)}),
         r"the checkpoint lacks hparams/momentum \(1 such"),
        (lambda: changed(hparams={"lr": torch.ones(2, dtype=torch.float64)}),
         r"hparams/lr is \(\) torch.float64 in the checkpoint, here it is \(2,\) torch.float64"),
        (lambda: changed(hparams={"lr": torch.tensor(0.1)}),
         r"hparams/lr is \(\) torch.float64 in the checkpoint, here it is \(\) torch.float32"),
        (lambda: changed(hyper_state=changed().mu_state), "hyper_state is AdditiveState, here"),
    ],
)  # fmt: skip
def test_what_does_not_match_is_said(tmp_path, like, words):
    _, state = trained(PROBLEMS["tanh_mlp"](), atf.sgd(momentum=0.9))
    atf.save(state, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=words) as error:
        atf.load(tmp_path / "c.pt", like=like())
    assert "\n" not in str(error.value) and str(tmp_path / "c.pt") in str(error.value)


def assert_refused(
    path, words="is not a checkpoint, or it is damaged or cut short", kind: Any = ValueError
):
    for read in (lambda: atf.load(path, like=SMALL), lambda: checkpoint.notes(path)):
        with pytest.raises(kind, match=words) as error:
            read()
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_truncated_file_is_refused_at_any_length(tmp_path):
    atf.save(SMALL, tmp_path / "c.pt")
    whole = (tmp_path / "c.pt").read_bytes()
    for length in {*range(0, len(whole), 97), *range(len(whole) - 40, len(whole)), 1, 2, 3}:
        (tmp_path / "c.pt").write_bytes(whole[:length])
        assert_refused(tmp_path / "c.pt")


def test_a_damaged_file_is_refused_or_read_right(tmp_path):
    """One flipped bit: an error in words or, where the bit means nothing, the same numbers."""
    atf.save(SMALL, tmp_path / "c.pt")
    whole, rng = (tmp_path / "c.pt").read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "c.pt").write_bytes(bytes(damaged))
        try:
            assert bits(atf.load(tmp_path / "c.pt", like=SMALL)) == bits(SMALL)
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b'{"a": 1}', b"a" * 5000, bytes(range(256)), b"PK\x03\x04junk",
     pickle.dumps({"x": 1}), pickle.dumps(os.getcwd), b"\x80\x02}q\x00."],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "c.pt").write_bytes(content)
    assert_refused(tmp_path / "c.pt", "is not a checkpoint")


@pytest.mark.parametrize(
    "foreign",
    [{"w": torch.ones(2)}, torch.ones(2), [1, 2], "text", nn.Linear(2, 2),
     {"format": 1}, {"format": 1, "tensors": 3, "types": [], "notes": {}},
     {"format": 1, "tensors": {"w": 3}, "types": {}, "notes": {}}],
)  # fmt: skip
def test_foreign_objects_of_torch_are_refused(tmp_path, foreign):
    torch.save(foreign, tmp_path / "c.pt")
    assert_refused(tmp_path / "c.pt", "is not a checkpoint")


def test_a_later_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    atf.save(SMALL, tmp_path / "c.pt")
    monkeypatch.undo()
    assert_refused(tmp_path / "c.pt", "has format 2; this version reads 1")


def test_files_that_cannot_be_read(tmp_path):
    assert_refused(tmp_path / "none.pt", "cannot read .*No such file", FileNotFoundError)
    assert_refused(tmp_path, "cannot read .*Is a directory", IsADirectoryError)


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*Not a directory"):
        atf.save(SMALL, tmp_path / "file" / "c.pt")
    with pytest.raises(OSError, match=r"cannot write .*No such file"):
        atf.save(SMALL, tmp_path / "none" / "c.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(OSError, match=r"cannot write .*Is a directory"):
        atf.save(SMALL, tmp_path / "folder.pt")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.pt"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    atf.save(SMALL, tmp_path / "c.pt")
    old = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot write .*c\.pt"):
        atf.save({"w": torch.randn(10**5)}, tmp_path / "c.pt")
    assert (tmp_path / "c.pt").read_bytes() == old
    assert os.listdir(tmp_path) == ["c.pt"]


@pytest.mark.parametrize("where", ["torch.save", "os.replace"])
def test_a_save_that_is_stopped_leaves_the_old_file(tmp_path, monkeypatch, where):
    atf.save(SMALL, tmp_path / "c.pt")
    old = (tmp_path / "c.pt").read_bytes()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stopped)
    with pytest.raises(KeyboardInterrupt):
        atf.save({"w": torch.randn(3)}, tmp_path / "c.pt")
    assert (tmp_path / "c.pt").read_bytes() == old
    assert os.listdir(tmp_path) == ["c.pt"]


def test_notes_survive_json(tmp_path):
    """Scripts put notes beside logs: a float must come back as the very same float."""
    atf.save(SMALL, tmp_path / "c.pt", {"lr": 0.1 + 1e-17})
    told = checkpoint.notes(tmp_path / "c.pt")
    assert json.loads(json.dumps(told)) == told
