"""The loop: batches, steps, gradients, replay, encoding, refusals and failures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from solver_cases import EDM, VP, exact, gaussian, mixture, starts
from torch import Tensor

from gentool.diffusion.grids import make_grid
from gentool.diffusion.predictor import Predictor
from gentool.diffusion.solvers.catalog import SOLVERS
from gentool.diffusion.solvers.core import State, Wrapped, build
from gentool.diffusion.solvers.integrate import integrate
from gentool.errors import GentoolError, UserError
from gentool.noise import Noise

ALL = SOLVERS.fitting()
STEPWISE = [name for name in ALL if "adaptive" not in SOLVERS.get(name).needs]
EXTRA: dict[str, dict[str, Any]] = {"edm": {"s_churn": 5.0}, "ddim": {"eta": 0.7}}


def sample(name: str, process: Any, steps: int, rows: range, grid: str = "", **how: Any) -> Tensor:
    noise = Noise(7, rows, (2,), dtype=torch.float64)
    x = noise.normal("prior") * process.prior_std
    levels = make_grid(grid or SOLVERS.get(name).grid, steps, process)
    return integrate(exact(mixture), process, build(name, EXTRA.get(name)), levels, x, noise, **how).x


@pytest.mark.parametrize("name", ALL)
def test_a_sample_does_not_depend_on_its_batch(name: str, vp: VP) -> None:
    together = sample(name, vp, 6, range(8))
    apart = torch.cat([sample(name, vp, 6, range(i, i + 1)) for i in (0, 5)])
    torch.testing.assert_close(together[[0, 5]], apart, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ALL)
def test_few_steps_to_zero_and_to_t_min_are_finite_and_end_at_the_data(name: str, steps: int, vp: VP) -> None:
    for final in ("zero", "t-min"):
        noise = Noise(1, range(16), (2,), dtype=torch.float64)
        x = noise.normal("prior") * vp.prior_std
        solver = build(name, EXTRA.get(name))
        result = integrate(exact(mixture), vp, solver, make_grid("karras", steps, vp, final=final), x, noise)
        assert result.x.isfinite().all()
        if final == "zero" and not solver.adaptive:
            assert result.manifest["orders"][-1] == 1


@pytest.mark.parametrize("name", STEPWISE)
def test_one_step_to_zero_is_the_prediction(name: str, vp: VP) -> None:
    if name == "pc":
        pytest.skip("its corrector moves the state first")
    noise = Noise(1, range(16), (2,), dtype=torch.float64)
    x = noise.normal("prior") * vp.prior_std
    predict = exact(mixture)
    out = integrate(predict, vp, name, make_grid("karras", 1, vp), x, noise).x
    torch.testing.assert_close(out, predict(x, vp.sigma_max), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_catalog_counts_calls_and_noise_rightly(name: str, vp: VP) -> None:
    info, steps = SOLVERS.get(name), 12
    solver = build(name)
    assert solver.stochastic == info.stochastic
    assert solver.adaptive == ("adaptive" in info.needs)
    if solver.adaptive:
        return
    final = "zero" if name == "edm" else "t-min"
    grid = make_grid("log-snr", steps, vp, final=final)
    result = integrate(exact(mixture), vp, solver, grid, starts(vp), Noise(0, range(64), (2,)))
    stated = {
        "N": 12,
        "2N": 24,
        "3N": 36,
        "2N - 1": 23,
        "stages N": 36,
        "N + 9 (f), N + 1 (s)": 21,
        "N (corrector_steps + 1)": 24,
    }
    assert result.nfe == stated[info.nfe]


STOCHASTIC = [name for name in ALL if SOLVERS.get(name).stochastic and name != "pc"]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samples_stay_comparable_when_steps_change(name: str, vp: VP) -> None:
    """One Brownian path: twice the steps change a sample far less than another seed does."""
    coarse, fine = sample(name, vp, 128, range(48), "log-snr"), sample(name, vp, 256, range(48), "log-snr")
    other = sample(name, vp, 256, range(100, 148), "log-snr")
    same, different = (coarse - fine).norm(dim=1).median(), (other - fine).norm(dim=1).median()
    assert float(same) < 0.25 * float(different)


@pytest.mark.parametrize("name", STEPWISE)
def test_steps_are_pure(name: str, vp: VP) -> None:
    """A stored state replays: the same (state, i) gives the same bits, whatever came between."""
    solver, grid = build(name, EXTRA.get(name)), make_grid("log-snr", 6, vp)
    plan, predict = solver.prepare(grid, vp), exact(mixture)
    noise = Noise(3, range(64), (2,), dtype=torch.float64)
    states = [State(starts(vp))]
    for i in range(len(plan.orders)):
        states.append(plan.step(states[-1], i, predict, noise))
    fresh = Noise(3, range(64), (2,), dtype=torch.float64)
    for i in reversed(range(len(plan.orders))):
        again = plan.step(states[i], i, predict, fresh)
        assert torch.equal(again.x, states[i + 1].x)
        assert all(torch.equal(a, b) for a, b in zip(again.history, states[i + 1].history))


@pytest.mark.parametrize("name", ALL)
def test_gradients_flow_through_every_solver(name: str, vp: VP) -> None:
    """The derivative along a direction equals the finite difference."""
    grid = make_grid("log-snr", 5, vp)
    noise = Noise(3, range(4), (2,), dtype=torch.float64)
    tight = {"atol": 1e-9, "rtol": 1e-9} if name == "rk45" else {}
    solver = build(name, {**EXTRA.get(name, {}), **tight})
    if name == "dpm-adaptive":
        pytest.skip("its steps jump with the state, so finite differences do not exist at its tolerance")

    def run(x: Tensor) -> Tensor:
        return integrate(exact(mixture), vp, solver, grid, x, noise).x.sum()

    x = starts(vp, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(run(x), x)
    direction = torch.tensor([1.0, -0.5], dtype=torch.float64) * vp.prior_std
    h = 1e-5
    slope = (run(x.detach() + h * direction) - run(x.detach() - h * direction)) / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("name", STEPWISE)
def test_steps_may_be_vmapped_over_what_predictions_alone_depend_on(name: str, vp: VP) -> None:
    """Weights, labels, scales of guidance: the state has no such dimension before the first step."""
    x, noise = starts(vp, 4), Noise(5, range(4), (2,), dtype=torch.float64)
    plan = build(name, EXTRA.get(name)).prepare(make_grid("karras", 6, vp), vp)

    def two_steps(scale: Tensor) -> Tensor:
        state = State(x)
        for i in range(2):
            state = plan.step(state, i, Scaled(scale), noise)
        return state.x

    scales = torch.tensor([0.5, 1.0], dtype=torch.float64)
    one_by_one = torch.stack([two_steps(scale) for scale in scales])
    torch.testing.assert_close(
        torch.func.vmap(two_steps, randomness="same")(scales), one_by_one, rtol=1e-12, atol=1e-12
    )


class Scaled(Wrapped):
    """The mixture's exact predictions times a scale."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__(exact(mixture))
        self.scale = scale

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self.scale * self.predict(x, sigma)


