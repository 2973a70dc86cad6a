"""Where DP-Sinkhorn's noise goes, and what debiasing is worth, on MNIST at epsilon 10.

`--quick`: a small MLP at 7x7. `--gpu`: the paper's network at 28x28.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Result, Settings, main, say
from models import device, trained

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.data import DataSet

RECIPE = "dp-sinkhorn/mnist-small"
CLIPS = (0.5, 5.0, 15.0)
"""Bounds that the parameters' gradient is tried with; the best one is what images are compared with."""
PAPER = {
    "place": "MNIST 28x28, L2 cost: FID 124.3 with noise on the images' gradient, 218.6 on the parameters'",
    "debias": "MNIST 28x28: FID 61.2 semi-debiased, 88.6 biased, 98.0 fully debiased",
    "cost": "MNIST 28x28, m = 1: FID 54.2 without privacy, 61.2 at epsilon 10",
}


@dataclass(frozen=True)
class Row:
    """One way to train. epsilon None: without noise and clipping. bound: what the gradient is clipped to."""

    epsilon: float | None = 10.0
    perturb: str = "images"
    debias: float = 0.4
    bound: float = 0.5

    @property
    def name(self) -> str:
        if self.epsilon is None:
            return f"no noise, p = {self.debias:g}"
        place = "images" if self.perturb == "images" else f"parameters clipped to {self.bound:g}"
        return f"{place}, p = {self.debias:g}"

    @property
    def overrides(self) -> tuple[str, ...]:
        target = "enabled: false" if self.epsilon is None else f"epsilon: {self.epsilon:g}"
        privacy = f"{{{target}, delta: 1.0e-5, max_grad_norm: {self.bound}, records: 60000}}"
        return f"model.perturb={self.perturb}", f"model.debias={self.debias}", f"privacy={privacy}"


OPEN, IMAGES, BIASED, DEBIASED = Row(None), Row(), Row(debias=0.0), Row(debias=1.0)


@dataclass(frozen=True)
class Scale:
    """count: samples of each training that are judged; full: also the fully debiased loss, which is the paper's
    other end."""

    seeds: int
    count: int
    overrides: tuple[str, ...]
    full: bool = False


QUICK = Scale(3, 10_000, ("trainer.max_steps=2000",))
GPU = Scale(
    1,
    10_000,
    (
        "data={name: mnist, batch_size: 200}",
        "model.network={name: dcgan}",
        "trainer.max_steps=30000",
        "trainer.log_every=500",
        "trainer.checkpoint_every=30000",
        "optimizer.lr=1.0e-4",
        "ema.decay=0.9995",
    ),
    full=True,
)
Found = dict[str, list[dict[str, float]]]
"""Row's name -> figures, one entry a seed."""


class PixelJudge:
    """Frechet distance of raw pixels to the test set, what logistic regression learns, and variety within classes.

    Plain figures that need no network: no choice of features stands between the samples and the verdict.
    """

    def __init__(self, test: DataSet) -> None:
        batch = test.take(range(len(test)))
        self.x, self.label = batch.x, batch.label
        self.real = self._moments(batch.x)

    def figures(self, pictures: Tensor, labels: Tensor) -> dict[str, float]:
        """`fd`, `accuracy` (% of the real test set by a classifier trained on the samples), `variance`."""
        from sklearn.linear_model import LogisticRegression

        from gentool.metrics.frechet import frechet_distance

        learner = LogisticRegression(max_iter=200).fit(_pixels(pictures).numpy(), labels.numpy())
        return {
            "fd": frechet_distance(self._moments(pictures), self.real),
            "accuracy": 100 * float(learner.score(_pixels(self.x).numpy(), self.label.numpy())),
            "variance": variety(pictures, labels),
        }

    def _moments(self, pictures: Tensor) -> Any:
        from gentool.metrics.moments import Moments

        flat = _pixels(pictures)
        moments = Moments(flat.shape[1])
        moments.update(flat)
        return moments.compute()


def _pixels(pictures: Tensor) -> Tensor:
    from gentool.data import to_model

    return to_model(pictures).flatten(1)


def variety(pictures: Tensor, labels: Tensor) -> float:
    """Variance within a class, summed over pixels in [-1, 1], mean over the classes."""
    import torch

    flat = _pixels(pictures)
    return float(torch.stack([flat[labels == k].var(0).sum() for k in labels.unique()]).mean())


