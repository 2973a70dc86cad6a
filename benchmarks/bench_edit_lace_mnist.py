"""LACE on a generator of MNIST: accuracy of its ODE, composition, a combination never learnt, anchors.

Everything is trained here, into DATA_DIR/edit_lace_mnist, and taken from there by the next run; a run of stylegan2 that
lies there as `MODE/generator` is taken as it is.
"""

from __future__ import annotations

from dataclasses import replace

from common import Result, Settings, main
from lace_study import Scale, study

QUICK = Scale(
    generator=("stylegan2/mnist32-small", ()),
    reader=(
        "classifier/mnist-small",
        ("model.network={name: cnn, channels: [16, 32, 64]}", "trainer.max_steps=1800"),
    ),
    lace=("lace/mnist32-small", ("model.latents=10000",)),
    count=50,
    few=100,
    groups=5,
    edited=20,
    pc=False,
)
GPU = replace(
    QUICK,
    generator=("stylegan2/mnist32-small", ("trainer.max_steps=15000",)),
    reader=("classifier/mnist-small", ()),
    lace=("lace/mnist32-small", ("model.latents=50000",)),
    count=200,
    few=500,
    groups=50,
    edited=50,
    pc=True,
    real=60_000,
)


def run(settings: Settings) -> Result:
    scale = QUICK if settings.quick else GPU
    kind, more = scale.generator
    scale = replace(scale, generator=(kind, (f"data.root={settings.data_dir.absolute()}", *more)))
    return study(scale, settings.data_dir / "edit_lace_mnist" / settings.mode, settings.seed, "MNIST")


if __name__ == "__main__":
    main("edit_lace_mnist", run, __doc__)
