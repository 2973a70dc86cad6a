"""The four averaging rules from their definitions, and what is saved and swapped."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gentool.errors import CorruptError
from gentool.recipes import schema
from gentool.training.ema import Ema

RULES = ["constant", "ramp", "half-life", "inverse-power"]


class Model(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), value))
        self.register_buffer("scale", torch.tensor(value, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))

    def set(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.scale.fill_(value)
            self.count += 1


def average(ema: Ema) -> float:
    return ema.model_state()["weight"][0].item()


@pytest.mark.parametrize("rule", RULES)
def test_constants_stay_bit_for_bit(rule: str) -> None:
    model = Model(0.1)
    ema = Ema(model, schema.Ema(rule=rule))
    for step in range(1, 200):
        ema.update(model, step, 64)
    assert torch.equal(ema.model_state()["weight"], model.weight)


@pytest.mark.parametrize("rule", ["half-life", "inverse-power"])
def test_first_step_copies(rule: str) -> None:
    model = Model(0.0)
    ema = Ema(model, schema.Ema(rule=rule))
    model.set(3.7)
    ema.update(model, 1, 64)
    assert torch.equal(ema.model_state()["weight"], model.weight)


def test_after_a_half_life_of_images_the_start_weighs_one_half() -> None:
    model = Model(1.0)
    ema = Ema(model, schema.Ema(rule="half-life", half_life=5000.0, ramp_up=1e9))
    ema.update(model, 1, 100)  # the copy
    model.set(0.0)
    for step in range(2, 52):
        ema.update(model, step, 100)
    assert average(ema) == pytest.approx(0.5, rel=1e-5)


def test_half_life_ramps_up_with_the_images_seen() -> None:
    ema = Ema(Model(), schema.Ema(rule="half-life", half_life=500_000.0, ramp_up=0.05))
    for step in range(1, 5):
        ema.update(Model(), step, 2500)
    assert ema.seen == 10_000
    assert ema.beta(5, 250) == pytest.approx(0.5 ** (250 / 500))
    ema.seen = 10**8
    assert ema.beta(5, 250) == pytest.approx(0.5 ** (250 / 500_000))


def test_ramp_inverse_power_and_constant_decays() -> None:
    ramp = Ema(Model(), schema.Ema(rule="ramp", decay=0.999))
    assert [ramp.beta(k, 1) for k in (1, 10, 10**6)] == pytest.approx([2 / 11, 11 / 20, 0.999])
    power = Ema(Model(), schema.Ema(rule="inverse-power", decay=0.9999, power=2 / 3))
    # step k is k-diffusion's epoch k - 1: 1 - (1 + (k - 1))^-p
    assert [power.beta(k, 1) for k in (1, 8, 10**9)] == pytest.approx([0.0, 0.75, 0.9999])
    assert Ema(Model(), schema.Ema(rule="constant", decay=0.9)).beta(1, 1) == 0.9


def test_constant_rule_is_torchs_own() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = Ema(model, schema.Ema(rule="constant", decay=0.9))
    peer = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    peer.update_parameters(model)  # its first update copies
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        ema.update(model, step, 1)
        peer.update_parameters(model)
    torch.testing.assert_close(ema.model_state()["weight"], peer.module.weight.detach())


def test_buffers_are_copied_in_their_own_type() -> None:
    model = Model(1.0)
    ema = Ema(model, schema.Ema(rule="constant"))
    model.set(0.3)
    ema.update(model, 1, 1)
    state = ema.model_state()
    assert (state["scale"].item(), state["scale"].dtype) == (0.3, torch.float64)
    assert (state["count"].item(), state["count"].dtype) == (1, torch.int64)


def test_average_of_a_half_precision_model_lives_in_float32() -> None:
    model = Model(1.0).to(torch.bfloat16)
    ema = Ema(model, schema.Ema(rule="constant", decay=0.999))
    model.set(0.0)
    ema.update(model, 1, 1)
    assert ema.model_state()["weight"].dtype == torch.float32
    assert average(ema) == pytest.approx(0.999)  # bfloat16 would round it back to 1
    with ema.applied(model):
        assert model.weight.dtype == torch.bfloat16


def test_applied_swaps_the_weights_and_always_gives_them_back() -> None:
    model = Model(1.0)
    ema = Ema(model, schema.Ema(rule="constant", decay=0.5))
    model.set(2.0)
    ema.update(model, 1, 1)
    with ema.applied(model) as swapped:
        assert swapped is model
        assert model.weight[0].item() == 1.5
    assert model.weight[0].item() == 2.0
    with pytest.raises(RuntimeError, match="sampling failed"), ema.applied(model):
        raise RuntimeError("sampling failed")
    assert model.weight[0].item() == 2.0
    assert average(ema) == 1.5


@pytest.mark.parametrize("rule", RULES)
def test_resumed_average_equals_an_uninterrupted_one(rule: str) -> None:
    def run(stop: int | None) -> dict[str, torch.Tensor]:
        model, config = Model(1.0), schema.Ema(rule=rule)
        ema = Ema(model, config)
        for step in range(1, 21):
            model.set(float(step))
            ema.update(model, step, 10_000)
            if step == stop:
                state = ema.state_dict()
                ema = Ema(Model(5.0), config)
                ema.load_state_dict(state)
        return ema.model_state()

    for whole, resumed in zip(run(None).values(), run(7).values()):
        assert torch.equal(whole, resumed)


def test_state_of_another_model_is_refused_by_name() -> None:
    ema = Ema(Model(), schema.Ema())
    with pytest.raises(CorruptError, match="bias"):
        ema.load_state_dict(Ema(nn.Linear(3, 2), schema.Ema()).state_dict())
    state = ema.state_dict()
    state["values"]["weight"] = torch.zeros(4)
    with pytest.raises(CorruptError, match="weight"):
        ema.load_state_dict(state)
    with pytest.raises(CorruptError):
        ema.load_state_dict({"values": None})
