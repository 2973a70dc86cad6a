"""Models trained and judged inside a benchmark: `gentool train`, one denoiser, one judge."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import say

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from gentool.data import DataSet
    from gentool.diffusion.grids import Grid
    from gentool.metrics.moments import Gaussian
    from gentool.training.denoising import DenoisingModule


def device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trained(recipe: str, overrides: Sequence[str]) -> tuple[DenoisingModule, dict[str, float]]:
    """The averaged weights of a run of `gentool train`, in eval mode on the device, and what it cost."""
    from gentool.tasks.model.load import load_run
    from gentool.tasks.train import train

    with tempfile.TemporaryDirectory() as folder:
        run = train(recipe, overrides, run_dir=Path(folder) / "run")
        module = load_run(run.run)[2].to(device())
    say(f"trained {recipe} for {run.steps} steps in {run.seconds:.0f} s: loss {run.loss:.4g}")
    return module, {"seconds": run.seconds, "steps": run.steps, "loss": run.loss or float("nan")}  # type: ignore[return-value]


def integrated(
    denoise: Any,
    process: Any,
    shape: Sequence[int],
    solver: str,
    grid: Grid,
    labels: Tensor | None,
    seed: int,
) -> tuple[Tensor, float]:
    """uint8 pictures (N, C, H, W) of a denoiser on a grid, 250 at a time, and the network calls a sample.

    Sample i starts from the same noise whatever the solver, the denoiser and the grid.
    """
    import torch

    from gentool.data import to_uint8
    from gentool.diffusion.predictor import Predictor
    from gentool.diffusion.solvers.integrate import integrate
    from gentool.noise import Noise

    count = int(shape[0])
    pictures, calls = [], 0.0
    with torch.no_grad():
        for start in range(0, count, 250):
            rows = range(start, min(start + 250, count))
            noise = Noise(seed, rows, process.state_shape(shape[1:]), device(), torch.float64)
            predict = Predictor(
                denoise,
                sigma_min=getattr(denoise, "sigma_min", 0.0),
                sigma_max=getattr(denoise, "sigma_max", float("inf")),
                label=None if labels is None else labels[rows.start : rows.stop].to(device()),
            )
            x = noise.normal("prior") * process.prior_scale(float(grid.sigma[0]))
            done = integrate(predict, process, solver, grid, x, noise)
            pictures.append(to_uint8(process.data_part(done.x).float()).cpu())
            calls = done.nfe
    return torch.cat(pictures), calls


class Judge:
    """The evaluation's own classifier, trained on the data's training split: features, distances, labels."""

    def __init__(self, data: DataSet) -> None:
        from gentool.metrics.cache import Cache
        from gentool.metrics.features import Workshop, make_extractor
        from gentool.metrics.images import ImageSet

        self._extract = make_extractor(
            "classifier", ImageSet(data, "training"), Workshop(Cache(None), device())
        )
        self.note = self._extract.note
        say(f"judge: {self.note}")

    def moments(self, pictures: Tensor) -> Gaussian:
        """Mean and covariance of the features of uint8 pictures (N, C, H, W)."""
        from gentool.metrics.moments import Moments

        moments = Moments(self._extract.dim).to(self._extract.device)
        for block in pictures.split(500):
            moments.update(self._extract(block, False)[0])
        return moments.compute()

    def distance(self, pictures: Tensor, reference: Gaussian) -> float:
        """Frechet distance of the features of uint8 pictures from a reference's."""
        from gentool.metrics.frechet import frechet_distance

        return frechet_distance(self.moments(pictures), reference)

    def labels(self, pictures: Tensor) -> Tensor:
        """(N,) int64: what uint8 pictures are read as."""
        import torch

        said: list[Any] = [self._extract(block, True)[1] for block in pictures.split(500)]
        return torch.cat(said).argmax(1).cpu()

    def accuracy(self, pictures: Tensor, labels: Tensor) -> float:
        """The share of pictures that are read as their labels."""
        return float((self.labels(pictures) == labels).double().mean())
