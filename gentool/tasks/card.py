"""The model card of a run: what, on what, how good, what privacy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gentool import families
from gentool.recipes.resolve import Resolved


def model_card(
    resolved: Resolved,
    provenance: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Markdown with the front matter model hubs read."""
    recipe = resolved.recipe
    draws = families.module_class(recipe.family).draws_samples
    lines = [
        "---",
        "library_name: gentool",
        f"tags: [generative, {recipe.family}]",
        f"datasets: [{recipe.data.name}]",
        "---",
        f"# {resolved.name}",
        "",
        recipe.description or f"A `{recipe.family}` model of `{recipe.data.name}`.",
        "",
        f"- family: `{recipe.family}`, seed {recipe.seed}, {provenance.get('steps', 0)} steps",
        f"- data: `{recipe.data.name}`, fingerprint `{provenance.get('data_fingerprint', '?')}`",
        f"- made by gentool {provenance.get('gentool')} ({provenance.get('git') or 'installed'}), "
        f"torch {provenance.get('versions', {}).get('torch')}",
    ]
    if rows:
        lines.append(f"- training loss at the end: {rows[-1]['loss']:.5g}")
    if metrics:
        lines += ["", "## Evaluation", ""]
        lines += [f"- {name}: {value:.5g}" for name, value in metrics["metrics"].items()]
        if metrics["features"]:
            lines.append(
                f"- features `{metrics['features']}`, reference `{metrics['reference']}`, "
                f"{metrics['count']} samples"
            )
        elif metrics["reference"]:
            lines.append(f"- reference `{metrics['reference']}`, {metrics['count']} examples")
    lines += [
        "",
        "## Privacy",
        "",
        "Trained without differential privacy: samples and weights may reveal training examples.",
        "",
        "## Use",
        "",
        "    gentool sample THIS_FOLDER -n 64 -o samples.png"
        if draws
        else "    gentool evaluate THIS_FOLDER",
        "",
    ]
    return "\n".join(lines)
