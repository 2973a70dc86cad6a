"""The base diffusion family: one denoiser and nothing beside it (EDM, arXiv 2206.00364)."""

from __future__ import annotations

from gentool.training.denoising import DenoisingModule


class EdmModule(DenoisingModule):
    """All of it is on the shared floor."""
