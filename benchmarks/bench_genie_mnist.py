"""GENIE on U-Nets: MNIST (`--quick` at half size), and with `--gpu` CIFAR-10; error and distance against DDIM's."""

from __future__ import annotations

from dataclasses import replace

from common import Result, Settings, main
from distilled import Plan, claims, study

BASE, HEAD = "edm/mnist-vp-small", "genie/mnist-small"
FAST = ("trainer.precision=bf16-mixed", "trainer.compile=true")
QUICK = Plan(
    BASE,
    (
        "data.size=14",
        "model.network={name: song-unet, channels: 16, mult: [1, 2], blocks: 1, attention: [7]}",
        "trainer.max_steps=1200",
        "optimizer.lr=2.0e-3",
        "optimizer.warmup=100",
    ),
    HEAD,
    ("data.size=14", "trainer.max_steps=400", "optimizer.warmup=20"),
    count=250,
)
GPU = Plan(
    BASE,
    ("data.batch_size=512", "trainer.max_steps=5000", *FAST),
    HEAD,
    ("data.batch_size=256", "trainer.max_steps=2000"),
    count=2000,
)
CIFAR = Plan(
    BASE,
    (
        "data={name: cifar10, batch_size: 256, workers: 8}",
        "model.network={name: song-unet, channels: 128, mult: [1, 2, 2, 2], blocks: 2, attention: [16], dropout: 0.1}",
        "model.conditional=false",
        "model.flip=true",
        "trainer.max_steps=12000",
        "optimizer.lr=4.0e-4",
        *FAST,
    ),
    HEAD,
    ("data={name: cifar10, batch_size: 128, workers: 8}", "model.flip=true", "trainer.max_steps=1500"),
    count=1000,
)


def run(settings: Settings) -> Result:
    root = f"data.root={settings.data_dir}"
    plan = QUICK if settings.quick else GPU
    figures = {"mnist": study(plan, settings.seed, (root,))}
    found = [claim for grid in plan.grids for claim in claims(figures["mnist"], 0.7, "MNIST", grid)]
    if not settings.quick:
        # the root goes into the block: an override of all of `data` would undo one that comes before it
        cifar = replace(
            CIFAR,
            base_overrides=(*CIFAR.base_overrides, root),
            head_overrides=(*CIFAR.head_overrides, root),
        )
        figures["cifar10"] = study(cifar, settings.seed)
        found += [
            claim for grid in cifar.grids for claim in claims(figures["cifar10"], 0.6, "CIFAR-10", grid)
        ]
    return Result(
        figures=figures,
        claims=found,
        seeds=(settings.seed,),
        scale=f"{plan.count} samples a figure; error: RMS over pixels of [-1, 1] to the end of 200 Heun steps",
        recipe=" ".join((plan.base, *plan.base_overrides, "then", plan.head, *plan.head_overrides)),
    )


if __name__ == "__main__":
    main("genie_mnist", run, __doc__)
