"""Examples that hold no data: for dry runs, and for what private training checks before its first step."""

from __future__ import annotations

import torch

from gentool.data import Batch, DataSpec


def random_batch(spec: DataSpec, size: int, device: torch.device) -> Batch:
    """Data of the right shape and type, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    if spec.kind == "image":
        x = torch.randint(0, 256, (size, *spec.shape), generator=generator, dtype=torch.uint8)
    else:
        x = torch.randn(size, *spec.shape, generator=generator)
    labels = torch.randint(0, max(1, spec.classes), (size,), generator=generator)
    return Batch(x.to(device), labels.to(device), torch.arange(size, device=device))
