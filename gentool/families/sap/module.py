"""Shape As Points: a noisy cloud to points with normals whose Poisson solid is the shape's (2106.03452)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gentool.data import Batch, DataSet, DataSpec
from gentool.errors import UserError
from gentool.families.sap.config import SapModel, SapRecipe
from gentool.networks.local_points import GridUNet, LocalDecoder, LocalPointNet
from gentool.noise import Noise
from gentool.points.meshing import MARGIN
from gentool.points.poisson import indicator
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

    def examples(self, batch: Batch) -> Examples:
        """Dense points with normals in the unit cube, and the noisy few of them that the network reads."""
        config, dense = self.recipe.model, unit_cube(batch.x.to(self.device))
        count, size = len(dense), dense.shape[1]
        keys = self.global_draw(count, lambda n: torch.rand(n, size, generator=self.rng, device=self.device))
        few = min(config.points, size)
        noise = self.global_draw(
            count, lambda n: torch.randn(n, few, 3, generator=self.rng, device=self.device)
        )
        return {"dense": dense, "read": read_points(dense, keys, few) + config.noise * noise}

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


def unit_cube(dense: Tensor) -> Tensor:
    """Clouds with normals (B, M, 6), each shifted and scaled into the unit cube by its box, as meshes are made."""
    points = dense[..., :3]
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    side = MARGIN * (high - low).amax(2, keepdim=True)
    return torch.cat([(points - (low + high) / 2) / side + 0.5, dense[..., 3:]], 2)


def read_points(dense: Tensor, keys: Tensor, count: int, values: slice = slice(0, 3)) -> Tensor:
    """(B, count, 3) of points (B, M, 6): those with the smallest keys (B, M), a choice without repeats."""
    chosen = keys.topk(count, largest=False).indices
    return dense[..., values].gather(1, chosen.unsqueeze(2).expand(-1, -1, 3))
