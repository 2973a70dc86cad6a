"""How well latents were led: accuracy by a judge, strength of edits, distance from real pictures and from the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gentool.data import open_set, to_model
from gentool.errors import UserError
from gentool.families.lace.config import FromClassifier, FromMeasure
from gentool.families.lace.energy import truth
from gentool.families.lace.formula import Node, terms
from gentool.families.lace.module import LaceModule
from gentool.metrics.cache import digest_of
from gentool.metrics.classifier import Judge
from gentool.metrics.frechet import frechet_distance
from gentool.metrics.moments import Gaussian, Moments
from gentool.tasks.pictures.readings import load_judge

MOST, BLOCK = 10_000, 256
"""Real pictures that the Frechet distance is to."""


@dataclass(frozen=True)
class Scores:
    """Figures before and after.

    Attributes:
        accuracy: of every formula (row) before and after every edit (column), in [0, 1]; None where nobody judges it.
        together: of all formulas at once, before and after.
        des: disentangled edit strength of every edit: the change of its own formula's accuracy, less the largest change
            of another's; None for a single edit, or without a judge. des_relative: the same of changes relative to the
            accuracy before; None where that is 0.
        drift: of every edit, how much the attributes that no formula up to it names have changed: mean |change| of a
            number, share of changed classes.
        frechet: distance to real pictures in the judge's features, before and after; None without a judge.
        norm: mean |z|. plausibility: mean |z|^2 / d, 1 for the prior.
        judge: the run's name.
    """

    accuracy: dict[str, list[float] | None]
    together: dict[str, float] | None
    des: list[float] | None
    des_relative: list[float | None] | None
    drift: list[dict[str, float]]
    frechet: dict[str, float] | None
    norm: dict[str, float]
    plausibility: dict[str, float]
    judge: str | None

    def document(self) -> dict[str, Any]:
        return {
            "accuracy": self.together,
            "accuracy_of": self.accuracy,
            "des": self.des,
            "des_relative": self.des_relative,
            "drift": self.drift,
            "frechet": self.frechet,
            "norm": self.norm,
            "plausibility": self.plausibility,
            "judge": self.judge,
        }


@dataclass(frozen=True)
class Verdict:
    """Who reads which attribute: the measures themselves, and a classifier where there is one.

    Attributes:
        reads: the attributes that the classifier judges.
    """

    module: LaceModule
    judge: Judge | None
    name: str | None
    reads: frozenset[str]

    def unjudged(self, nodes: Sequence[Node]) -> list[str]:
        """Attributes of the formulas that nobody reads."""
        wanted = dict.fromkeys(term.name for node in nodes for term in terms(node))
        return [name for name in wanted if not self._judged(name)]

    def _judged(self, name: str) -> bool:
        return name in self.reads or isinstance(self.module.recipe.model.attributes[name], FromMeasure)

    @torch.no_grad()
    def read(self, pictures: Tensor) -> dict[str, Tensor]:
        """(N,) readings of pictures (N, C, H, W): classes, or numbers in [0, 1]."""
        found: dict[str, Tensor] = {}
        pictures = pictures.clamp(-1, 1)
        if self.judge is not None and self.reads:
            classes = torch.cat([self.judge.logits(part).argmax(1) for part in pictures.split(BLOCK)])
            found = dict.fromkeys(self.reads, classes)
        for name, config in self.module.recipe.model.attributes.items():
            if isinstance(config, FromMeasure):
                found |= self.module.readings({name: self.module.measured(name, config, pictures)})
        return found

    def scores(
        self,
        nodes: Sequence[Node],
        latents: Sequence[Tensor],
        stages: Sequence[Tensor],
        kept: Tensor,
        *,
        distances: bool = True,
    ) -> Scores:
        """The figures of edits.

        Args:
            latents, stages: z (N, d) and pictures before and after every edit.
            kept: (N,) bool, those that count.
            distances: whether the Frechet distances are wanted.
        """
        reads = [self.read(pictures[kept]) for pictures in stages]
        table = [self._accuracies(node, reads) for node in nodes]
        known = all(row is not None for row in table)
        whole = (
            [float(torch.stack([truth(n, r) for n in nodes]).amin(0).mean()) for r in reads] if known else []
        )
        several = known and len(nodes) > 1
        rows = [row for row in table if row is not None]
        ends = {"before": latents[0][kept], "after": latents[-1][kept]}
        return Scores(
            accuracy={str(node): row for node, row in zip(nodes, table)},
            together={"before": whole[0], "after": whole[-1]} if known else None,
            des=edit_strengths(rows) if several else None,
            des_relative=relative_strengths(rows) if several else None,
            drift=self._drifts(nodes, reads),
            frechet=self._distances({"before": stages[0][kept], "after": stages[-1][kept]})
            if distances
            else None,
            norm={key: float(z.norm(dim=1).mean()) for key, z in ends.items()},
            plausibility={key: float(z.square().mean()) for key, z in ends.items()},
            judge=self.name,
        )

    def _drifts(self, nodes: Sequence[Node], reads: Sequence[Mapping[str, Tensor]]) -> list[dict[str, float]]:
        named: set[str] = set()
        found = []
        for node, old, new in zip(nodes, reads, reads[1:]):
            named |= {name for term in terms(node) for name in self.module.alike(term.name)}
            found.append({name: changed(old[name], new[name]) for name in old if name not in named})
        return found

    def _accuracies(self, node: Node, reads: Sequence[Mapping[str, Tensor]]) -> list[float] | None:
        if any(not self._judged(term.name) for term in terms(node)):
            return None
        return [float(truth(node, read).mean()) for read in reads]

    def _distances(self, pictures: Mapping[str, Tensor]) -> dict[str, float] | None:
        if self.judge is None or len(pictures["after"]) < 2:
            return None
        data = open_set(self.module.recipe.data, "train")
        real = self.moments(to_model(data.take(range(min(MOST, len(data)))).x))
        return {key: frechet_distance(self.moments(x), real) for key, x in pictures.items()}

    @torch.no_grad()
    def moments(self, x: Tensor) -> Gaussian:
        """Of the judge's features of pictures (N, C, H, W) in [-1, 1]."""
        assert self.judge is not None
        found = Moments(self.judge.output.in_features)
        for part in x.split(BLOCK):
            found.update(self.judge.features(part.clamp(-1, 1).to(self.judge.device)).cpu())
        gaussian: Gaussian = found.compute()
        return gaussian


