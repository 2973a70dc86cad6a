"""LACE on a generator of digits: conditional accuracy of its ODE, composition, a combination never learnt, anchors.

Everything is trained here, into one folder, and taken from there by the next run: the generator (a run that lies
there already is taken as it is), a labeller on one half of the real pictures and a judge on the other, the classifiers
of latents.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from common import Claim, Result, say

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.families.lace.module import LaceModule
    from gentool.tasks.edit.lace_leading import How
    from gentool.tasks.edit.lace_scores import Verdict

SPREAD = 2.0
"""How many times the unconditional generator's Frechet distance the ODE from the posterior may have."""
COMPOSED = ("digit=7 and slant=0.7", "digit=3 or digit=8", "digit=1 and not thick")
UNSEEN = "digit=4 and thick"
VALUES = [0.2 + 0.075 * i for i in range(9)]
"""Targets of numbers in edits one after the other: as published, nine values, drawn like the classes uniformly."""


@dataclass(frozen=True)
class Scale:
    """Sizes of one setting.

    Attributes:
        generator: its recipe and overrides. reader: those of labeller and judge. lace: those of the latents'
            classifiers.
        real: pictures of the data set for labeller and judge, half each.
        count: samples a class and sampler. few: samples of a composed formula. edited: samples of each of the
            `groups` triples of edits.
        pc: whether the predictor-corrector is run.
    """

    generator: tuple[str, tuple[str, ...]]
    reader: tuple[str, tuple[str, ...]]
    lace: tuple[str, tuple[str, ...]]
    count: int
    few: int
    groups: int
    edited: int
    pc: bool
    real: int = 20_000


def prepared(scale: Scale, folder: Path, seed: int) -> tuple[dict[str, Path], dict[str, Any]]:
    """The runs by name: generator, labeller, judge, lace, unseen; and how well the classifiers read."""
    import numpy as np

    from gentool import families
    from gentool.data import open_set
    from gentool.recipes.resolve import resolve
    from gentool.tasks.evaluate import evaluate
    from gentool.tasks.train import train

    def run(name: str, recipe: str, overrides: Sequence[str]) -> Path:
        done = train(recipe, overrides, run_dir=folder / name, resume="auto", say=say)
        say(f"{name}: {recipe}, {done.steps} steps")
        return done.run

    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "generator" / "recipe.yaml"
    made = (
        (str(found), ()) if found.is_file() else (scale.generator[0], (*scale.generator[1], f"seed={seed}"))
    )
    data = open_set(resolve(*made, families.recipe_schema).recipe.data, "train")
    whole = data.take(range(min(scale.real, len(data))))
    rows = np.arange(len(whole.x))
    # by pairs: MNIST's pictures are by turns of two groups of writers, and a half that has one of them alone reads the
    # other's badly
    parts = {"whole": rows >= 0, "labeller": rows % 4 < 2, "judge": rows % 4 >= 2}
    sources = {}
    for name, taken in parts.items():
        path = folder / f"{name}.npz"
        np.savez(path, arr_0=whole.x.permute(0, 2, 3, 1).numpy()[taken], arr_1=whole.label.numpy()[taken])
        sources[name] = f"data={{name: npz, path: {json.dumps(str(path))}, batch_size: "
    runs = {"generator": run("generator", *made)}
    for name in ("labeller", "judge"):
        runs[name] = run(name, scale.reader[0], (sources[name] + "64}", *scale.reader[1], f"seed={seed}"))
    recipe, more = scale.lace
    common = (sources["whole"] + "512}", f"base={runs['generator']}", *more, f"seed={seed}")
    common += (f"model.attributes.digit.run={runs['labeller']}",)
    runs["lace"] = run("lace", recipe, common)
    runs["unseen"] = run("unseen", recipe, (*common, f"model.exclude={UNSEEN}"))
    return runs, {"latent_classifiers": evaluate(str(runs["lace"])).metrics}


def opened(runs: dict[str, Path], name: str) -> tuple[LaceModule, Verdict]:
    """A lace run and its judge, on the device there is."""
    import torch

    from gentool.tasks.edit.lace_scores import load_verdict
    from gentool.tasks.model.load import load_run

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module: Any = load_run(runs[name])[2].to(device)
    return module, load_verdict(module, str(runs["judge"]), device, allow_same_judge=False)


