"""Small modules with K draws a record, for tests of private gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from gentool import families
from gentool.data import open_set
from gentool.recipes.resolve import resolve_text
from gentool.tasks.model.build import build_module
from gentool.training.module import GenModule

NETWORKS = {
    "mlp": "{name: film-mlp, width: 32, blocks: 2}",
    "concat": "{name: concat-mlp, width: 32}",
    "u-net": "{name: song-unet, channels: 8, mult: [1, 2], blocks: 1, attention: [4], label_embedding: table}",
    "transformer": "{name: dit, width: 16, depth: 2, heads: 2}",
}
CASES = tuple(NETWORKS)


def private_module(network: str, draws: int = 1, privacy: str = "noise_multiplier: 1.0") -> GenModule:
    text = (
        "family: edm\nema: null\ndata: {name: digits, limit: 64, batch_size: 16}\n"
        f"model: {{network: {NETWORKS[network]}, conditional: true, precond: {{name: edm, sigma_data: 0.577}}}}\n"
        f"privacy: {{{privacy}, noise_multiplicity: {draws}}}\n"
    )
    recipe = resolve_text(text, "case", families.recipe_schema).recipe
    module = build_module(recipe, open_set(recipe.data, "train").spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module


def drawn_module(network: str, draws: int) -> tuple[GenModule, dict[str, Tensor]]:
    """A module and the examples of four records with `draws` draws each."""
    module = private_module(network, draws)
    examples = module.try_examples(open_set(module.recipe.data, "train").take([0, 1, 2, 3]))
    assert examples["u"].shape == (4, draws)
    return module, examples
