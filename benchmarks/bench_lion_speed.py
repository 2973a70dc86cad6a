"""Speed of LION at the paper's size: encode, draw by 25 steps, decode; and what farthest-point sampling takes of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from common import Claim, Result, Settings, main, say, seconds
from models import device

POINTS, STEPS = 2048, 25
RECIPE = "lion/airplane-paper"


@dataclass(frozen=True)
class Scale:
    """batch: shapes at once; rounds: times the whole is taken; searches: pairs of timed searches."""

    batch: int
    rounds: int
    searches: int


QUICK, GPU = Scale(1, 1, 7), Scale(16, 5, 20)


def searched_by_level(x: Any, counts: list[int]) -> Any:
    """Centres of every level by a search of its own, the way published code does it."""
    from gentool.points.neighbours import group
    from gentool.points.sampling import farthest_point_sample

    for count in counts:
        x = group(x, farthest_point_sample(x, count))
    return x


def study(scale: Scale, seed: int) -> Result:
    import torch

    from gentool import families
    from gentool.data import DataSpec
    from gentool.networks.pvcnn_unet import centre_order
    from gentool.recipes.resolve import resolve
    from gentool.tasks.model.build import build_module
    from gentool.tasks.model.load import ready
    from gentool.training.sampling import SampleRequest

    recipe = resolve(RECIPE, (), families.recipe_schema).recipe
    module: Any = ready(build_module(recipe, DataSpec("points", (POINTS, 3), 1, ("airplane",)))).to(device())
    x = torch.randn(scale.batch, 3, POINTS, generator=torch.Generator().manual_seed(seed)).to(device())
    latents = (
        torch.zeros(scale.batch, 128, device=device()),
        torch.zeros(scale.batch, 4, POINTS, device=device()),
    )
    request = SampleRequest(seed, range(scale.batch), None, recipe.sample, device=device())
    encode, whole = [], []
    with torch.no_grad():
        for _ in range(scale.rounds):
            encode.append(seconds(lambda: module.model.autoencoder.encode(x, *latents)))
            whole.append(encode[-1] + seconds(lambda: module.draw(request)))
            say(f"encode {encode[-1]:.3g} s, in all {whole[-1]:.3g} s")
        counts = module.model.priors.points.network.network.counts
        same = torch.equal(centre_order(x, counts[0])[:, :, : counts[-1]], searched_by_level(x, counts))
        once, each = [], []
        for _ in range(scale.searches):
            once.append(seconds(lambda: centre_order(x, counts[0])))
            each.append(seconds(lambda: searched_by_level(x, counts)))
    total, one, levels = (statistics.median(v) for v in (whole, once, each))
    of_style = (
        one  # the global encoder's own search, of 1024 and then 256 centres, where encoders do not share
    )
    after, before = (2 + STEPS) * one, (2 + STEPS) * levels + of_style
    share, share_before = after / total, before / (total - after + before)
    rate = scale.batch / total
    return Result(
        figures={
            "seconds": {"encode": encode, "whole": whole, "search": once, "search_by_level": each},
            "shapes_per_second": rate,
            "share_of_search": {"after": share, "before": share_before},
            "batch": scale.batch,
        },
        claims=[
            Claim(
                "one search for centres serves all levels, bit for bit, in less time than a search a level",
                "",
                f"{1e3 * one:.3g} ms, the same centres: {same}",
                f"alternating with it in the same process: {1e3 * levels:.3g} ms",
                same and one < levels,
            ),
            Claim(
                f"farthest-point sampling takes less than a quarter of encoding, {STEPS} steps and decoding",
                "",
                f"{100 * share:.1f} % ({rate:.3g} shapes a second)",
                f"with a search a level and an encoder: {100 * share_before:.1f} %",
                share < 0.25,
            ),
        ],
        seeds=(seed,),
        scale=f"{scale.batch} shapes of {POINTS} points at once, {scale.rounds} times; untrained weights",
        recipe=RECIPE,
    )


def run(settings: Settings) -> Result:
    return study(QUICK if settings.quick else GPU, settings.seed)


if __name__ == "__main__":
    main("lion_speed", run, __doc__)
