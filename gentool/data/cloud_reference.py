"""Test clouds as the authors of LION (2210.06978) pass them round, for `gentool evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from gentool.data.options import DataConfig, Split

if TYPE_CHECKING:
    from gentool.data.source import Source


class CloudReferenceConfig(DataConfig):
    """A file to hold samples against. It is none of the data sets of recipes, so that nobody trains on it: both splits
    are the same clouds."""

    name: Literal["cloud-reference"] = "cloud-reference"
    """Test clouds of published evaluations."""
    path: str
    """The .pt file with `ref` (N, P, 3), normalised, and `mean` and `std` of each cloud, as torch.save writes it."""

    what: ClassVar[str] = (
        "test clouds of published evaluations, to hold samples against: a .pt of ref, mean, std"
    )
    origin: ClassVar[str] = "path (ref_val_*.pt of LION's authors)"

    def has_test(self) -> bool:
        return True

    def source(self, split: Split) -> Source:
        from gentool.data.reference_clouds import read_reference  # here, not above: it imports torch

        return read_reference(self.path)

    def present(self) -> bool:
        return Path(self.path).is_file()
