"""Training: the base family's step as `gentool train` takes it, against a bare torch loop of the network."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Ratio, Result, Settings, main, ratio_of, say, synchronize

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.recipes.resolve import Resolved

WARM = 10
"""Steps before the clock starts: allocators, threads and caches settle."""


@dataclass(frozen=True)
class Case:
    """A shipped recipe, and how it is run."""

    label: str
    recipe: str
    overrides: tuple[str, ...]
    steps: int
    rounds: int


def cases(settings: Settings) -> list[Case]:
    """Logging stays at its default rate (a row every 50 steps) in both; steps are a multiple of it."""
    root = f"data.root={settings.data_dir}"
    log = "trainer.log_every=50"
    if settings.quick:
        return [
            Case("MNIST U-Net", "edm/mnist-small", (root, log, "data.batch_size=32"), 50, 3),
            Case("quickstart's MLP", "quickstart", (log,), 500, 3),
        ]
    bf16 = "trainer.precision=bf16-mixed"
    return [
        Case("MNIST U-Net", "edm/mnist-small", (root, log, "data.batch_size=512"), 300, 5),
        Case("MNIST U-Net in bf16", "edm/mnist-small", (root, log, "data.batch_size=512", bf16), 300, 5),
        Case("quickstart's MLP", "quickstart", (log,), 1000, 5),
    ]


def resolved(case: Case, seed: int) -> Resolved:
    from gentool import families
    from gentool.recipes.resolve import resolve

    total = case.steps + WARM
    own = (f"trainer.max_steps={total}", f"trainer.checkpoint_every={total}", f"seed={seed}")
    return resolve(case.recipe, (*case.overrides, *own), families.recipe_schema)


def gentool_seconds(case: Case, seed: int) -> float:
    """A step of `gentool train`: Lightning, our callbacks, metrics.csv; not the last checkpoint."""
    from gentool.tasks.train import train

    marks: dict[int, float] = {}

    def mark(step: int, max_steps: int, metrics: dict[str, float]) -> None:
        if step in (WARM, max_steps):
            synchronize()
            marks[step] = time.perf_counter()

    with tempfile.TemporaryDirectory() as name:
        recipe = Path(name) / "recipe.yaml"
        recipe.write_text(resolved(case, seed).text)
        train(str(recipe), run_dir=Path(name) / "run", on_step=mark)
    return (marks[case.steps + WARM] - marks[WARM]) / case.steps


def bare_loop(case: Case, seed: int, fused: bool | None = None) -> Callable[[int], float]:
    """`loop(n)` takes n steps, and gives their mean loss, of what a researcher would write.

    EDM's loss around the same network, torch's AdamW as it comes (or fused, as gentool has it) with the same
    schedule, an EMA, uint8 data in memory that are shuffled epoch by epoch.
    """
    import torch

    from gentool.data import open_set
    from gentool.tasks.model.build import build_module
    from gentool.training.optimizers import LrSchedule

    recipe = resolved(case, seed).recipe
    data = open_set(recipe.data, "train")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = build_module(recipe, data.spec).to(device)
    module.fit_to_data(data)
    network, sigma_data = module.model.network, float(module.model.precond.sigma_data)
    whole = data.take(range(len(data)))
    images, labels = whole.x.to(device), whole.label.to(device)
    config, batch_size = recipe.optimizer, recipe.data.batch_size
    weights = list(network.parameters())
    averages = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(
        weights, config.lr, config.betas, config.eps, config.weight_decay, fused=fused
    )
    schedule = LrSchedule(config, recipe.trainer.max_steps)
    drop, half = recipe.model.label_dropout, recipe.trainer.precision == "bf16-mixed"
    state: dict[str, Any] = {"step": 0, "order": torch.empty(0, dtype=torch.int64)}

    def step(number: int) -> Tensor:
        if len(state["order"]) < batch_size:
            state["order"] = torch.cat([state["order"], torch.randperm(len(images))])
        rows, state["order"] = state["order"][:batch_size].to(device), state["order"][batch_size:]
        x0 = images[rows].float() / 127.5 - 1
        kept = torch.rand(batch_size, device=device) >= drop
        label = torch.where(kept, labels[rows], data.spec.classes)
        sigma = (torch.randn(batch_size, 1, 1, 1, device=device) * 1.2 - 1.2).exp()
        x = x0 + sigma * torch.randn_like(x0)
        total = sigma**2 + sigma_data**2
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            out = network(x * total.rsqrt(), sigma.flatten().log() / 4, label)
        denoised = sigma_data**2 / total * x + sigma * sigma_data * total.rsqrt() * out
        loss = (total / (sigma * sigma_data) ** 2 * (denoised - x0) ** 2).mean()
        optimizer.param_groups[0]["lr"] = schedule(number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        beta = min(0.999, (2 + number) / (11 + number))
        torch._foreach_lerp_(averages, [p.detach() for p in weights], 1 - beta)
        return loss.detach()

    def loop(count: int) -> float:
        losses = [step(number) for number in range(state["step"], state["step"] + count)]
        state["step"] += count
        return float(torch.stack(losses).mean())

    return loop


def bare_seconds(case: Case, seed: int, fused: bool | None = None) -> float:
    loop = bare_loop(case, seed, fused)
    loop(WARM)
    synchronize()
    started = time.perf_counter()
    loop(case.steps)
    synchronize()
    return (time.perf_counter() - started) / case.steps


def compare(case: Case, seed: int) -> tuple[Ratio, Ratio]:
    """Ours against the bare loop, and against it with our optimiser's fused step.

    Alternating runs; who goes first alternates too, so that a machine that slows down favours none.
    """
    rows = []
    for number in range(case.rounds):
        runs = [
            lambda: gentool_seconds(case, seed),
            lambda: bare_seconds(case, seed),
            lambda: bare_seconds(case, seed, fused=True),
        ]
        order = [(number + k) % 3 for k in range(3)]
        found = {which: runs[which]() for which in order}
        rows.append((found[0], found[1], found[2]))
        say(
            f"{case.label}: "
            + ", ".join(f"{x * 1e3:.2f}" for x in rows[-1])
            + " ms (ours, bare, bare and fused)"
        )
    return ratio_of([row[:2] for row in rows]), ratio_of([(row[0], row[2]) for row in rows])


def study(chosen: list[Case], seed: int) -> Result:
    figures, claims = {}, []
    for case in chosen:
        found, fused = compare(case, seed)
        extra = (fused.ours - fused.theirs) * 1e3
        figures[case.label] = {
            "recipe": " ".join((case.recipe, *(o for o in case.overrides if not o.startswith("data.root")))),
            "ms_per_step": found.ours * 1e3,
            "ms_per_step_bare": found.theirs * 1e3,
            "ratio": found.ratio,
            "ratio_range": [found.low, found.high],
            "ms_per_step_bare_fused": fused.theirs * 1e3,
            "ratio_to_fused": fused.ratio,
            "ratio_to_fused_range": [fused.low, fused.high],
            "ms_more_per_step_than_fused": extra,
        }
        claims.append(
            Claim(
                f"{case.label}: a training step is at most 5 % slower than a bare torch loop's",
                "",
                f"{found.ratio:.3f} times ({found.ours * 1e3:.2f} ms against {found.theirs * 1e3:.2f} ms; "
                f"runs {found.low:.3f} to {found.high:.3f}); "
                f"{fused.ratio:.3f} times one with a fused optimiser, as ours",
                "a plain torch loop with torch.optim.AdamW: same network, loss, EMA and data, alternating",
                found.ratio <= 1.05,
                f"against the fused loop, {extra:.2f} ms more: Lightning's loop, generators keyed by the step, "
                "the check of losses",
            )
        )
    return Result(
        figures=figures,
        claims=claims,
        seeds=(seed,),
        scale="; ".join(f"{c.label}: {c.rounds} rounds of {c.steps} steps after {WARM}" for c in chosen),
        recipe=", ".join(case.recipe for case in chosen),
    )


def run(settings: Settings) -> Result:
    return study(cases(settings), settings.seed)


if __name__ == "__main__":
    main("training", run, __doc__)