def samples(module: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 pictures (count, C, H, W) of every class in turn, and their labels."""
    import torch

    from gentool.data import to_uint8
    from gentool.training.sampling import SampleRequest

    labels, pictures = torch.arange(count) % module.classes, []
    with torch.no_grad():
        for start in range(0, count, 1000):
            rows = range(start, min(start + 1000, count))
            asked = labels[rows.start : rows.stop].to(device())
            request = SampleRequest(seed, rows, asked, module.recipe.sample, device=device())
            pictures.append(to_uint8(module.draw(request).x).cpu())
    return torch.cat(pictures), labels


def measure(scale: Scale, root: Path, seed: int) -> tuple[Found, float, Row]:
    """Trains and judges every row; the variance of real digits; the best of the parameters' bounds.

    The bounds are compared at the first seed; the best is then trained at every seed.
    """
    found: Found = {}
    judge: list[PixelJudge] = []

    def once(row: Row, number: int) -> None:
        overrides = (f"data.root={root}", *row.overrides, f"seed={number}")
        module, cost = trained(RECIPE, (*scale.overrides, *overrides))  # type: ignore[assignment]
        if not judge:
            from gentool.data import open_set

            judge.append(PixelJudge(open_set(module.recipe.data, "test")))
        figures = judge[0].figures(*samples(module, scale.count, number)) | {"seconds": cost["seconds"]}
        found.setdefault(row.name, []).append(figures)
        say(f"{row.name}, seed {number}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    tried = [Row(perturb="parameters", bound=bound) for bound in CLIPS]
    for row in (OPEN, IMAGES, BIASED, *tried, *([DEBIASED] if scale.full else [])):
        once(row, seed)
    best = min(tried, key=lambda row: found[row.name][0]["fd"])
    for number in range(seed + 1, seed + scale.seeds):
        for row in (IMAGES, BIASED, best):
            once(row, number)
    return found, variety(judge[0].x, judge[0].label), best


def middle(found: Found, row: Row, figure: str) -> float:
    return statistics.mean(entry[figure] for entry in found[row.name])


def listed(found: Found, row: Row, figure: str) -> str:
    return ", ".join(f"{entry[figure]:.3g}" for entry in found[row.name])


def claims(found: Found, real: float, best: Row, scale: Scale) -> list[Claim]:
    images, parameters = middle(found, IMAGES, "fd"), middle(found, best, "fd")
    made = [
        Claim(
            "epsilon 10, noise on the images' gradient: Frechet distance at least 25 % below noise on the parameters'",
            PAPER["place"],
            f"{images:.3g} ({listed(found, IMAGES, 'fd')}), {100 * (1 - images / parameters):.0f} % below",
            f"{parameters:.3g} ({listed(found, best, 'fd')}) with the best of the bounds "
            f"{', '.join(f'{c:g}' for c in CLIPS)} for the parameters; same epsilon, steps, network",
            images <= 0.75 * parameters,
        ),
        Claim(
            "and a classifier learns more from its samples",
            "MNIST 28x28, L2 cost: MLP 82.0 % with noise on the images' gradient, 79.9 % on the parameters'",
            f"logistic regression: {middle(found, IMAGES, 'accuracy'):.3g} % ({listed(found, IMAGES, 'accuracy')})",
            f"{middle(found, best, 'accuracy'):.3g} % ({listed(found, best, 'accuracy')})",
            middle(found, IMAGES, "accuracy") > middle(found, best, "accuracy"),
        ),
        Claim(
            "semi-debiasing (p = 0.4) at least doubles the variance within classes of the biased loss",
            "",
            f"{middle(found, IMAGES, 'variance'):.3g} ({listed(found, IMAGES, 'variance')})",
            f"p = 0: {middle(found, BIASED, 'variance'):.3g} ({listed(found, BIASED, 'variance')}); "
            f"real digits: {real:.3g}",
            middle(found, IMAGES, "variance") >= 2 * middle(found, BIASED, "variance"),
        ),
        Claim(
            "and lowers the Frechet distance",
            PAPER["debias"],
            f"{images:.3g} ({listed(found, IMAGES, 'fd')})",
            f"p = 0: {middle(found, BIASED, 'fd'):.3g} ({listed(found, BIASED, 'fd')})",
            images < middle(found, BIASED, "fd"),
        ),
        Claim(
            "privacy has its price: without noise the distance is lower and a classifier learns more",
            PAPER["cost"],
            f"{middle(found, OPEN, 'fd'):.3g}, {middle(found, OPEN, 'accuracy'):.3g} %",
            f"epsilon 10: {images:.3g}, {middle(found, IMAGES, 'accuracy'):.3g} %",
            middle(found, OPEN, "fd") < images
            and middle(found, OPEN, "accuracy") > middle(found, IMAGES, "accuracy"),
        ),
    ]
    if scale.full:
        full = middle(found, DEBIASED, "fd")
        made.append(
            Claim(
                "and semi-debiased is below fully debiased",
                PAPER["debias"],
                f"{images:.3g}",
                f"p = 1: {full:.3g}",
                images < full,
            )
        )
    return made


def run(settings: Settings) -> Result:
    scale = QUICK if settings.quick else GPU
    found, real, best = measure(scale, settings.data_dir.resolve(), settings.seed)
    return Result(
        figures={"rows": found, "real_variance": real, "best_parameter_bound": best.bound},
        claims=claims(found, real, best, scale),
        seeds=tuple(range(settings.seed, settings.seed + scale.seeds)),
        scale=f"{', '.join(scale.overrides)}; {scale.count} samples a training; distances between raw pixels in "
        "[-1, 1] and the 10,000 test digits",
        recipe=RECIPE,
    )


if __name__ == "__main__":
    main("dp_sinkhorn_mnist", run, __doc__)
