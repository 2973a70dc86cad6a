"""Sampling: time outside the network for every solver; images per second against diffusers' schedulers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from common import Claim, Ratio, Result, Settings, main, ratio_of, say, seconds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gentool.families.edm.module import EdmModule

BATCH, LIMIT = 64, 0.03
PAIRS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "ddim": ("ddim", "ddim", "DDIMScheduler", {"clip_sample": False}),
    "euler": ("ddim", "euler_discrete", "EulerDiscreteScheduler", {}),
    "heun": ("edm", "heun_discrete", "HeunDiscreteScheduler", {}),
    "dpm++ 2m": (
        "dpmpp-2m",
        "dpmsolver_multistep",
        "DPMSolverMultistepScheduler",
        {"final_sigmas_type": "zero"},
    ),
    "unipc": ("unipc", "unipc_multistep", "UniPCMultistepScheduler", {"final_sigmas_type": "zero"}),
}
"""What is compared: our solver; diffusers' module, class and options, on the same levels (`trailing`)."""


@dataclass(frozen=True)
class Scale:
    """channels, mult and blocks make the network; size: side of the pictures; steps: of every grid."""

    channels: int
    mult: str
    blocks: int
    size: int
    steps: int
    rounds: int


QUICK = Scale(channels=24, mult="[1, 2, 2]", blocks=2, size=16, steps=5, rounds=9)
GPU = Scale(channels=24, mult="[1, 2, 2]", blocks=2, size=32, steps=18, rounds=5)


def build(scale: Scale, process: str, device: torch.device) -> EdmModule:
    """An untrained class-conditional U-Net for RGB pictures; layers that start at zero get weights."""
    from torch import nn

    from gentool import families
    from gentool.data import DataSpec
    from gentool.recipes.resolve import resolve
    from gentool.tasks.model.build import build_module

    overrides = (
        "data={name: cifar10}",
        f"model.network={{name: song-unet, channels: {scale.channels}, mult: {scale.mult}, "
        f"blocks: {scale.blocks}, attention: [{scale.size // 2}]}}",
        f"model.process={{name: {process}}}",
    )
    recipe = resolve("edm/mnist-small", overrides, families.recipe_schema).recipe
    spec = DataSpec("image", (3, scale.size, scale.size), 10, tuple("0123456789"))
    module = build_module(recipe, spec)
    module.assume_data()
    for parameter in module.model.network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return module.to(device).eval().requires_grad_(False)  # type: ignore[return-value]


