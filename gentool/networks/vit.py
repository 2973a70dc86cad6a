"""The vision transformer, its tensors named as timm's, so that published weights fit.

Source: Dosovitskiy et al. 2021; Touvron et al. 2021 (DeiT) for sizes, initialisation and stochastic depth.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.networks.attention import SelfAttention
from gentool.networks.classifier import Classifier
from gentool.networks.vit_config import ViT as ViTConfig

EPS = 1e-6


class DropPath(nn.Module):
    """Leaves a residual branch out for a share `rate` of the examples, and makes up for it in the others."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.rand(len(x), device=x.device) < keep
        return x * (kept / keep).to(x.dtype).view(-1, *[1] * (x.ndim - 1))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        hidden = mlp_ratio * width
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, width))
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, z: Tensor, bias: Tensor | None = None) -> Tensor:
        """Tokens (B, N, d) to tokens; `bias` (B, 1, 1, N) on the attention's logits takes keys out."""
        z = z + self.drop_path(self.attn(self.norm1(z), bias))
        return z + self.drop_path(self.mlp(self.norm2(z)))


class PatchEmbed(nn.Module):
    """Pictures (B, C, H, W) to a token a patch, (B, HW / patch^2, width), row by row."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x)
        return tokens.flatten(2).transpose(1, 2)


class Heads(nn.Linear):
    """Features of several tokens side by side (B, tokens d) to the mean of their logits (B, classes)."""

    def __init__(self, width: int, classes: int, tokens: int) -> None:
        super().__init__(tokens * width, classes)
        self.tokens = tokens
        self.bias = nn.Parameter(torch.zeros(tokens * classes))

    def forward(self, features: Tensor) -> Tensor:
        bias = self.bias.view(self.tokens, -1).mean(0)
        return F.linear(features, self.weight / self.tokens, bias)

    def each(self, features: Tensor) -> list[Tensor]:
        """The logits (B, classes) of every token by itself."""
        parts = zip(*(part.chunk(self.tokens, -1) for part in (features, self.weight, self.bias)))
        return [F.linear(*part) for part in parts]


class ViT(Classifier):
    """Class token, registers and patches through `depth` blocks; the class token after a last norm is the features.

    Attributes:
        grid: rows and columns of patches.
        readers: tokens that are read, the first: the class token, and the distillation token of a distilled one.
        specials: tokens before the patches: the readers, then the registers.

    Raises:
        UserError: the pictures cannot be cut into patches.
    """

    def __init__(self, config: ViTConfig, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        (channels, height, width), patch, d = shape, config.patch, config.width
        if height % patch or width % patch:
            fitting = [n for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0]
            raise UserError(
                f"images of {height}x{width} cannot be cut into patches of {patch}x{patch}: it can be "
                f"{', '.join(map(str, fitting))}",
                "model.network.patch",
            )
        self.config = config
        self.grid = (height // patch, width // patch)
        self.readers = 2 if config.distilled else 1
        self.specials = self.readers + config.registers
        self.patch_embed = PatchEmbed(channels, d, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        self.registers = nn.Parameter(torch.zeros(1, config.registers, d)) if config.registers else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, d)) if config.distilled else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.readers + self.grid[0] * self.grid[1], d))
        last = max(1, config.depth - 1)
        rates = [config.drop_path * block / last for block in range(config.depth)]
        self.blocks = nn.ModuleList([Block(d, config.heads, config.mlp_ratio, rate) for rate in rates])
        self.norm = nn.LayerNorm(d, eps=EPS)
        self.dropout = nn.Identity()
        self.output = Heads(d, classes, 2) if config.distilled else nn.Linear(d, classes)
        self.apply(initialise)
        for tokens in (self.cls_token, self.dist_token, self.pos_embed, self.registers):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)

    @property
    def tokens(self) -> int:
        """How many a picture has."""
        return self.specials + self.grid[0] * self.grid[1]

    def embed(self, x: Tensor) -> Tensor:
        """The first block's tokens (B, N, d) of pictures (B, C, H, W) in [-1, 1]: readers, registers, patches."""
        place, patches = self.pos_embed[:, : self.readers], self.pos_embed[:, self.readers :]
        read = self.cls_token if self.dist_token is None else torch.cat([self.cls_token, self.dist_token], 1)
        parts = [read + place]
        if self.registers is not None:
            parts.append(self.registers)
        tokens = self.patch_embed(x) + patches
        return torch.cat([*(part.expand(len(x), -1, -1).to(tokens.dtype) for part in parts), tokens], dim=1)

    def extract(self, x: Tensor, c_noise: Tensor | None) -> Tensor:
        z = self.embed(x)
        for block in self.blocks:
            z = block(z)
        return self.read(z[:, : self.readers])

    def read(self, tokens: Tensor) -> Tensor:
        """Features (B, readers d) of the readers' states (B, readers, d) after the last block."""
        features: Tensor = self.norm(tokens)
        return features.flatten(1)


def initialise(module: nn.Module) -> None:
    """Truncated normal weights of standard deviation 0.02, no biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def positions_for(grid: tuple[int, int], known: Tensor, readers: int = 1) -> Tensor:
    """Position embeddings (1, readers + n, d), of a square grid's patches, brought to another grid, bicubically.

    Source: Touvron et al. 2019 (FixRes) and DeiT, section 5; the readers' stay.

    Raises:
        ValueError: the known ones are of no square grid.
    """
    count = known.shape[1] - readers
    side = round(count**0.5)
    if side * side != count:
        raise ValueError(f"{count} positions are no square grid")
    square = known[:, readers:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square.float(), grid, mode="bicubic", align_corners=False).to(known.dtype)
    return torch.cat([known[:, :readers], resized.flatten(2).transpose(1, 2)], dim=1)


def multiply_adds(config: ViTConfig, tokens: Tensor) -> Tensor:
    """Those of one block on so many tokens (...), in float64.

    Projections and MLP are (4 + 2 mlp_ratio) n d^2, attention 2 n^2 d.
    """
    n, d = tokens.double(), config.width
    return (4 + 2 * config.mlp_ratio) * n * d**2 + 2 * n**2 * d
