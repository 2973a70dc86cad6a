"""Replay: the gradient of plain back-propagation, whatever is kept, and a refusal where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from gentool.diffusion.gradients.rollout import Replay, rollout
from gentool.errors import GentoolError, UserError
from gentool.noise import Noise

Keep = Literal["all", "sqrt", "log"] | int
KEEPS: tuple[Keep, ...] = ("all", "sqrt", "log", 3)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype).requires_grad_(False)


def noisy_step(net: nn.Module, noise: Noise) -> Callable[[Any, int], Any]:
    """Two-step memory, noise that enters the derivative, and a state whose layout grows: all that solvers do."""

    def step(state: dict[str, Any], i: int) -> dict[str, Any]:
        slope = net(state["x"]) * (1 + 0.3 * noise.normal("scale", i))
        x = state["x"] + 0.1 * (slope if state["last"] is None else 1.5 * slope - 0.5 * state["last"])
        return {"x": x, "last": slope, "count": state["count"] + 1}

    return step


def start(x: Tensor) -> dict[str, Any]:
    return {"x": x, "last": None, "count": 0}


def gradients(steps: int, replay: Replay | None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    net = network(dtype)
    weight, bias = net[0].weight.requires_grad_(), net[2].bias.requires_grad_()  # type: ignore[index, union-attr, operator]
    x = torch.linspace(-1, 1, 12, dtype=dtype).view(3, 4).requires_grad_()
    noise = Noise(5, [0, 1, 2], (4,), dtype=dtype)
    chosen = None if replay is None else Replay(replay.keep, (weight, bias), replay.offload)
    out = rollout(noisy_step(net, noise), steps, start(x), chosen)
    assert out["count"] == steps
    return [out["x"].detach(), *torch.autograd.grad(out["x"].square().sum(), (x, weight, bias))]


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 25, 100])
@pytest.mark.parametrize("keep", KEEPS)
def test_replay_is_plain_back_propagation(keep: Keep, steps: int) -> None:
    for ours, plain in zip(gradients(steps, Replay(keep)), gradients(steps, None), strict=True):
        assert torch.allclose(ours, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("keep", KEEPS)
def test_the_gradient_in_the_start_has_the_very_bits(keep: Keep) -> None:
    """The same arithmetic in the same order; sums over steps (of weights) alone may round otherwise."""
    out, x, *_ = gradients(25, Replay(keep))
    plain_out, plain_x, *_ = gradients(25, None)
    assert torch.equal(out, plain_out)
    assert torch.equal(x, plain_x)


def test_float32_to_a_millionth() -> None:
    ours, plain = (gradients(100, replay, torch.float32)[1] for replay in (Replay("sqrt"), None))
    assert (ours - plain).norm() <= 1e-6 * plain.norm()


def test_offloaded_states_give_the_same() -> None:
    assert torch.equal(gradients(10, Replay("sqrt", offload=True))[1], gradients(10, Replay("sqrt"))[1])


def test_gradcheck_in_the_start_the_condition_and_a_weight() -> None:
    """adjoint of a 2-d network over three steps, against finite differences."""
    torch.manual_seed(1)
    second = torch.randn(3, 2, dtype=torch.float64)

    def sample(x: Tensor, condition: Tensor, weight: Tensor) -> Tensor:
        def step(z: Tensor, i: int) -> Tensor:
            return z + 0.3 * torch.tanh(torch.cat([z, condition.expand(len(z), 1)], 1) @ weight) @ second

        return rollout(step, 3, x, Replay("sqrt", (condition, weight)))

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(sample, (leaf(2, 2), leaf(1), leaf(3, 3)))


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("steps", [2, 10, 100])
def test_steps_run_are_as_few_as_documented(keep: Keep, steps: int) -> None:
    runs = 0

    def step(x: Tensor, i: int) -> Tensor:
        nonlocal runs
        runs += 1
        return 0.99 * x

    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    rollout(step, steps, x, Replay(keep)).sum().backward()
    branch = Replay(keep).branches(steps)
    levels = max(1, math.ceil(math.log(steps) / math.log(branch) - 1e-9))
    assert x.grad is not None
    assert math.isclose(float(x.grad), 0.99**steps, rel_tol=1e-12)
    assert runs <= steps * (1 + levels)


def test_memory_of_graphs_does_not_grow_with_the_steps() -> None:
    """Bytes that autograd saves in the forward pass: linear for plain, none but the states for replay."""

    def saved(steps: int, replay: Replay | None) -> int:
        total = 0

        def pack(t: Tensor) -> Tensor:
            nonlocal total
            total += t.numel() * t.element_size()
            return t

        net, x = network(), torch.ones(64, 4, dtype=torch.float64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            rollout(lambda z, i: z + 0.01 * net(z), steps, x, replay)
        return total

    plain = [saved(n, None) for n in (10, 20, 40)]
    assert plain[1] - plain[0] == (plain[2] - plain[1]) / 2 > 0
    assert [saved(n, Replay()) for n in (10, 40)] == [0, 0]


def test_dropout_is_refused() -> None:
    drop = nn.Dropout(0.5)
    x = torch.ones(2, 8, requires_grad=True)
    out = rollout(lambda z, i: drop(z) + z, 4, x, Replay())
    with pytest.raises(UserError, match=r"not reproducible.*dropout"):
        out.sum().backward()


@pytest.mark.parametrize("keep", KEEPS)
def test_a_running_generator_is_refused(keep: Keep) -> None:
    """Unnoticed, five-step segments with such noise give a gradient that is off by tens of per cent."""
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(4, 8, requires_grad=True)

    def step(z: Tensor, i: int) -> Tensor:
        return torch.sin(z + torch.randn(z.shape, generator=generator))

    out = rollout(step, 25, x, Replay(keep))
    with pytest.raises(UserError, match="not reproducible"):
        out.sum().backward()


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x = torch.ones(2, requires_grad=True)
    out = rollout(lambda z, i: z * z, 2, x, Replay())
    with pytest.raises(UserError, match="gradient of a gradient"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


def test_a_gradient_that_is_not_finite_names_its_step() -> None:
    x = torch.tensor([4.0], requires_grad=True)

    def step(z: Tensor, i: int) -> Tensor:
        return (z * 0).sqrt() + z if i == 2 else z

    out = rollout(step, 5, x, Replay())
    with pytest.raises(GentoolError, match="passed step 2"):
        out.sum().backward()


def test_a_loss_that_is_not_finite_is_told_apart() -> None:
    x = torch.ones(2, requires_grad=True)
    out = rollout(lambda z, i: 2 * z, 3, x, Replay())
    with pytest.raises(GentoolError, match="gradient of the loss"):
        out.backward(torch.full((2,), math.inf))


def test_no_steps_are_the_identity() -> None:
    x = torch.ones(2, requires_grad=True)
    assert rollout(lambda z, i: z * 0, 0, x, Replay()) is x


def test_wrt_must_be_a_sequence() -> None:
    with pytest.raises(ValueError, match="sequence of tensors"):
        Replay(wrt=torch.ones(3, requires_grad=True))  # type: ignore[arg-type]


def test_keep_of_one_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2"):
        Replay(keep=1)


def test_a_step_that_hands_on_its_input_and_a_tensor_twice() -> None:
    x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)

    def step(state: tuple[Tensor, Tensor, Tensor], i: int) -> tuple[Tensor, Tensor, Tensor]:
        z, anchor, _ = state
        z = z * anchor
        return z, anchor, z

    z, anchor, twin = rollout(step, 3, (x, x, x), Replay())
    (gradient,) = torch.autograd.grad(z + anchor + twin, x)
    assert math.isclose(float(gradient), 2 * 4 * 2.0**3 + 1)  # d/dx (2 x^4 + x)


def test_autocast_of_the_forward_pass_holds_in_the_replay() -> None:
    net = network(torch.float32)
    x = torch.linspace(-1, 1, 8).view(2, 4).requires_grad_()

    def gradient(replay: Replay | None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = rollout(lambda z, i: z + 0.1 * net(z).float(), 6, x, replay)
        return torch.autograd.grad(out.sum(), x)[0]

    assert torch.equal(gradient(Replay("sqrt")), gradient(None))
