"""Predictions convert into one another exactly."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch

from gentool.diffusion.convert import Kind, convert, from_x0, per_sample, to_x0
from gentool.diffusion.process import Process
from gentool.diffusion.processes import Edm, Flow, Trig, Vp
from gentool.errors import UserError

PROCESSES = [Edm(), Vp(), Trig(), Flow()]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.name)
def test_round_trips_between_all_kinds(process: Process) -> None:
    g = torch.Generator().manual_seed(0)
    t = process.t_min + 0.9 * (process.t_max - process.t_min) * torch.rand(
        5, generator=g, dtype=torch.float64
    )
    x0, eps = (torch.randn(5, 3, 2, generator=g, dtype=torch.float64) for _ in range(2))
    x_t = per_sample(process.alpha(t), x0) * x0 + per_sample(process.std(t), x0) * eps
    for kind in get_args(Kind):
        torch.testing.assert_close(
            to_x0(kind, from_x0(kind, x0, x_t, process, t), x_t, process, t), x0, rtol=1e-10, atol=1e-10
        )
    for source, target in product(get_args(Kind), repeat=2):
        value = from_x0(source, x0, x_t, process, t)
        found = convert(source, target, value, x_t, process, t)
        torch.testing.assert_close(found, from_x0(target, x0, x_t, process, t), rtol=1e-9, atol=1e-9)


def test_velocity_is_the_time_derivative_of_the_path_and_score_that_of_the_kernel() -> None:
    process, t = Vp(), torch.tensor([0.3], dtype=torch.float64)
    x0, eps = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([[-1.2]], dtype=torch.float64)

    def path(t: torch.Tensor) -> torch.Tensor:
        return process.alpha(t) * x0 + process.std(t) * eps

    x_t, velocity = torch.func.jvp(path, (t,), (torch.ones_like(t),))
    torch.testing.assert_close(from_x0("velocity", x0, x_t, process, t), velocity, rtol=1e-10, atol=0)
    kernel = torch.distributions.Normal(process.alpha(t) * x0, process.std(t))
    (score,) = torch.autograd.grad(kernel.log_prob(x_t.requires_grad_()).sum(), x_t)
    torch.testing.assert_close(from_x0("score", x0, x_t.detach(), process, t), score, rtol=1e-9, atol=0)


def test_v_outside_variance_preserving_processes_follows_its_definition() -> None:
    process, t = Flow(), torch.tensor([0.4], dtype=torch.float64)
    x0, eps = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    x_t = 0.6 * x0 + 0.4 * eps
    torch.testing.assert_close(from_x0("v", x0, x_t, process, t), 0.6 * eps - 0.4 * x0)


def test_ddim_in_the_original_variable_is_euler_in_the_canonical_one() -> None:
    process = Vp()
    s, t = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    x_s = torch.randn(1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x0 = torch.tanh(x_s)
    eps = from_x0("eps", x0, x_s, process, s)
    ddim = process.alpha(t) * x0 + process.std(t) * eps
    canonical = x_s / process.alpha(s)
    slope = (canonical - x0) / process.sigma(s)
    euler = canonical + (process.sigma(t) - process.sigma(s)) * slope
    torch.testing.assert_close(ddim, process.alpha(t) * euler, rtol=1e-12, atol=0)


def test_unknown_kind_names_the_known() -> None:
    with pytest.raises(UserError, match="did you mean score"):
        to_x0("scor", torch.zeros(1, 1), torch.zeros(1, 1), Vp(), torch.ones(1))  # type: ignore[arg-type]
