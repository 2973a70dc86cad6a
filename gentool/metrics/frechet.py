"""Frechet distance of Gaussians fitted to features (FID with Inception features: Heusel et al. 2017, equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.moments import Gaussian


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)), at least 0.

    The eigenvalues of S_a S_b are those of the symmetric L' S_b L with S_a = L L': Cholesky and a symmetric
    eigenvalue problem cost a fraction of a general square root. Where a covariance is singular to working precision
    (fewer images than dimensions, dead features), the square root of its round-off would count: the trace is then
    the nuclear norm of A'B, with S_a = A A' and S_b = B B' cut at their numerical ranks.

    Raises:
        UserError: moments of other sizes, or not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {len(a.mean)} and of {len(b.mean)} dimensions cannot be compared")
    offset = (a.mean - b.mean).square().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    if not (offset.isfinite() and a.covariance.isfinite().all() and b.covariance.isfinite().all()):
        raise UserError("the moments are not finite; a feature extractor must not give NaN or infinity")
    return max(0.0, float(offset + traces - 2 * _trace_of_root(a.covariance, b.covariance)))


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr((a b)^(1/2)) of symmetric positive semidefinite matrices (d, d)."""
    if (lower := _cholesky(a)) is None or _cholesky(b) is None:
        return torch.linalg.svdvals(_factor(a).T @ _factor(b)).sum()
    product = b @ lower
    width = max(64, len(a) // 8)
    for columns in product.split(width, dim=1):  # in place, by blocks: a third matrix would be the peak of memory
        columns.copy_(lower.T @ columns)
    del lower
    return torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()


def _noise(matrix: Tensor) -> Tensor:
    """Eigenvalues below this are round-off."""
    return len(matrix) * torch.finfo(matrix.dtype).eps * matrix.diagonal().max()


def _cholesky(matrix: Tensor) -> Tensor | None:
    """The lower factor, or None where the matrix is singular to working precision."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    return None if failed or lower.diagonal().min() ** 2 <= _noise(matrix) else lower


def _factor(matrix: Tensor) -> Tensor:
    """(d, rank) with matrix = factor factor'."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > len(matrix) * torch.finfo(matrix.dtype).eps * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def fid(evidence: Evidence) -> Judgement:
    """`fid`: lower is better; biased upwards when there are few samples."""
    samples, reference = evidence.samples.moments, evidence.reference.moments
    dim = len(samples.mean)
    warnings = tuple(
        f"fid: {moments.count} images in {name} for {dim} feature dimensions: the covariance is rank-deficient and the "
        "figure biased upwards; compare it only with figures of the same count"
        for name, moments in ((evidence.samples.name, samples), (evidence.reference.name, reference))
        if moments.count <= dim
    )
    value = frechet_distance(samples, reference)
    return Judgement({"fid": value}, {"samples": samples.count, "reference": reference.count}, warnings)
