"""Files of test clouds as torch.save writes them, read without executing a pickle."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gentool.data.arrays import ArraySource
from gentool.data.spec import Frame
from gentool.errors import CorruptError, UserError

_WANTED = "expected {'ref': (N, P, 3), 'mean': (N, 1, 3), 'std': (N, 1, 1)} of float tensors"


def read_reference(path: str) -> ArraySource:
    """Clouds (N, P, 3) as stored, normalised; a cloud was ref * std + mean.

    Where all clouds share one mean and one deviation, these are the frame `global`; else each is in its own box.

    Raises:
        UserError: no such file, or one that only a pickle's code could read; says how to convert it.
        CorruptError: damaged, or of another layout.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError("no such file", path) from None
    except pickle.UnpicklingError as error:
        raise UserError(
            "holds more than tensors, and is not read: unpickling it could run any code. Where it is trusted, write "
            "it again as tensors: f = torch.load(FILE, weights_only=False); torch.save({k: torch.as_tensor(f[k]) "
            "for k in ('ref', 'mean', 'std')}, NEW)",
            path,
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CorruptError(f"cannot be read ({error})", path) from error
    ref, mean, std = _parts(found, path)
    source = ArraySource(path, ref.numpy(), None)
    source.spec = replace(source.spec, frame=_frame(mean, std))
    return source


def _parts(found: object, path: str) -> tuple[Tensor, Tensor, Tensor]:
    """`ref` (N, P, 3) float32, `mean` (N, 3) and `std` (N, 1 or 3) float64."""
    values = [found.get(key) if isinstance(found, dict) else None for key in ("ref", "mean", "std")]
    ref, mean, std = (v if isinstance(v, Tensor) and v.is_floating_point() else None for v in values)
    if ref is None or mean is None or std is None:
        raise CorruptError(_WANTED, path)
    if ref.dim() != 3 or ref.shape[2] < 3 or len(mean) < len(ref) or len(std) < len(ref) or not len(ref):
        shapes = ", ".join(str(tuple(v.shape)) for v in (ref, mean, std))
        raise CorruptError(f"{_WANTED}, found {shapes}", path)
    mean, std = (v[: len(ref)].double().reshape(len(ref), -1) for v in (mean, std))
    if mean.shape[1] not in (1, 3) or std.shape[1] not in (1, 3) or not (std > 0).all():
        raise CorruptError(f"{_WANTED}, std above 0", path)
    return ref[:, :, :3].float().contiguous(), mean.expand(-1, 3), std


def _frame(mean: Tensor, std: Tensor) -> Frame:
    shared = all(torch.allclose(v, v[:1], rtol=1e-5, atol=1e-6) for v in (mean, std))
    if not (shared and np.ptp(std[0].numpy()) < 1e-6):
        return Frame("shape-box")
    x, y, z = mean[0].tolist()
    return Frame("global", (x, y, z), float(std[0, 0]))