def edited(
    module: LaceModule, verdict: Verdict, formulas: Sequence[str], rows: range, seed: int, how: How
) -> dict[str, Any]:
    """Figures of an edit, and the pictures and latents it ends on."""
    from gentool.families.lace.formula import parse
    from gentool.tasks.edit.lace_leading import led, rendered

    nodes = [parse(text, module.attributes()) for text in formulas]
    latents, failed, nfe = led(module, nodes, rows, seed, how)
    stages = [rendered(module, z, module.held_labels(rows)) for z in latents]
    scores = verdict.scores(nodes, latents, stages, ~failed, distances=False)
    found = {**scores.document(), "nfe": nfe, "failed": int(failed.sum())}
    return {"figures": found, "pictures": stages, "latents": latents}


def by_sampler(module: LaceModule, verdict: Verdict, scale: Scale, seed: int) -> dict[str, dict[str, float]]:
    """Of every sampler, led to each digit in turn: accuracy, Frechet distance to all real pictures, norm, gradients."""
    import torch

    from gentool.data import open_set, to_model
    from gentool.families.lace.samplers import Settings
    from gentool.metrics.frechet import frechet_distance
    from gentool.tasks.edit.lace_leading import How

    data = open_set(module.recipe.data, "train")
    real = verdict.moments(to_model(data.take(range(min(10_000, len(data)))).x))
    hows = {
        "exact posterior (rejection)": How("rejection"),
        "Langevin, exact": How("langevin", Settings(temperature=1.0)),
        "Langevin, published": How("langevin"),
        "ODE": How("ode"),
        "ODE from the exact posterior": How("rejection-ode"),
    }
    if scale.pc:
        hows["predictor-corrector"] = How("pc")
    rows: dict[str, dict[str, float]] = {}
    for name, how in hows.items():
        done = [
            edited(module, verdict, (f"digit={k}",), range(k * scale.count, (k + 1) * scale.count), seed, how)
            for k in range(10)
        ]
        for label, stage in (("unconditional", 0), (name, -1)):
            if label in rows:
                continue
            side = "before" if stage == 0 else "after"
            pictures = torch.cat([d["pictures"][stage] for d in done])
            z: Tensor = torch.cat([d["latents"][stage] for d in done])
            rows[label] = {
                "accuracy": sum(d["figures"]["accuracy"][side] for d in done) / 10,
                "frechet": frechet_distance(verdict.moments(pictures), real),
                "norm": float(z.norm(dim=1).mean()),
                "nfe": 0.0 if stage == 0 else sum(d["figures"]["nfe"] for d in done) / 10,
            }
            say(f"{label}: {rows[label]}")
    return rows


def agreement(module: LaceModule, verdict: Verdict, seed: int) -> float:
    """The share of the generator's own pictures that labeller and judge read alike."""
    from gentool.tasks.edit.lace_leading import rendered

    rows = range(30_000, 30_500)
    pictures = rendered(module, module.latents(seed, rows), module.held_labels(rows))
    return float((module.read("digit", pictures) == verdict.read(pictures)["digit"]).double().mean())


def one_after_the_other(
    module: LaceModule, verdict: Verdict, scale: Scale, seed: int, how: How
) -> dict[str, Any]:
    """Digit, then slant, then thickness, to targets drawn uniformly: accuracies over all samples, strengths, drift."""
    from gentool.tasks.edit.lace_scores import edit_strengths, relative_strengths

    draw, tables, drifts, single = random.Random(seed), [], [], []
    for group in range(scale.groups):
        targets = (group % 10, draw.choice(VALUES), draw.choice(VALUES))
        formulas = [f"{name}={value:g}" for name, value in zip(("digit", "slant", "thickness"), targets)]
        first = 20_000 + group * scale.edited
        done = edited(module, verdict, formulas, range(first, first + scale.edited), seed, how)
        found = done["figures"]
        tables.append(list(found["accuracy_of"].values()))
        single.append(strength_of_samples(module, verdict, formulas, done["pictures"]))
        drifts.append([number for edit in found["drift"] for number in edit.values()])
    table = averaged(tables)
    changes = [[row[k + 1] - row[k] for row in table] for k in range(3)]
    jackknife = [fmean(edit_strengths(averaged(tables[:i] + tables[i + 1 :]))) for i in range(len(tables))]
    return {
        "accuracy": table,
        "des": edit_strengths(table),
        "des_relative": relative_strengths(table),
        "des_mean": fmean(edit_strengths(table)),
        "des_error": ((len(tables) - 1) * fmean((d - fmean(jackknife)) ** 2 for d in jackknife)) ** 0.5,
        "des_of_samples": fmean(single),
        "strength": fmean(change[k] for k, change in enumerate(changes)),
        "side_effect": fmean(max(abs(c) for j, c in enumerate(ch) if j != k) for k, ch in enumerate(changes)),
        "drift": fmean(fmean(row) for row in drifts),
    }


