"""Few-step solvers on a U-Net trained here: FID (the evaluation's classifier) and label accuracy by calls.

`--quick`: MNIST at half size. `--gpu`: MNIST, then on CIFAR-10 VP's training against EDM's at 18 Heun steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Result, Settings, main, say
from models import Judge, integrated, trained

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.data import DataSet
    from gentool.families.edm.module import EdmModule

RECIPE = "edm/mnist-small"
CALLS = (5, 10, 20)
PUBLISHED = {"ddim": 15.69, "edm": 15.93, "dpmpp-3m": 3.00, "unipc": 2.89, "deis-tab": 4.09, "ipndm": 2.77}
"""CIFAR-10's FID at 10 calls with EDM's weights (diff-sampler repository's README): context, no target."""
SOLVERS = ("ddim", "edm", "dpmpp-2m", "dpmpp-3m", "unipc", "deis-tab", "ipndm")
CONVERGED = 30
"""Heun steps after which a trajectory has arrived: what a solver adds to it is the solver's own error, whatever the
network has learnt."""
BETTER = ("dpmpp-2m", "dpmpp-3m", "unipc", "deis-tab", "ipndm")
"""Multistep solvers: one call a step, an order above DDIM's."""


@dataclass(frozen=True)
class Scale:
    """MNIST's network and training; count: samples a figure; cifar_steps: 0 leaves CIFAR-10 out."""

    overrides: tuple[str, ...]
    count: int
    cifar_steps: int = 0
    cifar_overrides: tuple[str, ...] = ()


GPU_TRAINING = ("trainer.precision=bf16-mixed", "trainer.compile=true")
QUICK = Scale(
    (
        "data.size=14",
        "data.batch_size=128",
        "model.network={name: song-unet, channels: 16, mult: [1, 2], blocks: 1, attention: [7]}",
        "trainer.max_steps=2500",
        "optimizer.lr=2.0e-3",
        "optimizer.warmup=100",
    ),
    count=1000,
)
GPU = Scale(
    ("data.batch_size=512", "trainer.max_steps=6000", *GPU_TRAINING),
    count=10_000,
    cifar_steps=4000,
    cifar_overrides=("data.batch_size=512", *GPU_TRAINING),
)
CIFAR_NETWORK = "model.network={name: song-unet, channels: 96, mult: [1, 2, 2], blocks: 2, attention: [16]}"


def steps_for(solver: str, calls: int) -> int:
    """The most steps that take no more calls: Heun takes 2 N - 1, everyone else N."""
    return (calls + 1) // 2 if solver == "edm" else calls


def by_solver(module: EdmModule, data: DataSet, judge: Judge, count: int, seed: int) -> dict[str, Any]:
    """{solver: [{nfe, fid, label_accuracy, error}]}, each solver on its published grid, the same noise.

    `error` is the root mean square over pixels (of [-1, 1]) from where converged trajectories end.
    """
    import torch

    from gentool.diffusion.grids import make_grid
    from gentool.diffusion.solvers.catalog import SOLVERS as CATALOG

    reference = judge.moments(data.take(range(len(data))).x)
    labels, process = torch.arange(count) % data.spec.classes, module.model.process
    found: dict[str, Any] = {}
    arrived: Tensor | None = None
    for solver, budget in (("edm", (2 * CONVERGED - 1,)), *((name, CALLS) for name in SOLVERS)):
        rows = []
        for calls in budget:
            grid = make_grid(CATALOG.get(solver).grid, steps_for(solver, calls), process)
            shape = (count, *data.spec.shape)
            pictures, nfe = integrated(module.model, process, shape, solver, grid, labels, seed)
            arrived = pictures if arrived is None else arrived
            row = {"nfe": nfe, "fid": judge.distance(pictures, reference)}
            row["label_accuracy"] = judge.accuracy(pictures, labels)
            row["error"] = float((pictures.double() - arrived.double()).square().mean().sqrt() / 127.5)
            rows.append(row)
            say(f"{solver}, {nfe:.0f} calls: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
        found["converged" if budget is not CALLS else solver] = rows
    return found


def mnist(scale: Scale, root: Path, seed: int) -> tuple[dict[str, Any], list[Claim]]:
    overrides = (f"data.root={root}", *scale.overrides, f"seed={seed}")
    data, unseen = splits(RECIPE, overrides)
    judge = Judge(data)
    module, cost = trained(RECIPE, overrides)
    found = by_solver(module, data, judge, scale.count, seed)
    held_out = judge.distance(
        unseen.take(range(min(scale.count, len(unseen)))).x, judge.moments(data.take(range(len(data))).x)
    )
    figures = {"judge": judge.note, "training": cost, "held_out_fid": held_out, "solvers": found}
    return figures, mnist_claims(found, held_out)


def splits(recipe: str, overrides: tuple[str, ...]) -> tuple[DataSet, DataSet]:
    """The training and the held-out part of a recipe's data."""
    from gentool import families
    from gentool.data import open_set
    from gentool.recipes.resolve import resolve

    config = resolve(recipe, overrides, families.recipe_schema).recipe.data
    return open_set(config, "train"), open_set(config, "test")


def mnist_claims(found: dict[str, Any], held_out: float) -> list[Claim]:
    at = {name: dict(zip(CALLS, rows)) for name, rows in found.items()}
    model = found["converged"][0]["fid"]
    published = ", ".join(f"{name} {fid}" for name, fid in PUBLISHED.items())
    claims = []
    for what, label, calls, reported in (
        ("error", "ends nearer to the converged trajectory", 5, ""),
        ("error", "ends nearer to the converged trajectory", 10, ""),
        ("fid", "has a lower FID", 5, ""),
        ("fid", "has a lower FID", 10, f"CIFAR-10: {published}"),
    ):
        behind = [name for name in BETTER if at[name][calls][what] >= at["ddim"][calls][what]]
        reason = f"not {', '.join(behind)}"
        if what == "fid":
            reason += f"; converged trajectories themselves have {model:.3g}"
        claims.append(
            Claim(
                f"every multistep solver {label} than DDIM at {calls} calls",
                reported,
                ", ".join(f"{name} {at[name][calls][what]:.3g}" for name in ("ddim", *BETTER)),
                "DDIM, same network and noise, each on the grid it was published with",
                not behind,
                reason if behind else "",
            )
        )
    few, many = at["dpmpp-2m"][10], at["edm"][20]
    claims.append(
        Claim(
            "dpmpp-2m's FID with 10 calls is no worse than that of EDM's Heun with 19",
            "",
            f"{few['fid']:.3g} against {many['fid']:.3g}",
            f"Heun, same network and noise; held-out digits of the same count have {held_out:.3g}",
            few["fid"] <= many["fid"],
        )
    )
    worst = min(BETTER, key=lambda name: at[name][20]["label_accuracy"])
    claims.append(
        Claim(
            "at least 95 % of the samples at 20 calls are read as the digit asked for",
            "",
            f"{at[worst][20]['label_accuracy']:.1%} or more (the least: {worst})",
            "the evaluation's classifier",
            at[worst][20]["label_accuracy"] >= 0.95,
        )
    )
    return claims


def cifar(scale: Scale, root: Path, seed: int) -> tuple[dict[str, Any], list[Claim]]:
    """VP's training and preconditioning against EDM's: 18 Heun steps from the same noise, same network."""
    import torch

    from gentool.diffusion.config import EdmProcess
    from gentool.diffusion.grids import make_grid
    from gentool.diffusion.processes import build

    edm, found, judge, reference = build(EdmProcess()), {}, None, None
    for name in ("vp", "edm"):
        overrides = (
            f"data={{name: cifar10, batch_size: 64, root: {root}}}",
            CIFAR_NETWORK,
            f"model.process={{name: {name}}}",
            "model.flip=true",
            f"trainer.max_steps={scale.cifar_steps}",
            f"seed={seed}",
            *scale.cifar_overrides,
        )
        data, _ = splits(RECIPE, overrides)
        if judge is None or reference is None:
            judge = Judge(data)
            reference = judge.moments(data.take(range(len(data))).x)
        module, cost = trained(RECIPE, overrides)
        labels = torch.arange(scale.count) % data.spec.classes
        shape = (scale.count, *data.spec.shape)
        pictures, nfe = integrated(
            module.model, edm, shape, "edm", make_grid("karras", 18, edm), labels, seed
        )
        found[name] = {
            "nfe": nfe,
            "fid": judge.distance(pictures, reference),
            "label_accuracy": judge.accuracy(pictures, labels),
            "training": cost,
        }
        say(f"CIFAR-10, {name}: {found[name]}")
    claim = Claim(
        "CIFAR-10: EDM's training and preconditioning is at least 10 % below VP's at 35 calls",
        "EDM, table 2 (FID): VP 2.48, EDM 1.97, at 200 million images",
        f"{found['edm']['fid']:.3g} against {found['vp']['fid']:.3g}",
        "VP's, same network, sampler and noise",
        found["edm"]["fid"] <= 0.9 * found["vp"]["fid"],
    )
    return {**found, "judge": judge.note if judge else ""}, [claim]


def study(scale: Scale, root: Path, seed: int) -> Result:
    figures, claims = mnist(scale, root, seed)
    figures = {"mnist": figures}
    if scale.cifar_steps:
        figures["cifar10"], more = cifar(scale, root, seed)
        claims += more
    return Result(
        figures=figures,
        claims=claims,
        seeds=(seed,),
        scale=f"{scale.count} samples a figure; FID in the features of the evaluation's classifier",
        recipe=" ".join((RECIPE, *scale.overrides)),
    )


def run(settings: Settings) -> Result:
    return study(QUICK if settings.quick else GPU, settings.data_dir, settings.seed)


if __name__ == "__main__":
    main("edm_mnist", run, __doc__)
