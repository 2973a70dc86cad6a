"""What bench_purify_gradients measures: one function a figure."""

from __future__ import annotations

import gc
import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from common import say, seconds
from models import device

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.diffusion.gradients.rollout import Replay
    from gentool.diffusion.purify import Purifier

ENDS = (1e-5, 1e-4, 1e-3, 5e-3)
"""Where the process stops; the released code's is the first."""


def way(name: str) -> Replay | None:
    from gentool.diffusion.gradients.rollout import Replay

    return None if name == "plain" else Replay(name)  # type: ignore[arg-type]


def margins(judge: Callable[[Tensor], Tensor], label: Tensor) -> Callable[[Tensor], Tensor]:
    """(B,) margins of the true class: a loss that does not saturate, as cross-entropy does, and hide errors."""
    import torch

    def score(x: Tensor) -> Tensor:
        logits = judge(x)
        own = logits.gather(1, label[:, None]).squeeze(1)
        rest = logits.scatter(1, label[:, None], -torch.inf).amax(1)
        return own - rest

    return score


def exactness(purifier: Purifier, x: Tensor, score: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Relative distance of replayed gradients from plain ones, {"sde 10": {keep: error}}."""

    from gentool.diffusion.gradients.check import agreement

    found: dict[str, Any] = {}
    for method in ("sde", "ode"):
        for steps in (10, 25, 100):

            def gradient(keep: str, method: str = method, steps: int = steps) -> Tensor:
                one = replace(purifier, method=method, steps=steps, replay=way(keep))  # type: ignore[arg-type]
                return one.vjp(x, range(len(x)), 0, 0, lambda y: slope(score, y))[1]

            plain = gradient("plain")
            row = {keep: agreement(gradient(keep), plain).error for keep in ("all", "sqrt", "log")}
            found[f"{method} {steps}"] = row
            del plain
            gc.collect()
            say(f"replay against plain, {method}, {steps} steps: {row}")
    return found


def slope(score: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """d sum(score) / dy."""
    import torch

    fed = y.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(score(fed).sum(), fed)[0]


def adjoints(purifier: Purifier, x: Tensor, score: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The continuous adjoint against autograd through the same Euler steps: {"sde 1e-05 20": {error, cosine, signs}}.

    In the process's own variable and time, as released; the same Brownian increments both ways.
    """
    import torch

    from gentool.diffusion.gradients.adjoint import continuous_adjoint, diffusion, reverse_drift, solve
    from gentool.diffusion.gradients.check import agreement
    from gentool.diffusion.gradients.rollout import Replay, rollout
    from gentool.diffusion.predictor import Predictor
    from gentool.noise import Noise

    process, t_star = purifier.process, purifier.t_star
    predict = Predictor(
        purifier.denoise,
        sigma_min=process.train_sigma_min,
        sigma_max=process.sigma_max,
        label=labels_of(purifier, x),
    )
    noise = Noise(0, range(len(x)), x.shape[1:], x.device)
    alpha = process.alpha(torch.tensor(t_star, dtype=torch.float64)).item()
    start = alpha * (x + purifier.sigma_star * noise.normal("jump"))
    found: dict[str, Any] = {}
    for method, nu in (("sde", 1.0), ("ode", 0.0)):
        drift, g = reverse_drift(predict, process, nu), diffusion(process, nu)
        for end in ENDS:
            for steps in (20, 100):
                times = torch.linspace(t_star, end, steps + 1, dtype=torch.float64).tolist()
                width = math.sqrt((t_star - end) / steps)

                def dw(i: int, width: float = width) -> Tensor:
                    return width * noise.normal("w", i)

                def step(
                    z: Tensor,
                    i: int,
                    times: Any = times,
                    drift: Any = drift,
                    g: Any = g if nu else None,
                    dw: Any = dw,
                ) -> Tensor:
                    return solve(drift, times[i : i + 2], z, g=g, dw=lambda _: dw(i))

                fed = start.clone().requires_grad_()
                last = rollout(step, steps, fed, Replay())
                a = slope(score, last)
                (exact,) = torch.autograd.grad(last, fed, a)
                ours, _, _ = continuous_adjoint(
                    drift, times, last, a, g=g if nu else None, dw=dw if nu else None
                )
                found[f"{method} {end:g} {steps}"] = asdict(agreement(ours, exact))
        say(
            f"adjoint, {method}: { ({k: round(v['error'], 3) for k, v in found.items() if k.startswith(method)}) }"
        )
    return found


def labels_of(purifier: Purifier, x: Tensor) -> Tensor | None:
    import torch

    return None if purifier.label is None else torch.full((len(x),), purifier.label, device=x.device)


def reversible(purifier: Purifier, x: Tensor, score: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Reversible Heun's gradient from its last state alone, against autograd through its own steps: {"24": error}."""
    import torch

    from gentool.diffusion.gradients.adjoint import diffusion, reverse_drift
    from gentool.diffusion.gradients.check import agreement
    from gentool.diffusion.gradients.reversible import Heun, reversible_heun
    from gentool.diffusion.gradients.rollout import Replay, rollout
    from gentool.diffusion.predictor import Predictor
    from gentool.noise import Noise

    process, found = purifier.process, {}
    predict = Predictor(purifier.denoise, sigma_max=process.sigma_max, label=labels_of(purifier, x))
    noise = Noise(0, range(len(x)), x.shape[1:], x.device)
    alpha = process.alpha(torch.tensor(purifier.t_star, dtype=torch.float64)).item()
    start = alpha * (x + purifier.sigma_star * noise.normal("jump"))
    for steps in (24, 99):
        times = torch.linspace(purifier.t_star, 1e-3, steps + 1, dtype=torch.float64).tolist()
        width = math.sqrt((purifier.t_star - 1e-3) / steps)
        heun = Heun(
            reverse_drift(predict, process, 1.0),
            times,
            diffusion(process, 1.0),
            lambda i, width=width: width * noise.normal("w", i),
        )
        gradients = []
        for solver in (
            lambda z, heun=heun: rollout(heun.forth, heun.steps, (z, z), Replay())[0],
            lambda z, heun=heun: reversible_heun(heun, z),
        ):
            fed = start.clone().requires_grad_()
            out = solver(fed)
            gradients.append(torch.autograd.grad(out, fed, slope(score, out))[0])
        found[str(steps)] = agreement(gradients[1], gradients[0]).error
    say(f"reversible Heun, float32: {found}")
    return found


def memory(
    purifier: Purifier, x: Tensor, counts: Sequence[int], plain_limit: int
) -> dict[str, dict[int, int]]:
    """Bytes held for the gradient at the end of the forward pass: graphs and kept states, {way: {N: bytes}}.

    Distinct storages, the network's own weights left out; on a GPU the allocator's own count of the whole gradient.
    """
    import torch

    found: dict[str, dict[int, int]] = {}
    for keep in ("plain", "checkpoint", "all", "sqrt", "log"):
        found[keep] = {}
        for steps in counts:
            if keep in ("plain", "checkpoint") and steps > plain_limit:
                continue
            one = replace(purifier, steps=steps, replay=None if keep == "checkpoint" else way(keep))
            if keep == "checkpoint":
                one = replace(one, denoise=checkpointed(purifier.denoise))
            found[keep][steps] = held(one, x)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        say(f"bytes held, {keep}: {found[keep]}")
    return found


def checkpointed(denoise: Any) -> Any:
    """torch's own per-step checkpoint around the network: what most people reach for."""
    from torch.utils.checkpoint import checkpoint

    return lambda x, sigma, label: checkpoint(denoise, x, sigma, label, use_reentrant=False)


def held(purifier: Purifier, x: Tensor) -> int:
    import torch

    weights = {p.untyped_storage().data_ptr() for p in purifier_weights(purifier)}
    storages: dict[int, int] = {}

    def note(t: Any) -> Any:
        if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in weights:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    fed = x.clone().requires_grad_()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        purifier(fed, range(len(x)), 0).sum().backward()
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = purifier(fed, range(len(x)), 0)
    if purifier.replay is not None:
        for one in out.grad_fn.next_functions[0][0].kept:  # type: ignore[union-attr, attr-defined]
            for leaf in one.state.leaves:
                note(leaf)
    return sum(storages.values())


def purifier_weights(purifier: Purifier) -> list[Tensor]:
    inner = purifier.denoise
    return list(inner.parameters()) if hasattr(inner, "parameters") else []


def times(purifier: Purifier, x: Tensor) -> dict[str, float]:
    """Seconds of one gradient against plain back-propagation's, at 50 steps; medians of 3 by turns."""

    def once(keep: str) -> float:
        one = replace(purifier, steps=50, replay=way(keep))
        return seconds(lambda: one.vjp(x, range(len(x)), 0, 0, lambda y: y))

    names = ("plain", "all", "sqrt", "log")
    taken = [{name: once(name) for name in names} for _ in range(3)]
    return {name: statistics.median(row[name] / row["plain"] for row in taken) for name in names[1:]}


def search(
    purifier: Purifier, judge: Callable[[Tensor], Tensor], count: int, steps: int = 10
) -> dict[str, Any]:
    """Noise within 0.2 of a start that makes a classifier misread the sample: exact gradient and adjoint, 30 moves.

    The sampler is Euler on the probability flow over x_t and t, from t = 1 to 1e-3; each sample is asked for the
    label it was read as at first.
    """
    import torch

    from gentool.diffusion.gradients.adjoint import continuous_adjoint, reverse_drift, solve
    from gentool.diffusion.predictor import Predictor
    from gentool.noise import Noise
    from gentool.tasks.edit.steer import Steering, climb

    process = purifier.process
    shape = (1, 8, 8)
    z = Noise(1, range(count), shape, device()).normal("prior")
    label = torch.arange(count, device=z.device) % 10
    predict = Predictor(purifier.denoise, sigma_max=process.sigma_max, label=label)
    drift = reverse_drift(predict, process, 0.0)
    grid = torch.linspace(1.0, 1e-3, steps + 1, dtype=torch.float64).tolist()

    class Adjoint(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.end = solve(drift, grid, z)
            return ctx.end.clone()

        @staticmethod
        def backward(ctx: Any, a: Tensor) -> Tensor:
            return continuous_adjoint(drift, grid, ctx.end, a)[0]

    with torch.no_grad():
        first = judge(solve(drift, grid, z)).argmax(1)
    worse = margins(judge, first)
    found: dict[str, Any] = {"start_read_as_asked": float((first == label).double().mean())}
    for name, sample in (("exact", lambda z: solve(drift, grid, z)), ("adjoint", Adjoint.apply)):
        moved = climb(sample, lambda x: -worse(x), z, Steering(30, rate=0.02, bound=0.2))
        with torch.no_grad():
            margin = worse(solve(drift, grid, moved))
        found[name] = {"misread": float((margin < 0).double().mean()), "margin": float(margin.mean())}
    say(f"search of the noise, {steps} steps: {found}")
    return found


def peer(purifier: Purifier, x: Tensor, score: Callable[[Tensor], Tensor]) -> dict[str, Any] | None:
    """torchsde's adjoint on the same SDE, time turned round, against autograd through torchsde's own Euler steps.

    None where it is not installed.
    """
    if importlib.util.find_spec("torchsde") is None:
        say("torchsde is not installed: its adjoint is not measured")
        return None
    import torch
    import torchsde

    from gentool.diffusion.gradients.adjoint import diffusion, reverse_drift
    from gentool.diffusion.gradients.check import agreement
    from gentool.diffusion.predictor import Predictor

    process = purifier.process
    predict = Predictor(purifier.denoise, sigma_max=process.sigma_max, label=labels_of(purifier, x))
    drift, g = reverse_drift(predict, process, 1.0), diffusion(process, 1.0)

    class Turned(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, tau: Tensor, y: Tensor) -> Tensor:
            return -drift(y.view_as(x), 1 - float(tau)).flatten(1)

        def g(self, tau: Tensor, y: Tensor) -> Tensor:
            return torch.full_like(y, g(1 - float(tau)))

    found: dict[str, Any] = {}
    for steps in (20, 100):
        ends = torch.tensor([1 - purifier.t_star, 1 - 1e-5], device=x.device, dtype=torch.float64)
        dt, gradients = float(ends[1] - ends[0]) / steps, []
        for solve in (torchsde.sdeint, torchsde.sdeint_adjoint):
            path = torchsde.BrownianInterval(
                float(ends[0]), float(ends[1]), size=x.flatten(1).shape, entropy=1, device=x.device
            )
            fed = x.clone().requires_grad_()
            more = {"adjoint_params": ()} if solve is torchsde.sdeint_adjoint else {}
            out = solve(Turned(), fed.flatten(1), ends, bm=path, dt=dt, method="euler", **more)[-1].view_as(x)
            gradients.append(torch.autograd.grad(out, fed, slope(score, out))[0])
        found[str(steps)] = agreement(gradients[1], gradients[0]).error
    say(f"torchsde's adjoint: {found}")
    return found