def test_large_finite_states_are_no_failure(vp: VP) -> None:
    """Their sum overflows."""
    x = torch.full((4, 2), 1e308, dtype=torch.float64)
    predict = Predictor(lambda x, sigma, label: x, dtype=torch.float64)
    assert integrate(predict, vp, "ddim", make_grid("karras", 1, vp), x).x.eq(1e308).all()


@pytest.mark.parametrize("final", ["zero", "t-min"])
@pytest.mark.parametrize("grid", ["log-snr", "power-t"])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_fast_spends_exactly_its_calls(order: int, grid: str, final: str, vp: VP) -> None:
    sizes = {1: [1], 2: [2], 3: [2, 1], 4: [3, 1], 5: [3, 2], 6: [3, 2, 1], 7: [3, 3, 1]}
    for calls in range(1, 13):
        levels = make_grid(grid, calls, vp, final=final)
        result = integrate(exact(mixture), vp, build("dpm-fast", {"order": order}), levels, starts(vp))
        assert result.nfe == calls
        if order == 3 and final == "t-min" and calls in sizes:
            assert result.manifest["orders"] == sizes[calls]


def test_denoise_returns_x0_at_the_last_level(vp: VP) -> None:
    grid, predict = make_grid("log-snr", 5, vp), exact(mixture)
    plain = integrate(predict, vp, "ddim", grid, starts(vp))
    result = integrate(predict, vp, "ddim", grid, starts(vp), denoise=True)
    assert torch.equal(result.x, predict(plain.x, vp.sigma_min))
    assert (plain.nfe, result.nfe) == (5, 6)


@pytest.mark.parametrize("name", ["ddim", "edm", "dpmpp-2m", "unipc", "pndm"])
def test_the_callback_sees_state_and_prediction_of_every_step(name: str, vp: VP) -> None:
    grid, seen = make_grid("karras", 5, vp), []
    predict = exact(mixture)
    result = integrate(predict, vp, name, grid, starts(vp), callback=lambda *args: seen.append(args))
    assert [i for i, *_ in seen] == list(range(5))
    assert [sigma for _, sigma, *_ in seen] == grid.sigma[:-1].tolist()
    for _, sigma, x, x0 in seen:
        assert torch.equal(x0, predict(x, sigma))
    torch.testing.assert_close(result.x, seen[-1][3], rtol=1e-12, atol=1e-12)


def test_the_manifest_says_what_was_done(vp: VP) -> None:
    noise = Noise(11, range(64), (2,))
    result = integrate(exact(mixture), vp, "unipc", make_grid("log-snr", 6, vp), starts(vp), noise)
    assert result.steps == 6
    assert result.manifest["orders"] == [1, 2, 3, 3, 2, 1]
    expected = {
        "solver": "unipc",
        "grid": "log-snr",
        "steps": 6,
        "nfe": 6,
        "seed": 11,
        "final": "t-min",
        "notes": [],
    }
    assert expected.items() <= result.manifest.items()
    assert result.manifest["options"]["variant"] == "bh2"


