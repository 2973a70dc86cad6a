"""LACE on a generator of the 8x8 digits: accuracy of its ODE, composition, a combination never learnt, anchors.

Everything is trained here, into DATA_DIR/edit_lace, and taken from there by the next run.
"""

from __future__ import annotations

from dataclasses import replace

from common import Result, Settings, main
from lace_study import Scale, study

QUICK = Scale(
    generator=("stylegan2/digits8-small", ()),
    reader=("classifier/digits-small", ("trainer.max_steps=600",)),
    lace=("lace/digits-small", ()),
    count=100,
    few=100,
    groups=20,
    edited=25,
    pc=False,
)
GPU = replace(QUICK, count=500, few=1000, groups=50, edited=100, pc=True)


def run(settings: Settings) -> Result:
    scale = QUICK if settings.quick else GPU
    return study(scale, settings.data_dir / "edit_lace" / settings.mode, settings.seed, "8x8 digits")


if __name__ == "__main__":
    main("edit_lace", run, __doc__)
