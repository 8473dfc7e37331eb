"""The decoder sees nothing that is later, equals attention written out, and has exact products."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import adatune_func as atf
from adatune_func.networks import Block, Decoder, Encoder, VisionTransformer
from benchmarks.studies import characters
from tests import reference
from tests.cases import Problem
from tests.checked import checked
from tests.test_recursion import assert_close, hypergradient

#: eps well above the smallest gradients: below it the step bends faster than differences can see.
SGD, ADAMW = atf.sgd(momentum=0.9), atf.adamw(eps=1e-2, weight_decay=0.1)


def decoder(**options) -> Decoder:
    torch.manual_seed(0)
    return Decoder(7, **{"context": 6, "width": 8, "layers": 2, "heads": 2, **options})


def classifier() -> nn.Module:
    """An encoder between two linear layers, so that its output is not what is averaged alone."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), Encoder(8, 1, 2), nn.Linear(8, 7))


def problem_of(module: nn.Module, steps: int = 3) -> Problem:
    """Sequences of 5 with a class for each place."""
    torch.manual_seed(1)
    loss_fn, params, buffers = atf.functionalize(module.double(), characters.cross_entropy)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.randint(7, (4, 5)), torch.randn(4, 5, 3, dtype=torch.float64)
        return tokens[not isinstance(module, Decoder)], torch.randint(7, (4, 5))

    return Problem(loss_fn, params, buffers, [(draw(), draw()) for _ in range(steps)])


@pytest.mark.parametrize("tied", [False, True])
def test_a_later_token_changes_no_earlier_logit(tied):
    model, tokens = decoder(tied=tied), torch.randint(7, (3, 6))
    before = model(tokens)
    for place in range(6):
        other = tokens.clone()
        other[:, place] = (other[:, place] + 1) % 7
        after = model(other)
        assert torch.equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(2).all()  # and every later one


def test_the_encoder_sees_all():
    encoder, x = Encoder(8, 1, 2), torch.randn(2, 5, 8)
    other = x.clone()
    other[:, 4] = torch.randn(2, 8)
    assert (encoder(other) != encoder(x)).any(2).all()
    assert torch.allclose(encoder(x.flip(1)), encoder(x).flip(1), atol=1e-6)  # knows no places


def test_it_is_the_model_of_the_study_whose_attention_is_written_out():
    """The same names, the same weights from the same seed, the same logits."""
    torch.manual_seed(3)
    written_out = characters.LanguageModel(90).double()
    torch.manual_seed(3)
    model = Decoder(90).double()
    ours, theirs = model.state_dict(), written_out.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokens = torch.randint(90, (2, characters.CONTEXT))
    torch.testing.assert_close(model(tokens), written_out(tokens), rtol=1e-12, atol=1e-12)


def test_a_block_is_torchs_own_layer():
    torch.manual_seed(0)
    ours = Block(8, 2).double()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    pairs = {"linear1": ours.up, "linear2": ours.down, "norm1": ours.norm1, "norm2": ours.norm2}
    for name, layer in pairs.items():
        getattr(theirs, name).load_state_dict(layer.state_dict())
    theirs.self_attn.in_proj_weight.data = ours.qkv.weight.data
    theirs.self_attn.out_proj.weight.data = ours.out.weight.data
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("build", "optimizer"),
    [(decoder, SGD), (decoder, ADAMW), (lambda: decoder(tied=True), ADAMW), (classifier, SGD)],
    ids=["decoder-sgd", "decoder-adamw", "tied-adamw", "encoder-sgd"],
)
def test_the_hypergradient_is_exact(build, optimizer):
    """By differences of the run, each part by itself, and by reverse mode through the run."""
    problem = problem_of(build())
    hparams = {"lr": 0.02}
    check = checked(problem, optimizer, hparams)["lr"]
    assert check.relative_error < 1e-5 and check.cosine > 1 - 1e-9 and not check.says, check
    got = hypergradient(problem, optimizer, hparams)
    assert_close(got, reference.reverse_mode(problem, optimizer, hparams), 1e-9)


@pytest.mark.compiles
def test_one_graph_a_kind_of_step_that_equals_eager():
    """Steps that tune, on the math kernel, and steps that only train, on the fast one."""
    problem, ends = problem_of(decoder(tied=True, layers=1), steps=3), []
    for wrap in (lambda step: step, functools.partial(atf.jit, backend="eager")):
        its = atf.recipe(problem.loss_fn, ADAMW, 3, due=atf.windows(2, 0, 1), wrap=wrap)
        state = its.init(problem.params, {"lr": 0.01}, problem.buffers)
        for t, pair in enumerate(problem.batches):
            state, _ = its.step(t, state, *pair)
        ends.append(state)
    torch.testing.assert_close(ends[1].params, ends[0].params, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ends[1].hparams, ends[0].hparams, rtol=1e-9, atol=0.0)


def test_a_tied_embedding_is_one_parameter_with_both_gradients():
    model = decoder(tied=True)
    names = [name for name, _ in model.named_parameters()]
    assert "embedding.weight" in names and not any(name.startswith("head") for name in names)
    unseen = torch.zeros(1, 5, dtype=torch.long)  # tokens 1 to 6 are in no input
    model(unseen).logsumexp(-1).sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient is not None and gradient[1:].any(1).all()


def test_shorter_pieces_and_what_is_too_long():
    model, tokens = decoder(), torch.randint(7, (2, 6))
    assert torch.allclose(model(tokens[:, :4]), model(tokens)[:, :4], atol=1e-6)
    with pytest.raises(ValueError, match="9 tokens are more than the context of 6"):
        model(torch.zeros(1, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="width must be a multiple of heads, not 8 of 3"):
        Block(8, 3)
    with pytest.raises(ValueError, match="images of 30 x 30 pixels are not filled by patches of 4"):
        VisionTransformer(image_size=30)


def test_a_vision_transformer_reads_its_patches():
    """Where no place is told from another, an image with its patches in another order is equal."""
    torch.manual_seed(0)
    model = VisionTransformer(8, 1, 2, image_size=8)
    nn.init.zeros_(model.positions)
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(model(images.roll(4, 2)), model(images), atol=1e-6)
    assert not torch.allclose(model(images.roll(2, 2)), model(images), atol=1e-3)
    assert F.cross_entropy(model(images), torch.tensor([1, 2])).isfinite()
