"""gentool edit --method lace: samples of a generator led to formulas over attributes, one edit after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gentool.data import to_uint8
from gentool.errors import GentoolError, UserError
from gentool.families.lace.formula import And, Node, contradictions, parse
from gentool.families.lace.module import LaceModule
from gentool.runs.atomic import check_writable
from gentool.runs.samples import check_output, write_samples
from gentool.tasks.edit.lace_leading import How, led, moved_layers, rendered_edits
from gentool.tasks.edit.lace_scores import Scores, load_verdict
from gentool.tasks.model.labels import label_cycle
from gentool.tasks.model.load import best_device, load_run, origin
from gentool.tasks.pictures.write import write_panel
from gentool.training.watching import Report, Say, unreported, unsaid

COLLAPSED = 0.7
"""Share of sqrt(d) below which the latents' mean norm says that they left the prior."""


@dataclass(frozen=True)
class Led:
    """The file, its panel, and what was measured.

    Attributes:
        formulas: as they were understood, one an edit.
        failed: numbers of the samples that could not be led; their pictures are as before.
        scores: see `lace_scores.Scores`.
        nfe: gradients (of `rejection`: proposals; of `rejection-ode`: both) a sample, all edits together.
    """

    path: Path
    panel: Path
    count: int
    seed: int
    sampler: str
    formulas: list[str]
    failed: list[int]
    scores: Scores
    nfe: float
    seconds: float

    def document(self) -> dict[str, Any]:
        """What `gentool edit --json` prints."""
        return {
            "path": str(self.path),
            "panel": str(self.panel),
            "count": self.count,
            "method": "lace",
            "sampler": self.sampler,
            "seed": self.seed,
            "formulas": self.formulas,
            "failed": self.failed,
            **self.scores.document(),
            "nfe": self.nfe,
            "seconds": round(self.seconds, 3),
        }


def edit(
    path: Path | str,
    formulas: Sequence[str],
    *,
    count: int = 16,
    seed: int | None = None,
    how: How | None = None,
    classifier: str | None = None,
    condition: str | None = None,
    allow_same_judge: bool = False,
    out: Path | None = None,
    batch_size: int = 64,
    report: Report = unreported,
    say: Say = unsaid,
) -> Led:
    """Leads `count` latents to the first formula, then on to it and the second, and so on; writes the last pictures.

    Sample i starts from the latent of sample i of the generator, and depends on the seed and i alone.

    Args:
        classifier: the run that judges attributes which a classifier labelled; not the labeller itself.
        allow_same_judge: take it all the same.
        condition: classes of a conditional generator, taken in turn and kept, as `gentool sample --label`; None: all.

    Raises:
        UserError: no run of the family lace, a formula that cannot be parsed, or a judge that cannot be taken.
        GentoolError: not one latent could be led.
    """
    started, how = time.perf_counter(), how or How()
    device = best_device()
    run, resolved, module = load_run(path)
    if not isinstance(module, LaceModule):
        raise UserError(
            f"a run of the family {resolved.recipe.family} has no classifiers of attributes: train lace on it "
            "(gentool train lace/digits-small base=RUN)"
        )
    module.to(device)
    if how.truncation is not None and how.truncation != (labelled := module.recipe.model.truncation):
        say(f"warning: classifiers learnt at truncation {labelled:g}, and are asked at {how.truncation:g}")
        assert module.base is not None
        module.generator = module.base.latent_generator(how.truncation)
    nodes = parsed(formulas, module, say)
    moved = moved_layers(module, nodes, how)
    cycle = conditions(module, condition)
    verdict = load_verdict(module, classifier, device, allow_same_judge=allow_same_judge)
    for name in verdict.unjudged(nodes):
        say(f"nobody judges {name}: name a classifier that is not its labeller by --classifier")
    seed = resolved.recipe.seed if seed is None else seed
    out = out or run.samples / f"lace-{how.sampler}-seed{seed}-n{count}.h5"
    check_output(out, "image")
    check_writable(out.absolute().parent)
    failed, calls = torch.zeros(count, dtype=torch.bool), 0.0
    parts: list[list[Tensor]] = []
    for first in range(0, count, batch_size):
        rows = range(first, min(first + batch_size, count))
        z, lost, nfe = led(module, nodes, rows, seed, how, cycle)
        failed[rows.start : rows.stop] = lost.cpu()
        calls += nfe * len(rows)
        parts.append(z)
        report(rows.stop, count, {})
    latents = [torch.cat(stage) for stage in zip(*parts)]
    labels = module.held_labels(range(count), cycle)
    stages = rendered_edits(module, latents, labels, moved)
    if bool(failed.all()):
        raise GentoolError(
            "not one latent could be led: the energy's gradient is not finite, or steps vanish (a large --anchor is "
            "stiff)"
        )
    if bool(failed.any()):
        say(f"warning: {int(failed.sum())} of {count} latents could not be led; their pictures are as before")
    scores = verdict.scores(nodes, latents, stages, ~failed.to(device))
    norm, usual = scores.norm["after"], math.sqrt(module.generator.latent)
    if norm < COLLAPSED * usual:
        say(
            f"warning: the latents' mean norm fell to {norm:.3g} of {usual:.3g}: they crowd where the generator has "
            "seen few; raise --temperature, or take --sampler ode"
        )
    chosen = {"sampler": how.sampler, "formulas": [str(node) for node in nodes], "seed": seed}
    if how.layers:
        chosen["layers"] = {name: list(layers) for name, layers in how.layers.items()}
    held = None if labels is None else labels.cpu().numpy()
    provenance = {
        **origin(run, resolved),
        "edit": {"method": "lace", **chosen},
    }
    pixels = [to_uint8(x).permute(0, 2, 3, 1).cpu().numpy() for x in stages]
    write_samples(out, pixels[-1], held, provenance)
    between = {f"edit {i}": row for i, row in enumerate(pixels[1:-1], 1)}
    panel = write_panel(out, pixels[0], pixels[-1], difference=True, between=between)
    return Led(
        path=out,
        panel=panel,
        count=count,
        seed=seed,
        sampler=how.sampler,
        formulas=chosen["formulas"],  # type: ignore[arg-type]
        failed=failed.nonzero().squeeze(1).tolist(),
        scores=scores,
        nfe=calls / count,
        seconds=time.perf_counter() - started,
    )


def parsed(formulas: Sequence[str], module: LaceModule, say: Say) -> list[Node]:
    """The formulas as trees; a contradiction is told, and led to all the same.

    Raises:
        UserError: none at all. FormulaError: one that cannot be parsed.
    """
    if not formulas:
        raise UserError("lace needs it: what the samples are to be, as digit=7", "--formula")
    nodes = [parse(text, module.attributes()) for text in formulas]
    for clash in contradictions(reduce(And, nodes)):
        say(f"warning: {clash}")
    return nodes


def conditions(module: LaceModule, asked: str | None) -> tuple[int, ...] | None:
    """The generator's classes that samples take in turn; None where it has none.

    Raises:
        UserError: it has none, or not this one.
    """
    assert module.base is not None
    if asked is not None and not module.base.classes:
        raise UserError("the generator of this run has no classes", "--condition")
    return label_cycle(asked, module.base, None)
