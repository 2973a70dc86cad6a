"""The engines against a loop over records, over networks of every kind; the bound that privacy rests on."""

from __future__ import annotations

import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.privacy.gradients import memory
from gentool.privacy.gradients.engine import ClippedSum, Engine, NoRuleError
from gentool.privacy.gradients.engines import ENGINES
from tests.conformance.test_families import batch_of, make
from tests.privacy.private_modules import CASES as DRAWN
from tests.privacy.private_modules import drawn_module

CASES = (
    "edm edm",
    "edm points",
    "edm u-net, augmented",
    "edm adm, flipped",
    "edm transformer",
    "classifier",
    "classifier of noisy states",
)
MISSING = pytest.mark.skipif(find_spec("opacus") is None, reason="opacus is not installed")
ALL = [pytest.param(name, marks=MISSING if name == "opacus" else ()) for name in ENGINES]
FAST = [engine for engine in ALL if engine.values != ("microbatch",)]


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    assert float((got - want).norm()) <= tolerance * float(want.norm())


def examples_of(case: str) -> tuple[Any, dict[str, Tensor]]:
    module = make(case)
    return module, module.try_examples(batch_of(module, [3, 1, 4, 1, 5]))


@cache
def looped(case: str) -> tuple[Any, dict[str, Tensor], float, ClippedSum]:
    """A module, its examples, a norm that clips some of them and not others, and what a loop over them gives."""
    module, examples = examples_of(case)
    want = ENGINES["microbatch"](module, module.losses)(examples, 1.0, 1)
    clip = float(want.norms.median())
    return module, examples, clip, ENGINES["microbatch"](module, module.losses)(examples, clip, 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FAST)
def test_engines_agree_with_a_loop_over_records(name: str, case: str) -> None:
    module, examples, clip, want = looped(case)
    got = ENGINES[name](module, module.losses)(examples, clip, 5)
    close(got.norms, want.norms)
    close(got.total, want.total)
    close(got.losses, want.losses)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("network", DRAWN)
@pytest.mark.parametrize("name", FAST)
def test_draws_of_a_record_are_averaged_before_clipping(network: str, name: str) -> None:
    """A record with K draws has the mean of the K gradients that it has with each draw alone."""
    module, examples = drawn_module(network, draws=3)
    single = [
        {k: (v[:, i : i + 1] if k in ("u", "noise") else v) for k, v in examples.items()} for i in range(3)
    ]
    loop = ENGINES["microbatch"](module, module.losses)
    infinite = math.inf
    each = [loop({k: v[:1] for k, v in one.items()}, infinite, 1).total for one in single]
    mean = torch.stack(each).mean(0)
    engine = ENGINES[name](module, module.losses)
    close(engine({k: v[:1] for k, v in examples.items()}, infinite, 1).total, mean)
    clip = float(loop(examples, 1.0, 1).norms.median())
    close(engine(examples, clip, 4).total, loop(examples, clip, 1).total)


