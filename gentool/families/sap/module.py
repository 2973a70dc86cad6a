"""Shape As Points: a noisy cloud to points with normals whose Poisson solid is the shape's (2106.03452)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec
from gentool.errors import UserError
from gentool.families.sap.config import Reads, SapModel, SapRecipe
from gentool.networks.local_points import GridUNet, LocalDecoder, LocalPointNet
from gentool.noise import Noise
from gentool.points.meshing import MARGIN
from gentool.points.poisson import indicator
from gentool.runs.samples import read_samples
from gentool.training.module import Examples, GenModule

BATCH = 16


class Orienter(nn.Module):
    """Clouds (B, 3, N) in the unit cube to points and their normals, (B, 3, K N) each; normals have any length."""

    def __init__(self, config: SapModel) -> None:
        super().__init__()
        self.count, self.scale = config.offsets, config.offset_scale
        self.encoder = LocalPointNet(config.width, config.blocks, config.grid)
        self.unet = GridUNet(config.width, config.levels)
        self.move = LocalDecoder(config.width, config.blocks, 3 * config.offsets)
        self.normal = LocalDecoder(config.width, config.blocks, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.unet(self.encoder(x))
        moves = self.move(x, grid).unflatten(1, (3, self.count)).flatten(2)
        points = x.repeat(1, 1, self.count) + self.scale * moves
        return points, self.normal(points, grid)


class SapModule(GenModule):
    """Trains on clouds with normals: the solid of the network's points against the one of all given points."""

    draws_samples = False
    no_samples = "a sap run draws no samples: gentool mesh CLOUDS --mesher RUN makes meshes by it"
    recipe: SapRecipe
    model: Orienter

    def __init__(self, recipe: SapRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        if spec.kind != "points" or spec.shape[-1] != 6:
            raise UserError(
                f"the sap family reads clouds with normals (points, 6); {recipe.data.name} has {spec.shape} "
                f"{spec.kind} data: say data.normals=true"
            )
        self.model = Orienter(recipe.model)
        self._clouds: Tensor | None = None

    def fit_to_data(self, dataset: DataSet) -> None:
        """Counts the clouds to read.

        Raises:
            UserError: not `each` of them for each example, or no clouds. CorruptError: they cannot be read.
        """
        if (reads := self.recipe.model.reads) is None:
            return
        if (found := len(self.clouds(reads))) != reads.each * len(dataset):
            raise UserError(
                f"{reads.path} holds {found} clouds; expected {reads.each * len(dataset)}, {reads.each} (each) for "
                f"each of {len(dataset)} training examples",
                "model.reads.path",
            )

    def clouds(self, reads: Reads) -> Tensor:
        """(N each, P, 3) the clouds of the file, read once; raises as `fit_to_data`."""
        if self._clouds is None:
            found = read_samples(reads.path)
            if found.kind != "points":
                raise UserError(
                    f"{reads.path} holds samples of kind {found.kind}, not clouds", "model.reads.path"
                )
            self._clouds = torch.from_numpy(found.array)
        return self._clouds

    def readable(self, batch: Batch) -> Tensor:
        """(B, P, 3 or more) what the network may read of each example, in the example's unit cube."""
        x, reads = batch.x.to(self.device), self.recipe.model.reads
        if reads is None:
            return unit_cube(x)
        u = self.global_draw(len(x), lambda n: torch.rand(n, generator=self.rng, device=self.device))
        row = batch.index.to(self.device) * reads.each + (u * reads.each).long().clamp(max=reads.each - 1)
        middle, side = cube(x)
        return (self.clouds(reads)[row.cpu()].to(self.device) - middle) / side + 0.5

    def examples(self, batch: Batch) -> Examples:
        """Dense points with normals in the unit cube, and the noisy few points that the network reads."""
        config, dense, source = self.recipe.model, unit_cube(batch.x.to(self.device)), self.readable(batch)
        count, size = source.shape[:2]
        keys = self.global_draw(count, lambda n: torch.rand(n, size, generator=self.rng, device=self.device))
        few = min(config.points, size)
        noise = self.global_draw(
            count, lambda n: torch.randn(n, few, 3, generator=self.rng, device=self.device)
        )
        return {"dense": dense, "read": read_points(source, keys, few) + config.noise * noise}

    def losses(self, examples: Examples) -> Tensor:
        """(B,) mean squared differences of tanh of the two indicators."""
        made, wanted = self.solids(examples["read"], examples["dense"])
        return (made.tanh() - wanted.tanh()).square().flatten(1).mean(1)

    def solids(self, read: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Indicators (B, r, r, r) of what the network makes of read points (B, n, 3), and of dense ones (B, m, 6)."""
        config = self.recipe.model
        points, normals = self.model(read.mT)
        made = indicator(points.mT.float(), normals.mT.float(), config.resolution, config.sigma)
        return made, indicator(dense[..., :3], dense[..., 3:], config.resolution, config.target_sigma)

    @torch.no_grad()
    def oriented(self, cloud: Tensor) -> tuple[Tensor, Tensor]:
        """A cloud (N, 3) in the unit cube to points and outward normals (K N, 3) (`points.meshing.Orient`)."""
        points, normals = self.model(cloud.T[None])
        return points[0].T, normals[0].T

    @torch.no_grad()
    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """`iou`: shared over joint volume of the two solids; `indicator-mse`: the loss; `facing`: mean cosine between
        predicted and true normals at the points read, taken at the nearest given point."""
        totals = torch.zeros(3, dtype=torch.float64)
        for start in range(0, len(held_out), BATCH):
            indices = list(range(start, min(start + BATCH, len(held_out))))
            dense = unit_cube(held_out.take(indices).x.to(self.device))
            few = min(self.recipe.model.points, dense.shape[1])
            keys = Noise(seed, indices, dense.shape[1:2], self.device).normal("chosen")
            noise = Noise(seed, indices, (few, 3), self.device).normal("noise")
            read = read_points(dense, keys, few)
            moved = read + self.recipe.model.noise * noise
            made, wanted = self.solids(moved, dense)
            inside, truly = (made < 0).flatten(1), (wanted < 0).flatten(1)
            iou = (inside & truly).sum(1) / (inside | truly).sum(1).clamp_min(1)
            loss = (made.tanh() - wanted.tanh()).square().flatten(1).mean(1)
            normals = self.model.normal(moved.mT, self.model.unet(self.model.encoder(moved.mT))).mT
            true = read_points(dense, keys, few, slice(3, 6))
            facing = torch.cosine_similarity(normals, true, dim=2).mean(1)
            totals += torch.stack([v.double().sum() for v in (iou, loss, facing)]).cpu()
            if report is not None:
                report(indices[-1] + 1, len(held_out))
        return dict(zip(("iou", "indicator-mse", "facing"), (totals / len(held_out)).tolist()))

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.unet]


def cube(dense: Tensor) -> tuple[Tensor, Tensor]:
    """The middle (B, 1, 3) of the box of clouds (B, M, 3 or more), and the unit cube's side (B, 1, 1) around it."""
    low, high = dense[..., :3].amin(1, keepdim=True), dense[..., :3].amax(1, keepdim=True)
    return (low + high) / 2, MARGIN * (high - low).amax(2, keepdim=True)


def unit_cube(dense: Tensor) -> Tensor:
    """Clouds with normals (B, M, 6), each shifted and scaled into the unit cube by its box, as meshes are made."""
    middle, side = cube(dense)
    return torch.cat([(dense[..., :3] - middle) / side + 0.5, dense[..., 3:]], 2)


def read_points(dense: Tensor, keys: Tensor, count: int, values: slice = slice(0, 3)) -> Tensor:
    """(B, count, 3) of points (B, M, C): those with the smallest keys (B, M), a choice without repeats."""
    chosen = keys.topk(count, largest=False).indices
    return dense[..., values].gather(1, chosen.unsqueeze(2).expand(-1, -1, 3))
