"""Pictures a second with tokens dropped, against the same network and the same code with all of them."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from gentool.families.a_vit.model import AdaptiveViT
from gentool.training.findings import Findings

SIZES = (1, 16, 64, 256)
ROUNDS = (5, 25)
"""At least and at most; between, as many as `LONG` allows."""
POOL = 64
"""Pictures timed at the smaller batch sizes."""
LONG = 10.0
"""Seconds of a batch size's rounds; once one alone takes longer, no greater batch is tried."""


def throughput(model: AdaptiveViT, x: Tensor, order: Tensor) -> Findings:
    """Medians of paired rounds on pictures that lie on the device, after one of each to warm up.

    Every round times both ways, and every other one in the other order: what else the machine does meets both.

    Args:
        order: the pictures by depth: at the sizes between, it is also tried how fast batches of like depth are.

    Returns:
        `images-per-second` and `throughput-ratio` at the greatest size, and a table of all; of a plain transformer
        without ratios.
    """
    table: dict[str, dict[str, float]] = {}
    for size in [s for s in SIZES if s <= len(x)]:
        pool = x[: max(size, min(POOL, len(x)))]
        row, seconds = compared(model, pool, size)
        if model.gate is not None and 1 < size < len(pool):
            ordered = x[order[order < len(pool)]]
            row["ratio-sorted"] = compared(model, ordered, size)[0]["ratio"]
        table[str(size)] = row
        if seconds > LONG:
            break
    last = list(table.values())[-1]
    figures = {"images-per-second": last["images-per-second"]}
    if model.gate is not None:
        figures["throughput-ratio"] = last["ratio"]
    slower = [size for size, row in table.items() if row.get("ratio", 1.0) < 1]
    warnings = tuple(
        f"in batches of {size} dropping tokens is slower than keeping them ({table[size]['ratio']:.2f} times): what "
        "is left is too little to outweigh the sorting"
        for size in slower
    )
    details: dict[str, Any] = {"throughput by batch size": table}
    return Findings(figures, details, (), warnings)


def compared(model: AdaptiveViT, x: Tensor, size: int) -> tuple[dict[str, float], float]:
    """Images a second, dense ones too, the ratio and its range; and the seconds of a round."""
    ways = (True,) if model.gate is None else (True, False)
    for halting in ways:
        one_pass(model, x, size, halting)
    rounds: list[dict[bool, float]] = []
    least, most = ROUNDS
    while len(rounds) < least or (len(rounds) < most and sum(sum(r.values()) for r in rounds) < LONG):
        order = ways if len(rounds) % 2 == 0 else ways[::-1]
        rounds.append({halting: one_pass(model, x, size, halting) for halting in order})
    own = statistics.median(row[True] for row in rounds)
    figures = {"images-per-second": len(x) / own}
    if model.gate is not None:
        ratios = [row[False] / row[True] for row in rounds]
        figures |= {
            "dense-images-per-second": len(x) / statistics.median(row[False] for row in rounds),
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return figures, sum(rounds[-1].values())


def one_pass(model: AdaptiveViT, x: Tensor, size: int, halting: bool) -> float:
    """Seconds to the logits of all pictures."""
    finish(x.device)
    started = time.perf_counter()
    with torch.no_grad():
        for batch in x.split(size):
            model.logits(model.dropped(batch, halting=halting).mean)
    finish(x.device)
    return time.perf_counter() - started


def finish(device: torch.device) -> None:
    """Waits for the device's queue, where it has one."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()
