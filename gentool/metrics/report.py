"""The HTML report of an evaluation.

Everything that comes from outside is escaped. Figures of different extractors stand in tables of their own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from gentool.metrics import cloud_view
from gentool.metrics.catalog import METRICS
from gentool.metrics.curve import line_chart
from gentool.metrics.page import bullets, figure, flat, page, table

SHOWN = 64
"""Most samples in the grid."""
TILE = 64
"""Small pictures are enlarged to about this many pixels."""
NOT_PRIVATE = "Trained without differential privacy: samples and weights may reveal training examples."


def render(
    title: str,
    *,
    summary: str = "",
    evaluations: Sequence[Mapping[str, Any]] = (),
    images: np.ndarray | None = None,
    labels: Sequence[int] | None = None,
    loss: Sequence[tuple[float, float]] = (),
    recipe: str = "",
    provenance: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    privacy: str = NOT_PRIVATE,
    pictures: Sequence[tuple[np.ndarray, str]] = (),
) -> str:
    """The report as one HTML document.

    Args:
        title, summary: what was made, in a few words and in a sentence.
        evaluations: `Evaluation.document()` of each extractor; `metrics` may hold further figures.
        images: samples, uint8 (N, H, W, C) with C = 1 or 3, of which the first 64 are shown; or clouds (N, P, 3),
            of which the first 16 can be turned.
        labels: their classes, when they have any.
        loss: (step, loss) rows.
        recipe: the resolved recipe's text.
        provenance: versions, command line, fingerprints ...; nested mappings are flattened.
        warnings: what to mind, besides the evaluations' own.
        privacy: what can be said about privacy, in words.
        pictures: what the model shows of itself, uint8 (H, W, C) with C = 1 or 3, and captions.
    """
    all_warnings = dict.fromkeys([*warnings, *(line for e in evaluations for line in e.get("warnings", ()))])
    sections = {
        "Warnings": bullets(list(all_warnings)),
        "Evaluation": "".join(map(_evaluation, evaluations)),
        "Samples": "" if images is None or not len(images) else _samples(images, labels),
        "Pictures": "".join(figure(as_picture(pixels), 1, caption, caption) for pixels, caption in pictures),
        "Training loss": f"<figure>{chart}</figure>" if (chart := line_chart(loss, "step", "loss")) else "",
        "Privacy": f"<p>{escape(privacy)}</p>",
        "Recipe": f"<pre><code>{escape(recipe)}</code></pre>" if recipe else "",
        "Provenance": table(("what", "value"), flat(provenance or {})) if provenance else "",
    }
    footer = (
        "Figures can be compared only with figures of the same extractor, reference, count and preprocessing."
    )
    clouds = images is not None and images.ndim == 3
    return page(title, summary, sections, footer, cloud_view.script() if clouds else "")


def _evaluation(document: Mapping[str, Any]) -> str:
    """How the figures were made, the figures, and each metric's settings."""
    known = {
        value: (info, better) for info in map(METRICS.get, METRICS) for value, better in info.values.items()
    }
    facts = {
        "Features": document.get("features"),
        "Extractor": document.get("extractor"),
        "Preprocessing": document.get("preprocessing"),
        "Reference": document.get("reference"),
        "Reference examples": document.get("reference_count"),
        "Reference fingerprint": document.get("reference_fingerprint"),
        "Samples judged": document.get("count"),
    }
    made = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items() if v)
    rows = []
    for name, value in document["metrics"].items():
        info, better = known.get(name, (None, None))
        direction = {True: "higher is better", False: "lower is better", None: ""}[better]
        text = f"{value:.5g}" if math.isfinite(value) else "undefined"
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="value">{text}</td><td>{direction}</td>'
            f"<td>{escape(info.summary) if info else ''}</td></tr>"
        )
    details = {name: settings for name, settings in document.get("details", {}).items() if settings}
    more = ""
    if details:
        text = escape(json.dumps(details, indent=2, ensure_ascii=False))
        more = f"<details><summary>Settings and by-products</summary><pre><code>{text}</code></pre></details>"
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Metric", "Value", "Direction", "What it is"))
    return (
        f'<dl>{made}</dl><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{more}"
    )


def _samples(samples: np.ndarray, labels: Sequence[int] | None) -> str:
    if samples.ndim == 3:
        return cloud_view.view(samples, labels)
    return _grid(samples[:SHOWN], len(samples), labels)


def _grid(images: np.ndarray, total: int, labels: Sequence[int] | None) -> str:
    """The first samples as one PNG, in rows, each at its own pixels; the browser enlarges them, square."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 128, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    scale = max(1, round(TILE / max(height, width)))
    what = f"{count} of {total} samples" if count < total else f"{total} samples"
    caption = f"{what}, {height}x{width}, row by row"
    if labels is not None:
        caption += f"; classes {' '.join(str(int(label)) for label in labels[:count])}"
    return figure(as_picture(sheet), scale, f"{what} in {rows} rows of {columns}", caption)


def as_picture(pixels: np.ndarray) -> Image.Image:
    """uint8 (H, W, C), C = 1 or 3, as Pillow has it."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
