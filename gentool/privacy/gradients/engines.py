"""The engines by name."""

from __future__ import annotations

from gentool.privacy.gradients.engine import Engine
from gentool.privacy.gradients.functional import Microbatch, Vmap
from gentool.privacy.gradients.layers import Layers
from gentool.privacy.gradients.opacus import Opacus

ENGINES: dict[str, type[Engine]] = {
    "layers": Layers,
    "vmap": Vmap,
    "microbatch": Microbatch,
    "opacus": Opacus,
}
"""The recipe's `privacy.engine`."""