def strength_of_samples(
    module: LaceModule, verdict: Verdict, formulas: Sequence[str], stages: Sequence[Tensor]
) -> float:
    """The mean over edits of the strength taken sample by sample: there a drift counts whichever way it goes, and so
    does every other reading of the judge.
    """
    import torch

    from gentool.families.lace.energy import truth
    from gentool.families.lace.formula import parse

    nodes = [parse(text, module.attributes()) for text in formulas]
    reads = [verdict.read(pictures) for pictures in stages]
    true = torch.stack(
        [torch.stack([truth(node, read) for read in reads]) for node in nodes]
    )  # (k, k + 1, N)
    change = true.diff(dim=1)
    found = []
    for k in range(len(nodes)):
        others = [j for j in range(len(nodes)) if j != k]
        found.append(float((change[k, k] - change[others, k].abs().amax(0)).mean()))
    return fmean(found)


def averaged(tables: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The mean of tables of one shape, entry by entry."""
    return [[fmean(cell) for cell in zip(*rows)] for rows in zip(*tables)]


def study(scale: Scale, folder: Path, seed: int, what: str) -> Result:
    """Every figure and claim of one scale.

    Args:
        what: the pictures, in words, for the claims.
    """
    from gentool.families.lace.control import Anchors
    from gentool.tasks.edit.lace_leading import How

    runs, figures = prepared(scale, folder, seed)
    module, verdict = opened(runs, "lace")
    figures["agreement"] = agreement(module, verdict, seed)
    figures["samplers"] = rows = by_sampler(module, verdict, scale, seed)
    few = range(10_000, 10_000 + scale.few)
    composed = {f: edited(module, verdict, (f,), few, seed, How())["figures"] for f in COMPOSED}
    figures["composed"] = {f: found["accuracy"] for f, found in composed.items()}
    say(f"composed: {figures['composed']}")
    figures["composed_from_posterior"] = {
        f: {
            name: edited(module, verdict, (f,), few, seed, How(sampler))["figures"]["accuracy"]["after"]
            for name, sampler in (("posterior", "rejection"), ("ode", "rejection-ode"))
        }
        for f in COMPOSED
        if "not" not in f
    }
    say(f"composed, from the posterior: {figures['composed_from_posterior']}")
    unseen = edited(*opened(runs, "unseen"), (UNSEEN,), few, seed, How())["figures"]["accuracy"]
    seen = edited(module, verdict, (UNSEEN,), few, seed, How())["figures"]["accuracy"]
    figures["held_out"] = {"formula": UNSEEN, "unseen": unseen, "seen": seen}
    say(f"held out: {figures['held_out']}")
    figures["edits"] = {}
    for name, anchors in {"anchored": Anchors(), "free": Anchors(0, 0)}.items():
        found = one_after_the_other(module, verdict, scale, seed, How(anchors=anchors))
        figures["edits"][name] = found
        say(f"{name}: {found}")
    generator = described(runs["generator"], scale)
    sizes = (
        f"generator {generator}; {scale.count} samples a digit and sampler; {scale.few} a formula; {scale.groups} x "
        f"{scale.edited} edited one after the other; judge and labeller on disjoint halves of the real digits"
    )
    recipe = f"{scale.lace[0]}, {scale.generator[0]}"
    return Result(figures, claims(rows, figures, what), (seed,), sizes, recipe=recipe)


def described(run: Path, scale: Scale) -> str:
    """The generator's recipe, and what its run has otherwise."""
    from gentool import families
    from gentool.recipes.resolve import resolve
    from gentool.runs.folder import RunFolder
    from gentool.tasks.model.load import stored_recipe
    from gentool.tasks.training.resume import differences

    shipped = resolve(scale.generator[0], (), families.recipe_schema)
    changes = differences(shipped, stored_recipe(RunFolder.open(run)))
    told = ", ".join(f"{key} {new}" for key, _, new in changes if key not in ("seed", "data.root"))
    steps = stored_recipe(RunFolder.open(run)).recipe.trainer.max_steps
    return f"{scale.generator[0]}, {steps} steps{f' ({told})' if told else ''}"


def told(composed: dict[str, dict[str, float]], key: str) -> str:
    """How true each formula is, by this sampler."""
    return ", ".join(f"{formula}: {found[key]:.3f}" for formula, found in composed.items())


def claims(rows: dict[str, dict[str, float]], figures: dict[str, Any], what: str) -> list[Claim]:
    """The rows of docs/claims.md."""
    ode, exact, free = (rows[name] for name in ("ODE", "exact posterior (rejection)", "unconditional"))
    composed, held, drawn = figures["composed"], figures["held_out"], figures["composed_from_posterior"]
    onward = rows["ODE from the exact posterior"]
    anchored, loose = figures["edits"]["anchored"], figures["edits"]["free"]
    ratio = held["unseen"]["after"] / max(held["seen"]["after"], 1e-9)
    return [
        Claim(
            f"LACE's ODE on {what}: conditional accuracy at least 0.90, 0.15 above the exact posterior, 0.75 above "
            "the prior",
            "CIFAR-10: 0.972",
            f"{ode['accuracy']:.3f}",
            f"exact posterior {exact['accuracy']:.3f}, unconditional {free['accuracy']:.3f}",
            ode["accuracy"] >= 0.90
            and ode["accuracy"] >= exact["accuracy"] + 0.15
            and ode["accuracy"] >= free["accuracy"] + 0.75,
            "the exact posterior leaves less than 0.15 to be gained"
            if exact["accuracy"] > 0.85
            else f"labeller and judge read {figures['agreement']:.2f} of the generator's own pictures alike, and the "
            f"classifier of latents {figures['latent_classifiers']['accuracy-digit']:.2f} as the labeller does",
        ),
        Claim(
            "... with a Frechet distance (judge's features) no worse than the unconditional generator's",
            "CIFAR-10: FID 6.63, against 2.99 of the predictor-corrector",
            f"{ode['frechet']:.3g}",
            f"unconditional {free['frechet']:.3g}, exact posterior {exact['frechet']:.3g}",
            ode["frechet"] <= free["frechet"],
            "the ODE crowds at modes of the likelihood",
        ),
        Claim(
            f"LACE on {what}: formulas compose: each of three true to at least 0.8, and 0.15 more than before",
            "",
            told(composed, "after"),
            f"before: {told(composed, 'before')}; exact posterior: {told(drawn, 'posterior')}",
            all(v["after"] >= 0.8 and v["after"] >= v["before"] + 0.15 for v in composed.values()),
            "the ODE climbs to the nearest mode, where a formula of several attributes may be true by halves: see the "
            "ODE from the exact posterior",
        ),
        Claim(
            f"The ODE from draws of the exact posterior (ours) on {what}: accuracy at least 0.90, formulas true to at "
            f"least 0.8, Frechet distance at most {SPREAD:g} times the unconditional generator's",
            "",
            f"{onward['accuracy']:.3f}; {told(drawn, 'ode')}; Frechet distance {onward['frechet']:.3g}",
            f"ODE from samples {ode['accuracy']:.3f}; {told({f: composed[f] for f in drawn}, 'after')}; "
            f"{ode['frechet']:.3g}; unconditional {free['frechet']:.3g}",
            onward["accuracy"] >= 0.9
            and all(v["ode"] >= 0.8 for v in drawn.values())
            and onward["frechet"] <= SPREAD * free["frechet"],
            "a draw of the posterior is likely already, and the ODE takes it on to where the classifier is surest: "
            "such pictures are more alike, and further from the data",
        ),
        Claim(
            f"LACE on {what}: a combination never learnt ({held['formula']}) reaches at least 0.8 of the accuracy with "
            "it",
            "",
            f"{ratio:.3f} ({held['unseen']['after']:.3f})",
            f"trained with it {held['seen']['after']:.3f}, before {held['seen']['before']:.3f}",
            ratio >= 0.8,
        ),
        Claim(
            f"LACE on {what}: anchors raise the disentangled edit strength of edits one after the other",
            "FFHQ: 0.735 with them",
            f"{anchored['des_mean']:.3f} ± {anchored['des_error']:.3f}",
            f"without {loose['des_mean']:.3f} ± {loose['des_error']:.3f}",
            anchored["des_mean"] > loose["des_mean"],
            f"they cost the edits {loose['strength']:.3f} to {anchored['strength']:.3f} of their own accuracy: once a "
            "class is likely log p is flat, and their pull ends near its boundary. Nor is there much to gain: the ODE "
            "climbs log p by its gradient, which leaves alone what does not bear on the formula, and targets drawn at "
            "random are approached by a drift as often as left: side effects are "
            f"{loose['side_effect']:.3f} without and {anchored['side_effect']:.3f} with them. Taken sample by sample, "
            f"where every drift counts, the strength is {anchored['des_of_samples']:.3f} with and "
            f"{loose['des_of_samples']:.3f} without",
        ),
        Claim(
            f"LACE on {what}: anchors hold what was not asked for: attributes not edited yet change less",
            "",
            f"mean change {anchored['drift']:.3f}",
            f"without {loose['drift']:.3f}",
            anchored["drift"] < loose["drift"],
        ),
    ]
