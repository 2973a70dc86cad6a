"""The diffusion transformer DiT with adaLN-zero.

Source: Peebles and Xie 2023, section 3.2 and their initialisation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks import config as configs
from gentool.networks.attention import SelfAttention
from gentool.networks.base import Features, Network
from gentool.networks.embedding import Mapping, Positional

NOISE_WIDTH = 256  # width of the sinusoids before the MLP, whatever the size of the transformer


class LayerNorm(nn.Module):
    """Layer normalisation without weights over the last axis, statistics in float32, then scale and shift."""

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x (B, N, C); scale and shift (B, C): (1 + scale) * normalised x + shift."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        normal = F.layer_norm(x.to(dtype), x.shape[-1:], eps=1e-6).to(x.dtype)
        return normal * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Attention and MLP, each scaled, shifted and gated by the embedding: (B, N, C), (B, C) -> (B, N, C)."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = LayerNorm()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU("tanh"), nn.Linear(mlp_ratio * width, width)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift0, scale0, gate0, shift1, scale1, gate1 = self.modulation(emb).chunk(6, dim=1)
        x = x + gate0[:, None] * self.attention(self.norm(x, scale0, shift0))
        return x + gate1[:, None] * self.mlp(self.norm(x, scale1, shift1))


class DiT(Network):
    """Patches to tokens, `depth` blocks, tokens to patches.

    `Features.last` is the grid of tokens before the output norm, (B, width, H/patch, W/patch).

    Raises:
        UserError: the image cannot be cut into patches.
    """

    positions: Tensor

    def __init__(
        self, config: configs.DiT, in_channels: int, out_channels: int, size: tuple[int, ...], classes: int
    ) -> None:
        super().__init__()
        if len(size) != 2:
            raise UserError(f"dit needs images; for vectors of length {size[0]} use the network film-mlp")
        patch, width = config.patch, config.width
        if size[0] % patch or size[1] % patch:
            fitting = [n for n in range(1, min(size) + 1) if size[0] % n == 0 and size[1] % n == 0]
            raise UserError(
                f"images of {size[0]}x{size[1]} cannot be cut into patches of {patch}x{patch}: "
                f"`patch` can be {', '.join(map(str, fitting))}"
            )
        self.patch = patch
        self.grid = (size[0] // patch, size[1] // patch)
        self.mapping = Mapping(
            Positional(NOISE_WIDTH, endpoint=False),
            NOISE_WIDTH,
            width,
            classes=classes,
            label=nn.Embedding(classes + 1, width) if classes else None,
            label_last=True,
            augment=config.augment,
        )
        self.input = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.register_buffer("positions", grid_positions(self.grid, width), persistent=False)
        self.blocks = nn.ModuleList(
            [Block(width, config.heads, config.mlp_ratio) for _ in range(config.depth)]
        )
        self.norm = LayerNorm()
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, patch * patch * out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Xavier, small embeddings; zeros so that blocks start as the identity and the output as 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(
                    module.weight.view(module.out_channels, -1)
                )  # a linear map of patches
                nn.init.zeros_(module.bias)
        for layer in (self.mapping.linear0, self.mapping.linear1):
            nn.init.normal_(layer.weight, std=0.02)
        starts = [module.modulation for module in self.blocks if isinstance(module, Block)]
        for layer in (self.modulation, self.output, *starts):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def features(
        self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None
    ) -> Features:
        emb = self.mapping(c_noise, label, augment)
        active = F.silu(emb)
        h = self.input(x).flatten(2).transpose(1, 2)
        h = h + self.positions.to(h.dtype)
        for block in self.blocks:
            h = block(h, active)
        shift, scale = self.modulation(active).chunk(2, dim=1)
        out = self.output(self.norm(h, scale, shift))
        # (B, rows * columns, patch * patch * C) -> (B, C, rows * patch, columns * patch)
        out = out.unflatten(2, (self.patch, self.patch, -1)).unflatten(1, self.grid)
        out = out.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return Features(out, h.transpose(1, 2).unflatten(2, self.grid), emb)


def grid_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed position codes (rows * columns, width): sin and cos of the column, then those of the row."""
    quarter = width // 4
    frequency = torch.exp(torch.arange(quarter, dtype=torch.float64) * (-math.log(10_000) / quarter))
    rows, columns = (torch.arange(n, dtype=torch.float64)[:, None] * frequency for n in grid)
    row = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, grid[1], -1)
    column = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(grid[0], -1, -1)
    return torch.cat([column, row], dim=2).flatten(0, 1).float()
