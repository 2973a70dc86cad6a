"""A device that is too small for the batch: faked by losses that fail above some number of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gentool import families
from gentool.data import open_set
from gentool.errors import GentoolError
from gentool.recipes.resolve import resolve
from gentool.runs.weights import load_weights
from gentool.tasks.model.build import build_module
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from gentool.training.denoising import DenoisingModule
from gentool.training.sampling import Drawn, SampleRequest

RECIPE = ("quickstart", ["trainer.max_steps=3", "data.batch_size=16", "model.network.width=32"])
LIMIT = 5
"""Rows that the faked device holds: 16 rows fit in 4 parts."""


class FailsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("faked: backward")


def small_device(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    whole: Callable[..., Tensor] = DenoisingModule.losses

    def losses(self: DenoisingModule, examples: dict[str, Tensor]) -> Tensor:
        too_large = len(examples["x0"]) > LIMIT
        if too_large and where == "forward":
            raise torch.OutOfMemoryError("faked: forward")
        found = whole(self, examples)
        return FailsInBackward.apply(found) if too_large else found

    monkeypatch.setattr(DenoisingModule, "losses", losses)


def weights(run: Path) -> dict[str, Tensor]:
    return load_weights(run / "model.safetensors")[0]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_parts_give_the_weights_of_the_whole_batch(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(RECIPE[0], RECIPE[1], run_dir=tmp_path / "whole")
    small_device(monkeypatch, where)
    said: list[str] = []
    train(RECIPE[0], RECIPE[1], run_dir=tmp_path / "parts", say=said.append)
    found, wanted = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    warnings = [line for line in said if "does not fit" in line]
    assert [line.split("worked off in ")[1].split()[0] for line in warnings] == ["2", "4"]


@pytest.mark.parametrize(
    "change", ["trainer.auto_microbatch=false", "trainer.accumulate=2"], ids=["asked not to", "accumulating"]
)
def test_where_it_cannot_go_on_it_says_what_to_change(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_device(monkeypatch, "backward")
    with pytest.raises(GentoolError, match=r"lower data\.batch_size") as caught:
        train(RECIPE[0], [*RECIPE[1], change], run_dir=tmp_path / "run")
    assert "faked" in str(caught.value)


def test_samples_are_drawn_in_halves_and_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(RECIPE[0], RECIPE[1], run_dir=tmp_path / "run")
    settings = {"steps": 2, "batch_size": 11}
    wanted = sample(tmp_path / "run", count=11, settings=settings, out=tmp_path / "a.h5")
    whole = DenoisingModule.draw

    def draw(self: DenoisingModule, request: SampleRequest) -> Drawn:
        if len(request.indices) > LIMIT:
            raise torch.OutOfMemoryError("faked: sampling")
        return whole(self, request)

    monkeypatch.setattr(DenoisingModule, "draw", draw)
    found = sample(tmp_path / "run", count=11, settings=settings, out=tmp_path / "b.h5")
    assert found.nfe == wanted.nfe
    assert abs(found.images.astype(int) - wanted.images).max() <= 1
    monkeypatch.setattr(f"{__name__}.LIMIT", 0)
    with pytest.raises(GentoolError, match="single sample"):
        sample(tmp_path / "run", count=1, settings=settings, out=tmp_path / "c.h5")


def test_a_single_row_that_does_not_fit_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(self: DenoisingModule, examples: dict[str, Tensor]) -> Tensor:
        raise torch.OutOfMemoryError("faked: always")

    monkeypatch.setattr(DenoisingModule, "losses", losses)
    with pytest.raises(GentoolError, match="out of GPU memory"):
        train(RECIPE[0], RECIPE[1], run_dir=tmp_path / "run")


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_shards_do_not_work_off_parts(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other devices gather along with this one, once for each pass of theirs; and no part would have a gradient."""
    resolved = resolve(*RECIPE, families.recipe_schema)
    data = open_set(resolved.recipe.data, "train")
    module = build_module(resolved.recipe, data.spec)
    module.fit_to_data(data)
    small_device(monkeypatch, where)
    module._examples = module.try_examples(data.take(list(range(16))))
    module._device_mesh = "a mesh of devices"
    with pytest.raises(torch.OutOfMemoryError, match="faked"):
        module.backward(module._fitting_loss())
