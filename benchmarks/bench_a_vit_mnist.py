"""A-ViT against the plain transformer it starts from: accuracy, operations, and pictures a second by the clock.

The plain one is tuned as long, and is then the teacher of the one whose tokens halt.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Result, Settings, main, say
from models import device

if TYPE_CHECKING:
    from gentool.families.a_vit.module import AVitModule


@dataclass(frozen=True)
class Scale:
    """The two recipes, what is changed in both, and their steps.

    Attributes:
        ablation: whether a model is also tuned without the distribution loss.
        faster: the least gain in pictures a second that is claimed.
        halting: what is changed where tokens halt.
    """

    dense: str
    tuned: str
    shared: tuple[str, ...]
    dense_steps: int
    tuned_steps: int
    seeds: int
    ablation: bool
    faster: float
    halting: tuple[str, ...] = ()


QUICK = Scale("a-vit/mnist-dense-small", "a-vit/mnist-small", (), 2000, 4000, 1, False, 1.3)
LARGE = (
    "model.network={patch: 2, width: 192, depth: 9, heads: 3, drop_path: 0.0}",
    "model.augment={flip: true, shift: 4, rand: {}, mixup: 0.8}",
    "trainer.precision=bf16-mixed",
    "optimizer.lr=1.0e-3",
)
DEEPER = ("model.halting.target_depth=6.4",)
GPU = Scale("a-vit/mnist-dense-small", "a-vit/mnist-small", LARGE, 8000, 3000, 1, True, 1.15, DEEPER)
"""CIFAR-10 by 257 tokens: layers of fewer wait for their launches on a GPU, not for arithmetic."""
POINTS = 0.5
"""Greatest loss of accuracy, in points."""


def study(scale: Scale, data: str, seed: int, folder: Path) -> dict[str, Any]:
    """One start and what is tuned from it: figures of each, by name."""
    from gentool.tasks.evaluate import evaluate
    from gentool.tasks.model.load import load_run
    from gentool.tasks.train import train

    shared = (data, *scale.shared, f"seed={seed}")

    def run(name: str, recipe: str, steps: int, *more: str) -> Path:
        changes = (*shared, f"trainer.max_steps={steps}", f"trainer.checkpoint_every={steps}", *more)
        done = train(recipe, changes, run_dir=folder / f"{name}-{seed}", say=say)
        say(f"{name}, seed {seed}: {steps} steps in {done.seconds:.0f} s, loss {done.loss:.4g}")
        return done.run

    dense = run("dense", scale.dense, scale.dense_steps)
    start = f"model.start={dense}"
    longer = run("longer", scale.tuned, scale.tuned_steps, start, "model.halting=null")
    taught = f"model.distillation={{teacher: {longer}, kind: soft, weight: 0.7, temperature: 2.0}}"
    tuned = run("tuned", scale.tuned, scale.tuned_steps, start, taught, *scale.halting)
    found = {"start": evaluate(str(dense)).metrics, "dense": evaluate(str(longer)).metrics}
    judged = evaluate(str(tuned), say=say)
    module: AVitModule = load_run(tuned)[2].to(device())  # type: ignore[assignment]
    found["tuned"] = {**judged.metrics, **judged.details, "masked_difference": largest_difference(module)}
    if scale.ablation:
        prior = "model.halting.distribution_weight=0.0"
        bare = run("no prior", scale.tuned, scale.tuned_steps, start, taught, *scale.halting, prior)
        found["no prior"] = evaluate(str(bare), metrics=["accuracy", "mean-depth", "class-depth"]).metrics
    say(f"seed {seed}: {found}")
    return found


def largest_difference(module: AVitModule) -> float:
    """Between the logits with tokens dropped and with tokens masked, over the first 1000 held-out pictures."""
    import torch

    from gentool.data import open_set
    from gentool.families.a_vit.study import reads

    worst = 0.0
    with torch.no_grad():
        for read in reads(module, open_set(module.recipe.data, "test"), 1000):
            worst = max(worst, float((read.logits - module.model(read.x)).abs().max()))
    return worst


def claims(found: list[dict[str, Any]], scale: Scale) -> list[Claim]:
    def mean(model: str, name: str) -> float:
        return statistics.mean(run[model][name] for run in found)

    accuracy, plain = 100 * mean("tuned", "accuracy"), 100 * mean("dense", "accuracy")
    ratio, saved = mean("tuned", "throughput-ratio"), mean("tuned", "operations-saved")
    depth = f"mean depth {mean('tuned', 'mean-depth'):.2f}, accuracy {accuracy:.2f} %"
    worst = max(run["tuned"]["masked_difference"] for run in found)
    start = f"the plain transformer, tuned as long from the same start, and its teacher: {plain:.2f} %"
    lost = f"{plain - accuracy:.2f} points worse" if accuracy < plain - POINTS else ""
    slow = "" if ratio >= scale.faster else f"{ratio:.2f} times"
    few = "" if saved >= 0.3 else f"{100 * saved:.0f} % fewer"
    rows = [
        Claim(
            f"A-ViT reads at least {scale.faster} times as many pictures a second, at most {POINTS} points worse",
            "A-ViT, abstract: 62 % (DeiT-T) and 38 % (DeiT-S) more on ImageNet at 0.3 points",
            f"{ratio:.2f} times in batches of 256; {depth}",
            f"the same network and code with all tokens; {start}",
            not (slow or lost),
            ", ".join(filter(None, (slow, lost))),
        ),
        Claim(
            f"at least 30 % fewer multiply-adds, at most {POINTS} points worse",
            "A-ViT, table 3: 1.3 to 0.8 and 4.6 to 3.6 billion",
            f"{100 * saved:.0f} % fewer; {depth}",
            start,
            not (few or lost),
            ", ".join(filter(None, (few, lost))),
        ),
        Claim(
            "dropping tokens gives the logits of masking them to 1e-3",
            "",
            f"largest difference {worst:.2g}",
            "the network as it is trained, 1000 held-out pictures",
            worst < 1e-3,
        ),
    ]
    if scale.ablation:
        bare = 100 * mean("no prior", "accuracy")
        rows.append(
            Claim(
                "without the distribution loss accuracy is lower",
                "A-ViT, section 3.3: tokens halt in the first blocks or all together",
                f"{bare:.2f} % at mean depth {mean('no prior', 'mean-depth'):.2f}",
                depth,
                bare < accuracy,
            )
        )
    return rows


def run(settings: Settings) -> Result:
    scale = QUICK if settings.quick else GPU
    name = "mnist" if settings.quick else "cifar10"
    batch = 64 if settings.quick else 256
    data = f"data={{name: {name}, root: {settings.data_dir}, batch_size: {batch}}}"
    seeds = range(settings.seed, settings.seed + scale.seeds)
    with tempfile.TemporaryDirectory() as folder:
        found = [study(scale, data, seed, Path(folder)) for seed in seeds]
    return Result(
        figures={"runs": found},
        claims=claims(found, scale),
        seeds=tuple(seeds),
        scale=f"{name}: {scale.dense_steps} steps of the start, {scale.tuned_steps} of fine-tuning; all held-out "
        "pictures; medians of 25 paired rounds",
        recipe=" ".join((scale.dense, "and", scale.tuned, *scale.shared)),
    )


if __name__ == "__main__":
    main("a_vit_mnist", run, __doc__)