@pytest.mark.parametrize("name", ALL)
def test_what_is_clipped_is_within_the_norm(name: str) -> None:
    module, examples = examples_of("edm u-net, augmented")
    engine = ENGINES[name](module, module.losses)
    for clip in (1e-3, 0.1):
        for i in range(3):
            one = engine({k: v[i : i + 1] for k, v in examples.items()}, clip, 1)
            assert float(one.norms) > clip
            assert clip * (1 - 1e-3) <= float(one.total.double().norm()) <= clip * (1 + 1e-6)
    whole = engine(examples, 1e9, 5)
    unclipped = engine(examples, math.inf, 5)
    close(whole.total, unclipped.total, 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_sum_does_not_depend_on_chunks(name: str) -> None:
    module, examples = examples_of("edm u-net, augmented")
    engine = ENGINES[name](module, module.losses)
    want = engine(examples, 0.5, 5)
    for size in (1, 2, 4):
        got = engine(examples, 0.5, size)
        close(got.total, want.total)
        close(got.norms, want.norms)


@pytest.mark.parametrize("name", ALL)
def test_one_record_moves_the_sum_by_at_most_the_norm(name: str) -> None:
    module, examples = drawn_module("u-net", draws=4)
    engine = ENGINES[name](module, module.losses)
    clip = 0.05
    whole = engine(examples, clip, 4).total
    for left_out in range(4):
        kept = torch.arange(4) != left_out
        part = engine({k: v[kept] for k, v in examples.items()}, clip, 4).total
        assert 0.9 * clip < float((whole - part).norm()) <= clip * (1 + 1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_record_that_is_not_finite_adds_nothing(name: str) -> None:
    module, examples = examples_of("edm u-net, augmented")
    engine = ENGINES[name](module, module.losses)
    good = torch.tensor([True, False, True, False, True])
    want = engine({k: v[good] for k, v in examples.items()}, 0.5, 5)
    examples["x0"] = examples["x0"].clone()
    examples["x0"][1], examples["x0"][3] = math.nan, math.inf
    got = engine(examples, 0.5, 5)
    close(got.total, want.total)
    assert got.norms.isfinite().tolist() == good.tolist()


@pytest.mark.parametrize("name", ALL)
def test_no_records_sum_to_zero(name: str) -> None:
    module, _ = examples_of("edm edm")
    found = ENGINES[name](module, module.losses)({}, 1.0, 4)
    assert found.total.shape == (sum(p.numel() for p in module.parameters()),)
    assert not found.total.any()
    assert len(found.losses) == len(found.norms) == 0


@pytest.mark.parametrize("name", ALL)
def test_frozen_weights_are_left_out(name: str) -> None:
    module, examples = examples_of("edm edm")
    whole = ENGINES[name](module, module.losses)
    frozen = [p for n, p in module.named_parameters() if "blocks.0" in n]
    for p in frozen:
        p.requires_grad_(False)
    engine = ENGINES[name](module, module.losses)
    count = sum(p.numel() for p in frozen)
    found = engine(examples, math.inf, 5)
    assert len(found.total) == len(whole.zeros()) - count
    close(found.total, ENGINES["microbatch"](module, module.losses)(examples, math.inf, 1).total)


def test_the_clipped_sum_is_in_float32_under_autocast() -> None:
    module, examples = examples_of("edm u-net, augmented")
    exact = {name: ENGINES[name](module, module.losses)(examples, 0.1, 5) for name in ("layers", "vmap")}
    for name, want in exact.items():
        with torch.autocast("cpu", torch.bfloat16):
            got = ENGINES[name](module, module.losses)(examples, 0.1, 5)
            assert got.total.dtype == got.norms.dtype == torch.float32
            one = ENGINES[name](module, module.losses)({k: v[:1] for k, v in examples.items()}, 1e-3, 1)
        assert not torch.equal(got.total, want.total)
        close(got.total, want.total, 0.1)
        assert 0.999e-3 < float(one.total.norm()) <= 1e-3 * (1 + 1e-6)


class Odd(nn.Module):
    """Layers that the networks of gentool do not have, each used in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6, padding_idx=2)
        self.line = nn.Conv1d(6, 6, 3, stride=2, padding=1, dilation=1, groups=2)
        self.mix = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.scale = nn.Linear(6, 6, bias=False)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)

    def losses(self, examples: dict[str, Tensor]) -> Tensor:
        h = self.words(examples["words"])  # (B, T, 6)
        h = self.norm(self.mix(torch.tanh(self.mix(h))))  # a layer used twice
        h = self.line(h.transpose(1, 2)).transpose(1, 2)
        return F.softplus(self.frozen(self.scale(h))).square().mean((1, 2))


def test_layers_of_every_kind_and_layers_used_twice() -> None:
    torch.manual_seed(0)
    model, words = Odd(), torch.randint(0, 7, (6, 9))
    want = ENGINES["microbatch"](model, model.losses)({"words": words}, 0.05, 1)
    for name in ("layers", "vmap"):
        got = ENGINES[name](model, model.losses)({"words": words}, 0.05, 6)
        close(got.norms, want.norms)
        close(got.total, want.total)


@pytest.mark.parametrize(("tokens", "width"), [(1, 8), (3, 40), (20, 4)])
def test_norms_from_factors_are_those_of_the_products(tokens: int, width: int) -> None:
    """Whether a linear layer's gradients are made or only their norms, the result is the same."""
    torch.manual_seed(1)
    model = nn.Linear(width, width)
    x = torch.randn(5, tokens, width)

    def losses(examples: dict[str, Tensor]) -> Tensor:
        return model(examples["x"]).square().sum((1, 2))

    want = ENGINES["microbatch"](model, losses)({"x": x}, 1.0, 1)
    got = ENGINES["layers"](model, losses)({"x": x}, 1.0, 5)
    close(got.norms, want.norms)
    close(got.total, want.total)


def test_functions_without_a_rule_are_named() -> None:
    model = nn.Bilinear(3, 3, 2)

    def losses(examples: dict[str, Tensor]) -> Tensor:
        return model(examples["x"], examples["x"]).square().sum(1)

    with pytest.raises(NoRuleError, match="bilinear"):
        ENGINES["layers"](model, losses)({"x": torch.randn(4, 3)}, 1.0, 4)
    want = ENGINES["microbatch"](model, losses)({"x": torch.ones(4, 3)}, 1.0, 1)
    close(ENGINES["vmap"](model, losses)({"x": torch.ones(4, 3)}, 1.0, 4).total, want.total)


def test_rows_that_belong_to_no_record_are_refused() -> None:
    model = nn.Linear(3, 3)

    def losses(examples: dict[str, Tensor]) -> Tensor:
        return (examples["x"] @ model(torch.eye(3))).sum(1)

    with pytest.raises(NoRuleError, match="3 rows for 2 records"):
        ENGINES["layers"](model, losses)({"x": torch.randn(2, 3)}, 1.0, 2)


def test_dropout_differs_from_record_to_record() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(200, 1, bias=False))

    def losses(examples: dict[str, Tensor]) -> Tensor:
        return model(examples["x"]).squeeze(1)

    for name in ("layers", "vmap"):
        torch.manual_seed(0)
        engine: Engine = ENGINES[name](model, losses)
        found = engine({"x": torch.ones(2, 200)}, math.inf, 2).total  # the sum of two masks of 0 and 2
        assert set(found.tolist()) == {0.0, 2.0, 4.0}, name


def test_memory_is_that_of_what_is_alive_at_once() -> None:
    def work(count: int) -> None:
        for _ in range(3):
            torch.ones(count, 1000) + 1

    device = torch.device("cpu")
    assert memory.peak_bytes(device, lambda: work(2)) == 2 * 2 * 4000
    assert memory.bytes_per_record(device, work) == 2 * 4000
