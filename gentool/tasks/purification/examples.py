"""Pictures before and after an attack: kept in the records, shown on the report's page."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gentool.attacks.campaign import DEFENCE, NONE, Campaign
from gentool.attacks.defence import Purified
from gentool.metrics.page import bullets, figure, flat, page, table
from gentool.noise import mix
from gentool.runs.pictures import sheet as stacked

EXAMPLES = 8
"""Pictures whose pixels are kept."""


def keep(
    wanted: Collection[int],
    records: Sequence[dict[str, Any]],
    x: Tensor,
    attacked: Mapping[str, Tensor],
    campaign: Campaign,
) -> None:
    """Adds the pixels of the wanted pictures to their records: clean, attacked bare and defended, purified."""
    defence = next(victim.judged for victim in campaign.victims if victim.name == DEFENCE)
    assert isinstance(defence, Purified)
    for row, record in enumerate(records):
        if record["index"] not in wanted:
            continue
        hit = attacked[DEFENCE][row : row + 1]
        with torch.no_grad():
            z = defence.purify(2 * hit - 1, [record["index"]], mix(campaign.seed, "judge"))
        shown = {
            "clean": x[row],
            "attacked bare": attacked[NONE][row],
            "attacked": hit[0],
            "purified": (z[0] + 1) / 2,
        }
        record["pictures"] = {"shape": list(x.shape[1:])} | {name: _packed(p) for name, p in shown.items()}


def _packed(x: Tensor) -> str:
    pixels = (255 * x).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
    return base64.b64encode(pixels.cpu().numpy().tobytes()).decode()


def _unpacked(pictures: Mapping[str, Any], name: str) -> np.ndarray:
    channels, height, width = pictures["shape"]
    return np.frombuffer(base64.b64decode(pictures[name]), np.uint8).reshape(height, width, channels)


def sheet(records: Sequence[Mapping[str, Any]]) -> str:
    """The examples as a figure; "" without any."""
    kept = [record for record in records if "pictures" in record]
    if not kept:
        return ""
    names = [name for name in kept[0]["pictures"] if name != "shape"]
    pixels = np.stack([_unpacked(r["pictures"], name) for name in names for r in kept])
    truth = " ".join(str(record["label"]) for record in kept)
    read = " ".join(str(record["victims"][DEFENCE]["attacked"][0]) for record in kept)
    caption = f"classes {truth}; purified after the attack and read, one draw: {read}"
    return figure(
        stacked(pixels, len(kept), names), 1, f"{len(kept)} pictures before and after the attack", caption
    )


def render(
    title: str,
    document: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    cells: Sequence[Sequence[str]],
) -> str:
    """The report as one HTML document.

    Args:
        document: `Robustness.document()`. cells: rows of the table of accuracies.
    """
    threat = document["threat"]
    summary = (
        f"{document['attack']['name']} ({document['attack']['gradient']} gradient) within {threat['norm']} "
        f"{threat['eps']:.4g} of {document['images']} pictures, judged by {document['draws']} fresh draws"
    )
    head = ("Classifier", "Judged by", "Clean, 95 % interval", "Under attack, 95 % interval")
    told = {k: v for k, v in document.items() if k not in ("accuracy", "warnings", "note", "path")}
    sections = {
        "Warnings": bullets(document["warnings"]),
        "Accuracy": table(head, cells) + f'<p class="note">{escape(document["note"])}</p>',
        "Examples": sheet(records),
        "Settings": table(("what", "value"), flat(told)),
    }
    return page(
        title, summary, sections, "Figures of different attacks, threats and draws cannot be compared."
    )
