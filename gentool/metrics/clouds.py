"""Judging clouds of points: 1-NNA, MMD and COV by the Chamfer and earth mover's distances, and JSD.

The protocol of PointFlow (Yang et al. 2019, 1906.12320, section 5.1): as many samples as there are held-out shapes,
all pairs of clouds. Achlioptas et al. 2018 (1707.02392, section 2) define MMD, COV and JSD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from gentool.data.spec import Frame
from gentool.errors import UserError
from gentool.metrics.evidence import Evidence, Judgement, subset
from gentool.metrics.features import Workshop
from gentool.metrics.images import Images, ImageSet
from gentool.metrics.options import CloudOptions
from gentool.points.distances import EmdForm, chamfer, emd

BLOCK_BYTES = 1 << 28
"""About this much memory is taken by the distances between points that exist at once."""
FEW = 20
"""Below this many references 1-NNA is mostly chance."""
GRID = 28
"""Cells along each axis of JSD's grid."""
OUTSIDE = 0.01
"""More than this share of points outside JSD's sphere makes it doubtful."""


class Clouds:
    """The eyes for clouds: their points where published figures are measured, (P, 3) in a row.

    Sets normalised as a whole are brought back to the data's own units. Where each shape has a box of its own, clouds
    are put into theirs again, samples too, and halved: the longest side is 1.
    """

    name = "clouds"
    note = ""

    def __init__(self, reference: Images, workshop: Workshop) -> None:
        if len(reference.shape) != 2:
            raise UserError("the extractor 'clouds' is for clouds of points", reference.name)
        self.device, self.dim = workshop.device, 3 * reference.shape[0]
        self.frame = reference.frame if isinstance(reference, ImageSet) else None
        self.preprocessing = _protocol(self.frame)
        self.identity = f"clouds-1 {self.dim} {self.frame}"

    def __call__(self, x: Tensor, classify: bool) -> tuple[Tensor, None]:
        x = x.to(self.device)
        if self.frame is not None and self.frame.mode == "shape-box":
            low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
            x = (x - (low + high) / 2) / (high - low).amax(2, keepdim=True).clamp_min(1e-12)
        elif self.frame is not None:
            x = x * self.frame.scale + x.new_tensor(self.frame.centre)
        return x.flatten(1), None


def _protocol(frame: Frame | None) -> str:
    if frame is None or frame.mode == "none":
        return "points as stored"
    if frame.mode == "shape-box":
        return "shape-box: each cloud centred in its box, longest side 1"
    return f"global: points x {frame.scale:.6g} + mean, the data's own units"


