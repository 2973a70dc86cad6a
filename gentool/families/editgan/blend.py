"""A region of one picture in another, by its gradients (Perez, Gangnet and Blake 2003, Poisson image editing)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor


def poisson_blend(photo: Tensor, edited: Tensor, region: Tensor) -> Tensor:
    """The photo, with the edited picture's gradients inside the region and the photo's own values around it.

    Solves the discrete Poisson equation on four neighbours; at the picture's edge there is no gradient to match. A
    region that is the whole picture takes the edited one as it is: nothing is left to fix its mean by.

    Args:
        photo, edited: (C, H, W).
        region: (H, W) bool.

    Returns:
        (C, H, W) like the photo.
    """
    inside = region.cpu().numpy()
    if not inside.any():
        return photo.clone()
    if inside.all():
        return edited.clone()
    target, source = (v.detach().cpu().double().numpy() for v in (photo, edited))
    number = np.full(inside.shape, -1)
    number[inside] = np.arange(inside.sum())
    degree = np.zeros(int(inside.sum()))
    right = np.zeros((len(target), len(degree)))
    rows, columns = [], []
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        y, x = np.nonzero(inside)
        v, u = y + dy, x + dx
        there = (v >= 0) & (v < inside.shape[0]) & (u >= 0) & (u < inside.shape[1])
        y, x, v, u = y[there], x[there], v[there], u[there]
        me, other = number[y, x], number[v, u]
        np.add.at(degree, me, 1)
        np.add.at(right.T, me, (source[:, y, x] - source[:, v, u]).T)
        known = other < 0
        np.add.at(right.T, me[known], target[:, v[known], u[known]].T)
        rows.append(me[~known])
        columns.append(other[~known])
    row, column, diagonal = np.concatenate(rows), np.concatenate(columns), np.arange(len(degree))
    matrix = coo_matrix(
        (
            np.concatenate([-np.ones(len(row)), degree]),
            (np.concatenate([row, diagonal]), np.concatenate([column, diagonal])),
        )
    ).tocsc()
    found = target.copy()
    found[:, inside] = np.stack([spsolve(matrix, side) for side in right])
    return torch.from_numpy(found).to(photo)
