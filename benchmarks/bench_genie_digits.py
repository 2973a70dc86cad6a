"""GENIE on the 8x8 digits: error to the fine trajectory against DDIM's, ablations, multistep solvers beside it."""

from __future__ import annotations

from common import Result, Settings, main
from distilled import Plan, claims, study

BASE, HEAD = "edm/digits-vp-preconditioned-small", "genie/digits-small"
QUICK = Plan(
    BASE,
    (
        "model.network={name: film-mlp, width: 192, blocks: 2}",
        "model.conditional=false",
        "data.batch_size=96",
        "trainer.checkpoint_every=4000",
    ),
    HEAD,
    ("trainer.max_steps=1500",),
    count=400,
)
GPU = Plan(BASE, ("trainer.max_steps=20000",), HEAD, ("trainer.max_steps=5000",), count=5000)


def run(settings: Settings) -> Result:
    plan = QUICK if settings.quick else GPU
    figures = study(plan, settings.seed)
    return Result(
        figures=figures,
        claims=[claim for grid in plan.grids for claim in claims(figures, 0.6, "digits", grid)],
        seeds=(settings.seed,),
        scale=f"{plan.count} samples a figure; error: RMS over pixels of [-1, 1] to the end of 200 Heun steps",
        recipe=" ".join((plan.base, *plan.base_overrides, "then", plan.head, *plan.head_overrides)),
    )


if __name__ == "__main__":
    main("genie_digits", run, __doc__)