class Stopwatch:
    """Adds up the seconds inside a network's forward."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.inside, self.calls = 0.0, 0
        self._network, self._forward = network, network.forward
        network.forward = self._timed  # type: ignore[method-assign]

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        found: list[Any] = []
        self.inside += seconds(lambda: found.append(self._forward(*args, **kwargs)))
        return found[0]

    def share_outside(self, work: Callable[[], Any]) -> tuple[float, float]:
        """(share of the time of `work` outside the network, milliseconds a network call)."""
        self.inside, self.calls = 0.0, 0
        total = seconds(work)
        return 1 - self.inside / total, (total - self.inside) / self.calls * 1e3

    def remove(self) -> None:
        self._network.forward = self._forward  # type: ignore[method-assign]


def draw(module: EdmModule, solver: str, steps: int, device: torch.device, grid: str | None = None) -> Tensor:
    """One batch as `gentool sample` draws it: noise, grid and plan included.

    Solvers that choose their own steps get a tolerance at which they take a few, too.
    """
    import torch

    from gentool.diffusion.solvers.catalog import SOLVERS
    from gentool.recipes.schema import Sample
    from gentool.training.sampling import SampleRequest

    options = {"atol": 0.5, "rtol": 0.5} if "adaptive" in SOLVERS.get(solver).needs else {}
    labels = torch.arange(BATCH, device=device) % 10
    settings = Sample(solver=solver, steps=steps, grid=grid, options=options)
    request = SampleRequest(0, range(BATCH), labels, settings, device=device)
    with torch.no_grad():
        return module.draw(request).x


def overheads(scale: Scale, device: torch.device) -> dict[str, dict[str, Any]]:
    """Time outside the network for every solver that a plain denoiser can use: medians over the rounds."""
    from gentool.diffusion.solvers.catalog import SOLVERS
    from gentool.tasks.model.load import ready

    module = ready(build(scale, "edm", device))
    watch = Stopwatch(module.model.network)
    found = {}
    for name in (name for name, reason in module.usable_solvers().items() if reason is None):
        draw(module, name, 1, device)
        runs = [
            watch.share_outside(lambda n=name: draw(module, n, scale.steps, device))
            for _ in range(scale.rounds)
        ]
        shares, milliseconds = (statistics.median(side) for side in zip(*runs))
        found[name] = {
            "share_outside": shares,
            "ms_outside_per_call": milliseconds,
            "calls": watch.calls,
            "stochastic": SOLVERS.get(name).stochastic,
        }
        say(f"{name}: {shares:.2%} outside the network, {milliseconds:.2f} ms a call, {watch.calls} calls")
    return found


def their_loop(module: EdmModule, pair: str, scale: Scale, device: torch.device) -> Callable[..., Tensor]:
    """diffusers' scheduler around the same network: the loop of its pipelines, without their progress bar.

    It draws its own noise, unless (B, C, H, W) is handed to it.
    """
    import torch

    _, file, name, options = PAIRS[pair]
    # Imported one by one: the package's own lazy exports import far more.
    cls = getattr(import_module(f"diffusers.schedulers.scheduling_{file}"), name)
    scheduler = cls(1000, 1e-4, 0.02, "linear", timestep_spacing="trailing", **options)
    network, labels = module.model.network, torch.arange(BATCH, device=device) % 10
    generator = torch.Generator(device)

    @torch.no_grad()
    def loop(noise: Tensor | None = None) -> Tensor:
        scheduler.set_timesteps(scale.steps, device=device)
        if noise is None:
            shape = (BATCH, 3, scale.size, scale.size)
            noise = torch.randn(shape, generator=generator.manual_seed(0), device=device)
        x = noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            eps = network(scheduler.scale_model_input(x, t), t.float().expand(BATCH), labels)
            x = scheduler.step(eps, t, x).prev_sample
        return x

    return loop


def against_diffusers(scale: Scale, device: torch.device) -> dict[str, dict[str, Any]]:
    """Images per second of both loops, alternating, and the time each spends outside the network.

    The weights are the same; ours lie in memory as `gentool sample` lays them.
    """
    from gentool.tasks.model.load import ready

    module = build(scale, "ddpm", device)
    laid = ready(deepcopy(module))
    found = {}
    for pair, (solver, *_) in PAIRS.items():
        theirs = their_loop(module, pair, scale, device)

        def ours(solver: str = solver) -> Tensor:
            return draw(laid, solver, scale.steps, device, grid="trailing")

        outside, calls = {}, {}
        for side, loop, network in (("ours", ours, laid), ("theirs", theirs, module)):
            watch = Stopwatch(network.model.network)
            outside[side] = statistics.median(watch.share_outside(loop)[1] for _ in range(scale.rounds))
            calls[side] = watch.calls
            watch.remove()
        if calls["ours"] != calls["theirs"]:
            raise AssertionError(f"{pair}: {calls} network calls cannot be compared")
        rate = ratio_of([(BATCH / seconds(ours), BATCH / seconds(theirs)) for _ in range(2 * scale.rounds)])
        found[pair] = {
            "images_per_second": rate.ours,
            "images_per_second_diffusers": rate.theirs,
            "ratio": rate.ratio,
            "ratio_range": [rate.low, rate.high],
            "ms_outside_per_call": outside["ours"],
            "ms_outside_per_call_diffusers": outside["theirs"],
            "calls": calls["ours"],
        }
    return found


def share_claim(kind: str, rows: dict[str, dict[str, Any]]) -> Claim:
    over = {name: row for name, row in rows.items() if row["share_outside"] > LIMIT}
    worst = max(rows, key=lambda name: rows[name]["share_outside"])
    listed = ", ".join(f"{name} {row['share_outside']:.1%}" for name, row in over.items())
    return Claim(
        f"every {kind} solver spends at most 3 % of its time outside the network ({len(rows)} solvers)",
        "",
        f"median {statistics.median(r['share_outside'] for r in rows.values()):.2%}, "
        f"worst {rows[worst]['share_outside']:.2%} ({worst})",
        "the same run's total",
        not over,
        f"over the limit: {listed}" if over else "",
    )


def rate_claim(pair: str, row: dict[str, Any], rate: Ratio) -> Claim:
    """Holds unless we are slower by more than the runs differ among themselves."""
    return Claim(
        f"{pair}: images per second at least those of diffusers",
        "",
        f"{rate.ratio:.3f} times (runs {rate.low:.3f} to {rate.high:.3f}); outside the network "
        f"{row['ms_outside_per_call']:.2f} ms a call against {row['ms_outside_per_call_diffusers']:.2f}",
        f"diffusers' {PAIRS[pair][2]}, same network, {row['calls']} calls, alternating",
        rate.ratio >= 1
        or (rate.high >= 1 and row["ms_outside_per_call"] <= row["ms_outside_per_call_diffusers"]),
    )


def study(scale: Scale) -> Result:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parameters = sum(p.numel() for p in build(scale, "edm", device).model.network.parameters())
    solvers = overheads(scale, device)
    rates = against_diffusers(scale, device)
    quiet = {name: row for name, row in solvers.items() if not row["stochastic"]}
    noisy = {name: row for name, row in solvers.items() if row["stochastic"]}
    claims = [share_claim("deterministic", quiet), share_claim("stochastic", noisy)]
    for pair, row in rates.items():
        low, high = row["ratio_range"]
        rate = Ratio(row["images_per_second"], row["images_per_second_diffusers"], row["ratio"], low, high)
        claims.append(rate_claim(pair, row, rate))
    return Result(
        figures={
            "parameters": parameters,
            "diffusers": version("diffusers"),
            "outside_the_network": solvers,
            "against_diffusers": rates,
        },
        claims=claims,
        scale=f"U-Net of {parameters / 1e6:.2f} M parameters, {scale.size}x{scale.size} RGB, batch {BATCH}, "
        f"{scale.steps} steps, medians of {scale.rounds} runs",
    )


def run(settings: Settings) -> Result:
    return study(QUICK if settings.quick else GPU)


if __name__ == "__main__":
    main("sampling", run, __doc__)
