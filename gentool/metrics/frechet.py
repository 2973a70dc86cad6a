"""Frechet distance of Gaussians fitted to features; FID (Heusel et al. 2017, equation 6) with Inception's."""

from __future__ import annotations

import torch
from scipy.linalg.lapack import dsygst
from torch import Tensor

from gentool.errors import UserError
from gentool.metrics.evidence import Evidence, Judgement
from gentool.metrics.moments import Gaussian

EPS = torch.finfo(torch.float64).eps


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a S_b)^(1/2)), at least 0.

    The eigenvalues of S_a S_b are those of the symmetric L' S_b L with S_a = L L': Cholesky and a symmetric
    eigenvalue problem cost a fraction of a general square root. Where a covariance is singular to working
    precision (fewer images than dimensions, dead features), the square root of its round-off would count: the
    trace is then the nuclear norm of A'B, with S_a = A A' and S_b = B B' cut at their numerical ranks.

    Raises:
        UserError: moments of other sizes, or not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"features of {a.mean.numel()} and of {b.mean.numel()} dimensions cannot be compared")
    s_a, s_b = torch.atleast_2d(a.covariance.cpu(), b.covariance.cpu())
    offset = (a.mean - b.mean).square().sum().cpu()
    if not (offset + s_a.sum() + s_b.sum()).isfinite():
        raise UserError("the moments are not finite; a feature extractor must not give NaN or infinity")
    return max(0.0, float(offset + s_a.trace() + s_b.trace() - 2 * _trace_of_root(s_a, s_b)))


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr((a b)^(1/2)) of symmetric positive semidefinite matrices (d, d)."""
    if _cholesky(b) is None or (lower := _cholesky(a)) is None:
        return torch.linalg.svdvals(_factor(a).T @ _factor(b)).sum()
    # LAPACK's reduction of the generalised problem is L' b L at a quarter of the cost of two products.
    reduced, _ = dsygst(b.numpy().T, lower.numpy(), itype=2, lower=1)
    del lower
    return torch.linalg.eigvalsh(torch.from_numpy(reduced), UPLO="L").clamp(min=0).sqrt().sum()


def _cholesky(matrix: Tensor) -> Tensor | None:
    """The lower factor, or None where the matrix is singular to working precision."""
    lower, failed = torch.linalg.cholesky_ex(matrix)
    noise = len(matrix) * EPS * matrix.diagonal().max()
    return None if failed or lower.diagonal().min() ** 2 <= noise else lower


def _factor(matrix: Tensor) -> Tensor:
    """(d, rank) with matrix = factor factor'."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > len(values) * EPS * values[-1]
    return vectors[:, kept] * values[kept].sqrt()


def fid(evidence: Evidence) -> Judgement:
    """`fid`: lower is better; biased upwards when there are few samples."""
    samples, reference = evidence.samples.moments, evidence.reference.moments
    dim = samples.mean.numel()
    warnings = tuple(
        f"fid: {moments.n} images in {name} for {dim} feature dimensions: the covariance is rank-deficient "
        "and the figure biased upwards; compare it only with figures of the same count"
        for name, moments in ((evidence.samples.name, samples), (evidence.reference.name, reference))
        if moments.n <= dim
    )
    value = frechet_distance(samples, reference)
    return Judgement({"fid": value}, {"samples": samples.n, "reference": reference.n}, warnings)
