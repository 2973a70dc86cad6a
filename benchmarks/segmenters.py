"""What label heads are compared with: networks that see the picture alone, trained on the same few label maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowMlp(nn.Module):
    """A pixel's class from the 5x5 pixels around it, by a head's own widths."""

    def __init__(self, classes: int, size: int = 5) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Conv2d(size**2, 128, 1), nn.ReLU(), nn.Conv2d(128, 32, 1), nn.ReLU(), nn.Conv2d(32, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> logits (B, K, H, W)."""
        windows = F.unfold(x, self.size, padding=self.size // 2).unflatten(2, x.shape[2:])
        out: Tensor = self.layers(windows)
        return out


def twice(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Three levels with skips (Ronneberger et al. 2015): at 32 pixels it sees all of the picture."""

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([twice(1, width), twice(width, 2 * width), twice(2 * width, 4 * width)])
        self.middle = twice(4 * width, 4 * width)
        self.up = nn.ModuleList(
            [twice(8 * width, 2 * width), twice(4 * width, width), twice(2 * width, width)]
        )
        self.output = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W), H and W multiples of 8 -> logits (B, K, H, W)."""
        kept = []
        for block in self.down:
            kept.append(block(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.middle(x)
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0), kept.pop()], 1))
        return self.output(x)


def learn(network: nn.Module, x: Tensor, labels: Tensor, steps: int, seed: int) -> nn.Module:
    """Adam on batches of 8 pictures (N, 1, H, W) and label maps (N, H, W), every class weighing alike."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    counts = torch.bincount(labels.flatten()).float().clamp(min=1)
    weights = (counts.sum() / counts / len(counts)).to(x)
    for _ in range(steps):
        rows = torch.randperm(len(x), generator=generator)[:8].to(x.device)
        loss = F.cross_entropy(network(x[rows]), labels[rows], weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def overlap(said: Tensor, known: Tensor, k: int) -> float:
    """Intersection over union of class k, over all pictures."""
    either = ((said == k) | (known == k)).sum()
    return float(((said == k) & (known == k)).sum() / either)
