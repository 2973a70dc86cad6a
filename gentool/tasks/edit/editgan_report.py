"""What an edit by label maps did: figures, and what `gentool edit --json` prints of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentool.families.editgan.labels import painted


@dataclass(frozen=True)
class Figures:
    """Of N pictures, on the CPU.

    Attributes:
        before, after: (N, C, H, W) the generator's pictures; pasted: the edit in the photos.
        labels, wanted, said: (N, H, W) label maps before, as asked for, and after.
        region: (N, H, W) bool.
        codes, delta: (N, styles, width) the codes before, and their change.
        psnr: (N,) dB of the inversion; infinite for samples.
        cross_entropy: (N,) of the labels in the region.
    """

    before: Tensor
    after: Tensor
    pasted: Tensor
    labels: Tensor
    wanted: Tensor
    said: Tensor
    region: Tensor
    codes: Tensor
    delta: Tensor
    psnr: Tensor
    cross_entropy: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Figures]) -> Figures:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def edited(self) -> Tensor:
        """(N,) bool: pictures whose codes changed."""
        return self.delta.flatten(1).any(1)

    def change(self) -> tuple[float, float]:
        """Mean absolute change of a pixel in [0, 1], inside and outside the region, over edited pictures."""
        rows = self.edited()
        change = (self.after - self.before).abs().mean(1)[rows] / 2
        inside = self.region[rows]
        return tuple(  # type: ignore[return-value]
            float(change[where].mean()) if bool(where.any()) else 0.0 for where in (inside, ~inside)
        )

    def agreement(self) -> float | None:
        """Share of pixels to be relabelled that the heads read as wished; None where there are none."""
        changed = self.wanted != self.labels
        return float((self.said == self.wanted)[changed].float().mean()) if bool(changed.any()) else None

    def painted(self, channels: int, classes: int) -> np.ndarray:
        """(N, H, W, C) uint8 of the wanted label maps: shades of gray, or colours beside RGB."""
        if channels == 3:
            return painted(self.wanted, classes)
        shades = (self.wanted * 255 // max(1, classes - 1)).numpy().astype(np.uint8)
        return np.repeat(shades[..., None], channels, axis=-1)

    def document(self) -> dict[str, Any]:
        """In JSON's words."""
        inside, outside = self.change()
        return {
            "edited": int(self.edited().sum()),
            "changed_inside": inside,
            "changed_outside": outside,
            "agreement": self.agreement(),
            "cross_entropy": float(self.cross_entropy.mean()),
            "moved_by_layer": self.delta.norm(dim=2).mean(0).tolist(),
        }


@dataclass(frozen=True)
class Edited:
    """The files, and what was measured.

    Attributes:
        paths: one, or of a single picture one for every scale of the vector.
        figures: one, or one for every scale.
    """

    paths: list[Path]
    panel: Path
    labels: Path | None
    vector: Path | None
    codes: Path | None
    how: dict[str, Any]
    scales: tuple[float, ...]
    figures: list[Figures]
    seconds: float

    def document(self) -> dict[str, Any]:
        """What `gentool edit --json` prints; of several scales `scales` has the figures, and the last one's stand
        where one edit's do."""
        last, rest = self.figures[-1], {}
        finite = last.psnr[last.psnr.isfinite()]
        if len(self.scales) > 1:
            paths = self.paths if len(self.paths) > 1 else self.paths * len(self.scales)
            rest["scales"] = [
                {"scale": scale, "path": str(path), **figures.document()}
                for scale, path, figures in zip(self.scales, paths, self.figures, strict=True)
            ]
        return {
            "path": str(self.paths[-1]),
            "panel": str(self.panel),
            "labels": None if self.labels is None else str(self.labels),
            "saved_vector": None if self.vector is None else str(self.vector),
            "saved_codes": None if self.codes is None else str(self.codes),
            "count": len(last.before),
            **self.how,
            "psnr": float(finite.mean()) if len(finite) else None,
            **last.document(),
            **rest,
            "seconds": round(self.seconds, 3),
        }