def pairs(x: Tensor, y: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`distance` of every cloud of x (n, P, 3) to every one of y (m, P, 3), block by block: (n, m) on the CPU."""
    block = max(1, BLOCK_BYTES // (4 * x.element_size() * x.shape[1] * y.shape[1]))
    out = torch.empty(len(x), len(y))
    for i, cloud in enumerate(x):
        for j in range(0, len(y), block):
            others = y[j : j + block]
            out[i, j : j + block] = distance(cloud.expand_as(others), others).cpu()
    return out


def chamfer_pairs(x: Tensor, y: Tensor) -> Tensor:
    """Chamfer distances (n, m) of clouds (n, P, 3) and (m, P, 3); on the CPU by search trees, ten times as fast."""
    if x.device.type != "cpu":
        return pairs(x, y, chamfer)
    ours = [(cloud, cKDTree(cloud)) for cloud in x.numpy()]
    theirs = ours if y is x else [(cloud, cKDTree(cloud)) for cloud in y.numpy()]
    out = np.zeros((len(x), len(y)))
    for i, (cloud, tree) in enumerate(ours):
        for j, (other, other_tree) in enumerate(theirs):
            if y is x and j <= i:
                out[i, j] = out[j, i]
                continue
            forth, back = other_tree.query(cloud)[0], tree.query(other)[0]
            out[i, j] = np.square(forth).mean() + np.square(back).mean()
    return torch.from_numpy(out).float()


def nearest_neighbour_accuracy(rr: Tensor, rs: Tensor, ss: Tensor) -> float:
    """Leave-one-out 1-NN accuracy of telling samples from references (Lopez-Paz and Oquab 2017); 0.5 is best.

    Below 0.5 samples sit closer to single references than references do to each other: copies. Of equally near
    neighbours the first counts, references before samples.

    Args:
        rr, rs, ss: distances (n, n) of references and samples: rows are the neighbours looked for.
    """
    n = len(rr)
    whole = torch.cat([torch.cat([rr, rs], 1), torch.cat([rs.T, ss], 1)])
    nearest = whole.fill_diagonal_(torch.inf).argmin(0)
    return float(((nearest < n) == (torch.arange(len(whole)) < n)).double().mean())


def minimum_matching(rs: Tensor) -> float:
    """MMD: the mean over references (rows) of the distance to the nearest sample."""
    return float(rs.amin(1).double().mean())


def coverage(rs: Tensor) -> float:
    """COV: the share of references (rows) that are the nearest one of some sample."""
    return len(rs.argmin(0).unique()) / len(rs)


def _judged(
    evidence: Evidence, options: CloudOptions
) -> tuple[Tensor, Tensor, dict[str, Any], tuple[str, ...]]:
    """Samples and references (n, P, 3), as many of each, what was compared, and what to mind."""
    assert evidence.held_out is not None
    samples, references = (s.clouds.unflatten(1, (-1, 3)) for s in (evidence.samples, evidence.held_out))
    n, warnings = min(len(samples), len(references)), []
    if len(samples) != len(references):
        warnings.append(
            f"{len(samples)} samples against {len(references)} held-out shapes: {n} of each, chosen at random"
        )
    if n < FEW:
        warnings.append(
            f"{n} shapes are few: 1-NNA has a standard deviation of about {(0.125 / n) ** 0.5:.2f}"
        )
    # at random, not the first: sets lie class by class
    chosen = (subset(s, n, evidence.seed) for s in (samples, references))
    samples, references = (s[:, : options.points].contiguous() for s in chosen)
    details = {"samples": n, "references": n, "points": samples.shape[1], "reference": evidence.held_out.name}
    return samples, references, details, tuple(warnings)


def _by_distance(
    evidence: Evidence,
    options: CloudOptions,
    name: str,
    what: str,
    matrix: Callable[[Tensor, Tensor], Tensor],
) -> Judgement:
    samples, references, details, warnings = _judged(evidence, options)
    rs = matrix(references, samples)
    rr, ss = matrix(references, references), matrix(samples, samples)
    values = {
        f"1-nna-{name}": nearest_neighbour_accuracy(rr, rs, ss),
        f"mmd-{name}": minimum_matching(rs),
        f"cov-{name}": coverage(rs),
    }
    return Judgement(values, {"distance": what, **details}, warnings)


def cloud_cd(evidence: Evidence, options: CloudOptions) -> Judgement:
    """1-NNA, MMD and COV by the Chamfer distance, the sum of both directions' mean squared distances."""
    what = "Chamfer: mean squared distance to the nearest point, both directions added"
    return _by_distance(evidence, options, "cd", what, chamfer_pairs)


def cloud_emd_approx(evidence: Evidence, options: CloudOptions) -> Judgement:
    """1-NNA, MMD and COV by the approximate earth mover's distance that papers print."""
    what = "approximate earth mover's, squared distances (the approxmatch of Fan et al. 2017)"
    return _by_distance(evidence, options, "emd-approx", what, _emd_pairs("approximate"))


def cloud_emd_exact(evidence: Evidence, options: CloudOptions) -> Judgement:
    """1-NNA, MMD and COV by the exact earth mover's distance."""
    what = "exact earth mover's, mean distance of the best matching"
    return _by_distance(evidence, options, "emd-exact", what, _emd_pairs("exact"))


def _emd_pairs(form: EmdForm) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: pairs(x, y, lambda a, b: emd(a, b, form))


def occupancy(clouds: Tensor) -> np.ndarray:
    """How many points (of (n, P, 3)) have each place of the grid inside the sphere of radius 0.5 as their nearest."""
    ticks = np.linspace(-0.5, 0.5, GRID)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)
    inside = cKDTree(grid[np.linalg.norm(grid, axis=1) <= 0.5])
    nearest = inside.query(clouds.reshape(-1, 3).cpu().numpy())[1]
    return np.bincount(nearest, minlength=inside.n)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """The divergence of two histograms in bits, 0 to 1."""
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2

    def entropy(h: np.ndarray) -> float:
        return float(-(h[h > 0] * np.log2(h[h > 0])).sum())

    return entropy(middle) - (entropy(p) + entropy(q)) / 2


def cloud_jsd(evidence: Evidence, options: CloudOptions) -> Judgement:
    """`jsd`: where all samples' points lie against all references', on a 28^3 grid inside the sphere of radius 0.5."""
    samples, references, details, warnings = _judged(evidence, options)
    outside = float((references.norm(dim=2) > 0.5).double().mean())
    if outside > OUTSIDE:
        warnings += (
            f"jsd: {outside:.0%} of the reference's points lie outside the sphere of radius 0.5 and count at its rim; "
            "it is meant for shapes that fit in there, and here it says less",
        )
    value = jensen_shannon(occupancy(samples), occupancy(references))
    return Judgement({"jsd": max(value, 0.0)}, {"grid": GRID, "outside": outside, **details}, warnings)
