"""Writes dp_accounting_goldens.json: epsilons of the library dp-accounting on random settings.

`rdp` is its RDP accountant on gentool's 166 orders; it bounds the series at fractional orders from above
and drops orders whose series does not converge. `rdp_integer` is the same on the integer orders alone,
where it is exact. `pld` is its PLD accountant (pessimistic; loss grid 1e-4), for the first settings only.
"""

from __future__ import annotations

import json
import math
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dp_accounting
from dp_accounting import pld, rdp

PATH = Path(__file__).with_name("dp_accounting_goldens.json")
INTEGER = [*range(2, 64), 64, 72, 80, 96, 112, 128, 160, 192, 256, 320, 384, 512, 768, 1024]
ORDERS = sorted({1 + i / 10 for i in range(1, 100)} | set(INTEGER))
SETTINGS, WITH_PLD = 300, 60


def epsilon(accountant: Any, phases: list[tuple[float, float, int]], delta: float) -> float:
    for noise, rate, steps in phases:
        event = dp_accounting.GaussianDpEvent(noise)
        if rate < 1:
            event = dp_accounting.PoissonSampledDpEvent(rate, event)
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    return float(accountant.get_epsilon(delta))


def phase(draw: random.Random) -> tuple[float, float, int]:
    rate = 1.0 if draw.random() < 0.1 else 10 ** draw.uniform(-4, -0.5)
    return (
        round(10 ** draw.uniform(-0.2, 1.5), 6),
        round(rate, 9),
        round(10 ** draw.uniform(0, 1 if rate == 1 else 4.5)),
    )


def main() -> None:
    draw = random.Random(0)
    rows = []
    while len(rows) < SETTINGS:
        phases = [phase(draw) for _ in range(draw.choice((1, 1, 2, 3)))]
        delta = 10.0 ** draw.randint(-9, -3)
        integer = epsilon(rdp.RdpAccountant(INTEGER), phases, delta)
        if not 0.01 < integer < 50:
            continue
        full = epsilon(rdp.RdpAccountant(ORDERS), phases, delta)
        row = {"phases": phases, "delta": delta, "rdp": full, "rdp_integer": integer}
        if len(rows) < WITH_PLD:
            row["pld"] = epsilon(pld.PLDAccountant(value_discretization_interval=1e-4), phases, delta)
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        rows.append(row)
    versions = {name: version(name) for name in ("dp-accounting", "numpy", "scipy")}
    lines = ",\n".join(json.dumps(row) for row in rows)
    PATH.write_text(f'{{"versions": {json.dumps(versions)},\n"settings": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