def edit_strengths(table: Sequence[Sequence[float]]) -> list[float]:
    """The disentangled edit strength of every edit, in absolute accuracy.

    Args:
        table: accuracy of formula i before (column 0) and after edit j (column j + 1).
    """
    return [_strength([row[k + 1] - row[k] for row in table], k) for k in range(len(table))]


def relative_strengths(table: Sequence[Sequence[float]]) -> list[float | None]:
    """As `edit_strengths`, of changes relative to the accuracy before; None where one of these is 0."""
    return [
        _strength([row[k + 1] / row[k] - 1 for row in table], k) if all(row[k] > 0 for row in table) else None
        for k in range(len(table))
    ]


def _strength(change: Sequence[float], k: int) -> float:
    return change[k] - max((abs(c) for j, c in enumerate(change) if j != k), default=0.0)


def changed(old: Tensor, new: Tensor) -> float:
    """How far readings (N,) are apart: mean |difference| of numbers, share of classes that differ."""
    return float((old - new).abs().mean() if old.is_floating_point() else (old != new).float().mean())


def load_verdict(
    module: LaceModule, classifier: str | None, device: torch.device, *, allow_same_judge: bool
) -> Verdict:
    """The judge of a lace run's edits.

    Raises:
        UserError: no classifier, of other pictures, or the labeller itself.
    """
    if classifier is None:
        return Verdict(module, None, None, frozenset())
    run, judging, judge = load_judge(classifier, module.spec.shape, device)
    digest = digest_of(judging.model.state_dict())
    attributes = module.recipe.model.attributes
    same = [name for name, known in module.model.digests().items() if known == digest]
    if same and not allow_same_judge:
        raise UserError(
            f"it gave the labels of {', '.join(same)} itself, and would agree with them: name another, or add "
            "--allow-same-judge",
            "--classifier",
        )
    reads = frozenset(
        name
        for name, config in attributes.items()
        if isinstance(config, FromClassifier) and len(module.classes_of[name]) == judging.spec.classes
    )
    return Verdict(module, judge, run.path.name, reads)
