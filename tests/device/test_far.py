"""The make-believe accelerator itself: it computes what the CPU does, and refuses what CUDA refuses."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from tests.device.far import FarTensor


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def pictures() -> Tensor:
    return torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))


FACTORIES: dict[str, Callable[[torch.device], Tensor]] = {
    "zeros": lambda d: torch.zeros(2, device=d),
    "tensor": lambda d: torch.tensor([1.0, 2.0], device=d),
    "arange": lambda d: torch.arange(3, device=d),
    "linspace": lambda d: torch.linspace(0, 1, 3, device=d),
    "eye": lambda d: torch.eye(2, device=d),
    "randn": lambda d: torch.randn(2, device=d),
    "randperm": lambda d: torch.randperm(3, device=d),
    "full": lambda d: torch.full((2,), torch.inf, device=d),
    "like": lambda d: torch.zeros_like(torch.ones(2, device=d)),
    "new": lambda d: torch.ones(2, device=d).new_zeros(3),
    "moved": lambda d: torch.ones(2).to(d),
    "from numpy": lambda d: torch.from_numpy(np.ones(2)).to(d),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_tensors_are_made_where_they_are_asked_for(name: str, far: torch.device) -> None:
    made = FACTORIES[name](far)
    assert made.device == far
    assert isinstance(made, FarTensor)
    assert made.shape == made.near.shape
    assert made.cpu().device.type == "cpu"


def test_gradients_are_the_cpus(far: torch.device) -> None:
    near, there = network(), network().to(far)
    near(pictures()).square().sum().backward()
    there(pictures().to(far)).square().sum().backward()
    for p, q in zip(near.parameters(), there.parameters()):
        assert q.grad is not None
        assert q.grad.device == far
        torch.testing.assert_close(q.grad.cpu(), p.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("fused", [False, True])
def test_optimisers_step_there(name: str, fused: bool, far: torch.device) -> None:
    near, there = network(), network().to(far)
    for model, x in ((near, pictures()), (there, pictures().to(far))):
        optimizer = getattr(torch.optim, name)(model.parameters(), 0.1, fused=fused)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    for p, q in zip(near.parameters(), there.parameters()):
        torch.testing.assert_close(q.detach().cpu(), p.detach(), rtol=1e-5, atol=1e-6)


def test_functional_derivatives_are_the_cpus(far: torch.device) -> None:
    near, there = network(), network().to(far)

    def loss(model: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, weights, (x[None],)).square().mean()

    def derivatives(model: nn.Module, x: Tensor) -> list[Tensor]:
        weights = {name: value.detach() for name, value in model.named_parameters()}
        each = vmap(grad(lambda w, x: loss(model, w, x)), in_dims=(None, 0))(weights, x)
        return [*each.values(), *jvp(model, (x,), (x.sin(),))]

    for a, b in zip(derivatives(near, pictures()), derivatives(there, pictures().to(far))):
        torch.testing.assert_close(b.detach().cpu(), a.detach(), rtol=1e-5, atol=1e-6)


def test_complex_numbers_views_and_changes_in_place(far: torch.device) -> None:
    def value(x: Tensor) -> Tensor:
        waves = torch.fft.rfftn(x, dim=(0, 1))
        y = torch.fft.irfftn(-1j * waves.conj() * waves.imag, s=x.shape, dim=(0, 1))
        z = y * 1
        z[:, 0] = 5
        z[0].mul_(3)
        return (z.T.unsqueeze_(0) + y).square().sum()

    x = torch.arange(16.0).view(4, 4).sin()
    near, there = x.clone().requires_grad_(), x.to(far).requires_grad_()
    for leaf in (near, there):
        value(leaf).backward()
    assert torch.equal(there.grad.cpu(), near.grad)  # type: ignore[arg-type, union-attr]


def test_copies_and_states_cross(far: torch.device) -> None:
    near, there = network(), network().to(far)
    assert next(copy.deepcopy(there).parameters()).device == far
    with torch.no_grad():
        next(near.parameters()).fill_(2.0)
    there.load_state_dict(near.state_dict())
    assert (next(there.parameters()).detach().cpu() == 2).all()
    near.load_state_dict(there.state_dict())
    assert next(near.parameters()).device.type == "cpu"


MIXED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda x, y: x + y,
    "sum the other way": lambda x, y: y + x,
    "in place": lambda x, y: x.add_(y),
    "product": lambda x, y: x @ y,
    "where": lambda x, y: torch.where(x > 0, x, y),
    "mask of the host": lambda x, y: torch.where(y > 0, x, x),
    "concatenation": lambda x, y: torch.cat([x, y]),
    "stack of scalars": lambda x, y: torch.stack([x.sum(), y.sum()]),
    "gather": lambda x, y: x.gather(0, torch.zeros(3, 3, dtype=torch.int64)),
    "index of the far side": lambda x, y: y[torch.zeros(2, dtype=torch.int64, device=x.device)],
    "mask of the far side": lambda x, y: y[x > 0],
    "assignment": lambda x, y: x.index_put_((torch.tensor([0]),), y[0]),
    "scalar of the far side": lambda x, y: y * x.sum(),
    "linear": lambda x, y: nn.functional.linear(x, y),
    "in a backward pass": lambda x, y: _Broken.apply(x.clone().requires_grad_()).sum().backward(),  # type: ignore[no-untyped-call]
    "under vmap": lambda x, y: vmap(lambda a: a + y[0])(x),
    "generator of the host": lambda x, y: torch.randn(2, generator=torch.Generator(), device=x.device),
    "generator of the far side": lambda x, y: torch.randn(2, generator=torch.Generator(x.device)),
}


class _Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient + torch.ones(3, 3)


@pytest.mark.parametrize("name", MIXED)
def test_what_cuda_refuses_is_refused(name: str, far: torch.device) -> None:
    with pytest.raises(RuntimeError, match=r"same device|device type for generator"):
        MIXED[name](torch.ones(3, 3, device=far), torch.ones(3, 3))


ALLOWED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "scalar of the host": lambda x, y: x * y.sum(),
    "number": lambda x, y: x * 2.0,
    "index of the host": lambda x, y: x[torch.tensor([0, 2])],
    "mask of the host as an index": lambda x, y: x[y > 0],
    "assignment of a number": lambda x, y: x.__setitem__(torch.tensor([0]), 1.0),
    "copy": lambda x, y: x.copy_(y),
    "copy back": lambda x, y: y.copy_(x),
    "filled": lambda x, y: x.masked_fill(x > 0, y.sum()),
    "scalar in where": lambda x, y: torch.where(x > 0, x, y.sum()),
    "read": lambda x, y: (float(x.sum()), x.tolist(), x.cpu().numpy()),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_takes_is_taken(name: str, far: torch.device) -> None:
    ALLOWED[name](torch.ones(3, 3, device=far), torch.ones(3, 3))


def test_numpy_needs_the_values_on_the_host(far: torch.device) -> None:
    x = torch.ones(3, device=far)
    for reading in (lambda: x.numpy(), lambda: np.asarray(x), lambda: np.ones(3) * np.asarray(x)):
        with pytest.raises(TypeError, match="can't convert far:0"):
            reading()


def test_generators_repeat_themselves(far: torch.device) -> None:
    first, second = (torch.Generator(far).manual_seed(3) for _ in range(2))
    assert first.device == far
    assert isinstance(first, torch.Generator)
    drawn = [torch.randn(4, generator=g, device=far).tolist() for g in (first, second)]
    assert drawn[0] == drawn[1]


def test_gradients_are_taken_in_the_callers_thread(far: torch.device) -> None:
    """Out of inference mode too, where the engine has its threads: a process may have started it without this one."""
    seen = []
    with torch.inference_mode(), torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(3, device=far, requires_grad=True)
        x.register_hook(lambda gradient: seen.append(threading.get_ident()))
        (slope,) = torch.autograd.grad(x.square().sum(), x)
    assert slope.device == far
    assert seen == [threading.get_ident()]


def test_a_generator_of_the_host_is_known_where_one_of_the_device_lay(far: torch.device) -> None:
    for _ in range(50):
        assert torch.randn(2, generator=torch.Generator(far), device=far).device == far
        host = torch.Generator()
        with pytest.raises(RuntimeError, match="device type for generator"):
            torch.randn(2, generator=host, device=far)