def test_too_few_steps_reduce_the_order_and_say_so(vp: VP) -> None:
    result = integrate(
        exact(mixture), vp, build("deis-tab", {"order": 4}), make_grid("power-t", 2, vp), starts(vp)
    )
    assert result.manifest["orders"] == [1, 2]
    assert result.manifest["notes"] == ["order 4 needs 4 steps: reduced to 2"]


def test_final_order_by_name(vp: VP) -> None:
    def orders(steps: int, **options: Any) -> list[int]:
        return list(build("unipc", options).prepare(make_grid("log-snr", steps, vp), vp).orders)

    assert orders(5, final_order="keep") == [1, 2, 3, 3, 3]
    assert orders(5, final_order="lower") == [1, 2, 3, 2, 1]
    assert orders(5, final_order="one") == [1, 2, 3, 3, 1]
    assert orders(14)[-2:] == [2, 1]
    assert orders(15)[-2:] == [3, 3]


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc"])
def test_float32_states_stay_float32_and_close(name: str, vp: VP) -> None:
    grid = make_grid("karras", 12, vp)
    low = integrate(Predictor(mixture), vp, name, grid, starts(vp).float()).x
    assert low.dtype == torch.float32
    torch.testing.assert_close(
        low.double(), integrate(exact(mixture), vp, name, grid, starts(vp)).x, rtol=1e-3, atol=1e-3
    )


def test_states_of_any_shape(edm: EDM) -> None:
    """A state is a tensor (B, ...): pairs of data and velocity, images, sets of points."""
    for shape in ((3,), (2, 3, 4), (6, 2, 2, 2)):
        noise = Noise(0, range(3), shape)
        x = noise.normal("prior") * 80
        for name in ("dpmpp-2m-sde", "pc", "rk45", "unipc"):
            out = integrate(Predictor(gaussian(0.5)), edm, name, make_grid("karras", 4, edm), x, noise).x
            assert out.shape == (3, *shape)


@pytest.mark.parametrize(
    ("name", "how", "grid", "message"),
    [
        ("ddpm", {"reverse": True}, {}, "only deterministic solvers encode"),
        ("ddim", {"reverse": True, "denoise": True}, {}, "neither an analytic first step"),
        ("ddim", {"reverse": True}, {"final": "zero"}, "starts at a positive noise level"),
        ("ddim", {"denoise": True}, {"final": "zero"}, "denoise has nothing to do"),
        ("rk45", {"callback": print}, {}, "no step callback"),
        ("dpm-adaptive", {"first": "afs"}, {}, "no step callback"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    name: str, how: dict, grid: dict, message: str, vp: VP
) -> None:
    noise = Noise(0, range(64), (2,))
    with pytest.raises(UserError, match=message):
        integrate(exact(mixture), vp, name, make_grid("log-snr", 4, vp, **grid), starts(vp), noise, **how)


def test_noise_must_fit(vp: VP) -> None:
    grid = make_grid("log-snr", 4, vp)
    with pytest.raises(ValueError, match="give a Noise"):
        integrate(exact(mixture), vp, "ddpm", grid, starts(vp))
    with pytest.raises(ValueError, match="a batch of 64"):
        integrate(exact(mixture), vp, "ddpm", grid, starts(vp), Noise(0, [0], (2,)))


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc", "edm", "dpmpp-2m-sde", "rk45"])
def test_a_bad_network_is_caught_with_step_time_and_sample(name: str, vp: VP) -> None:
    grid = make_grid("log-snr", 6, vp)
    level = float(grid.sigma[3])

    def denoise(x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        out = mixture(x, sigma)
        out[5] = torch.where(sigma[5] <= level * 1.0001, torch.nan, out[5])
        return out

    noise = Noise(0, range(100, 164), (2,))
    with pytest.raises(GentoolError, match="sample 105") as caught:
        integrate(exact(denoise), vp, name, grid, starts(vp), noise)
    assert caught.value.exit_code == 1
    if name != "rk45":
        assert "step 4 of 6" in str(caught.value) or (name == "edm" and "step 3 of 6" in str(caught.value))


def test_guidance_memory_is_restored_before_looking_for_the_fault(vp: VP) -> None:
    """A rule with memory must see the same calls again, or the report would name another step."""

    def rule(call: Any, x: Tensor, sigma: Tensor, label: Tensor | None, memory: Any) -> tuple[Tensor, Any]:
        count = (memory or 0) + 1
        out = call(x, sigma, label)
        return (out * torch.nan if count >= 3 else out), count

    predict = exact(mixture, guidance=rule)
    with pytest.raises(GentoolError, match="after step 3 of 6"):
        integrate(predict, vp, "ddim", make_grid("log-snr", 6, vp), starts(vp))
