"""gentool edit --method steer: the initial noise moved along a classifier's gradient, through the whole sampler.

Source: AdjointDPM (2307.10711), which asks for d score / d x_T by a continuous adjoint; here it is the exact gradient
of the sampler that draws the pictures, by replay (docs/gradients.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.data import to_uint8
from gentool.diffusion.gradients.check import Agreement, agreement, require
from gentool.diffusion.gradients.rollout import Replay
from gentool.errors import UserError
from gentool.recipes.schema import Sample
from gentool.runs.atomic import check_writable
from gentool.runs.samples import check_output, write_samples
from gentool.tasks.model.labels import in_turn, label_cycle
from gentool.tasks.model.load import best_device, load_run, origin
from gentool.tasks.pictures.readings import load_judge
from gentool.tasks.pictures.write import write_panel
from gentool.training.denoising import DenoisingModule
from gentool.training.module import GenModule
from gentool.training.sampling import SampleRequest
from gentool.training.watching import Report, Say, unreported, unsaid

Score = Callable[[Tensor], Tensor]
"""Pictures (B, C, H, W) in [-1, 1] -> (B,), each of its own picture; differentiable."""
TEST_STEPS = 4


@dataclass(frozen=True)
class Steering:
    """Where to go and how.

    Attributes:
        iterations: gradients taken.
        rate: length of each move, as a share of the norm of the noise it starts from (the paper: about 0.01/sqrt(d)).
        bound: how far any value of the noise may end from where it began, in standard deviations; None: anywhere.
        keep: as in `Replay`.
    """

    iterations: int = 20
    rate: float = 0.05
    bound: float | None = None
    keep: str | int = "sqrt"

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.rate > 0 or not (self.bound is None or self.bound > 0):
            raise UserError(
                f"iterations, rate and bound must be positive, not {self.iterations}, {self.rate:g} and {self.bound}"
            )


@dataclass(frozen=True)
class Steered:
    """Log probabilities and readings of each picture before and after, and where the pictures are.

    `nfe`: network calls of one draw; a gradient takes twice as many and, with few states kept, more.
    """

    path: Path
    panel: Path
    count: int
    label: int
    seed: int
    before: list[float]
    after: list[float]
    read_before: list[int]
    read_after: list[int]
    gradient: str
    test: Agreement
    nfe: float
    seconds: float
    settings: dict[str, Any]

    def document(self) -> dict[str, Any]:
        """What `gentool edit --json` prints."""
        return {
            "path": str(self.path),
            "panel": str(self.panel),
            "count": self.count,
            "method": "steer",
            "label": self.label,
            "seed": self.seed,
            "log_prob": {"before": self.before, "after": self.after},
            "read": {"before": self.read_before, "after": self.read_after},
            "gradient": {"method": self.gradient, "self_test_error": self.test.error},
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
            **self.settings,
        }


def climb(sample: Callable[[Tensor], Tensor], score: Score, z: Tensor, how: Steering) -> Tensor:
    """The noise (B, ...) after `how.iterations` moves up the score of `sample(noise)`.

    Each sample moves by itself: z += rate |z_0| g / |g|, then into the bound around z_0.

    Raises:
        UserError: the score does not depend on the noise: its gradient is zero for every sample.
    """
    start = z.detach().clone()  # a copy: the bound must hold around where the search began
    length = how.rate * _norm(start)
    z = start.clone()
    for _ in range(how.iterations):
        fed = z.detach().requires_grad_()
        value = score(sample(fed)).sum()
        found = torch.autograd.grad(value, fed)[0] if value.requires_grad else torch.zeros_like(fed)
        norm = _norm(found)
        if not bool((norm > 0).any()):
            raise UserError(
                "the gradient is identically zero: the score does not depend on the initial noise"
            )
        z = fed.detach() + length * found / norm.clamp(min=1e-30)
        if how.bound is not None:
            z = torch.clamp(z, start - how.bound, start + how.bound)
    return z


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.dim() - 1))


def steer(
    path: Path | str,
    *,
    classifier: str,
    label: str,
    count: int = 16,
    condition: str | None = None,
    seed: int | None = None,
    out: Path | None = None,
    how: Steering = Steering(),
    changes: Sequence[str] = (),
    batch_size: int = 16,
    report: Report = unreported,
    say: Say = unsaid,
) -> Steered:
    """Draws `count` samples, and moves the noise they start from until a classifier reads them as `label`.

    Args:
        classifier: a run of a classifier of pictures.
        label: one of its classes, by number or name.
        condition: the model's own labels, as `gentool sample --label`.
        changes: of the recipe's `sample:` block, `KEY=VALUE`.

    Raises:
        UserError: the run is no denoiser of pictures, its solver chooses its steps, or a class is unknown.
        GentoolError: replay is not plain back-propagation on this model.
    """
    started = time.perf_counter()
    device = best_device()
    run, resolved, module = load_run(path, [f"sample.{change}" for change in changes])
    module.to(device)
    settings, family = resolved.recipe.sample, resolved.recipe.family
    if not isinstance(module, DenoisingModule) or module.model.process.state_parts != 1:
        raise UserError(
            f"a run of the family {family} does not start from one noise alone: steer a diffusion run"
        )
    if module.spec.kind != "image":
        raise UserError(f"a classifier reads pictures; this model makes {module.spec.kind} data")
    if count < 1:
        raise UserError(f"--sample must be at least 1, not {count}")
    seed = resolved.recipe.seed if seed is None else seed
    judge_run, judging, judge = load_judge(classifier, module.spec.shape, device)
    target = _target(label, judging)
    labels = label_cycle(condition, module, None)
    for line in module.check_request(settings):
        say(line)
    out = out or run.samples / f"steered-{target}-seed{seed}-n{count}.h5"
    check_output(out, "image")
    check_writable(out.absolute().parent)

    def score(x: Tensor) -> Tensor:
        return judge.logits(x).log_softmax(1)[:, target]

    replay = Replay(how.keep)  # type: ignore[arg-type]  # checked there
    test = self_test(module, settings, labels, seed, device, score, replay)
    say(
        f"gradients: exact replay; against plain back-propagation over {TEST_STEPS} steps: {test.error:.1g} apart"
    )
    found: list[tuple[Tensor, Tensor]] = []
    calls = 0.0
    for first in range(0, count, batch_size):
        rows = range(first, min(first + batch_size, count))
        request = request_for(module, settings, labels, rows, seed, device)
        z = request.noise(module.spec.shape).normal("prior")
        with torch.no_grad():
            old = module.draw(replace(request, start=z))

        def sample(z: Tensor, request: SampleRequest = request) -> Tensor:
            return module.draw(replace(request, start=z, replay=replay)).x

        moved = climb(sample, score, z, how)
        with torch.no_grad():  # the last noise is judged, not the one before its move
            new = module.draw(replace(request, start=moved))
        calls += len(rows) * old.nfe
        found.append((old.x.cpu(), new.x.cpu()))
        report(rows.stop, count, {})
    before, after = (torch.cat(side) for side in zip(*found))
    with torch.no_grad():
        logs = [
            torch.cat([judge.logits(part.to(device)).log_softmax(1).cpu() for part in x.split(256)])
            for x in (before, after)
        ]
    chosen = {"iterations": how.iterations, "rate": how.rate, "bound": how.bound, "solver": settings.solver}
    chosen |= {"steps": settings.steps, "classifier": judge_run.path.name}
    provenance = {
        **origin(run, resolved),
        "edit": {"method": "steer", "label": target, "seed": seed, **chosen},
    }
    old_pixels, new_pixels = (to_uint8(x).permute(0, 2, 3, 1).numpy() for x in (before, after))
    write_samples(out, new_pixels, None, provenance)
    panel = write_panel(out, old_pixels, new_pixels)
    return Steered(
        path=out,
        panel=panel,
        count=count,
        label=target,
        seed=seed,
        before=logs[0][:, target].tolist(),
        after=logs[1][:, target].tolist(),
        read_before=logs[0].argmax(1).tolist(),
        read_after=logs[1].argmax(1).tolist(),
        gradient=f"exact-replay(keep={how.keep})",
        test=test,
        nfe=calls / count,
        seconds=time.perf_counter() - started,
        settings=chosen,
    )


def request_for(
    module: GenModule,
    settings: Sample,
    labels: tuple[int, ...] | None,
    rows: range,
    seed: int,
    device: torch.device,
) -> SampleRequest:
    """The request for these samples, as `gentool sample` would make it."""
    own = None if labels is None else in_turn(labels, rows, device)
    return SampleRequest(seed=seed, indices=rows, labels=own, settings=settings, device=device)


def self_test(
    module: GenModule,
    settings: Sample,
    labels: tuple[int, ...] | None,
    seed: int,
    device: torch.device,
    score: Score,
    replay: Replay,
) -> Agreement:
    """Replay against plain back-propagation, one sample of a few steps of the user's own sampler.

    Raises:
        GentoolError: they differ.
    """
    short = settings.model_copy(update={"steps": min(TEST_STEPS, settings.steps)})
    request = request_for(module, short, labels, range(1), seed, device)
    z = request.noise(module.spec.shape).normal("prior").requires_grad_()

    def gradient(how: Replay | None) -> Tensor:
        return torch.autograd.grad(score(module.draw(replace(request, start=z, replay=how)).x).sum(), z)[0]

    return require(agreement(gradient(replay), gradient(None)), z.dtype)


def _target(label: str, judging: GenModule) -> int:
    labels = label_cycle(label, judging, None)
    if labels is None or len(labels) != 1:
        raise UserError(f"--label {label}: steering goes to one class")
    return labels[0]
