"""Holes of digits repainted: by EditGAN, along a linear direction, by a vector; and what came of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from common import say

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.families.editgan.losses import Maps
    from gentool.families.editgan.module import EditganModule

HOLE, FEWEST = 2, 4
"""The class, and how many of its pixels make a hole; filled means that none is left."""
SCALES = (1.0, 2.0)
REFINED = 30


def holes(x: Tensor) -> Tensor:
    """(B,) pixels of holes, told by the pictures themselves."""
    from gentool.families.editgan.labels import stroke_labels

    return (stroke_labels(x) == HOLE).flatten(1).sum(1)


def changes(before: Tensor, after: Tensor, region: Tensor) -> dict[str, Any]:
    """Share of holes filled, and mean absolute change of a pixel in [0, 1] inside and outside the region."""
    before, after, region = (v.cpu() for v in (before, after, region))
    change = (after - before).abs().mean(1) / 2
    left = holes(after)
    return {
        "filled": float((left == 0).float().mean()),
        "hole_pixels": [int(holes(before).sum()), int(left.sum())],
        "inside": float(change[region].mean()),
        "outside": float(change[~region].mean()),
    }


def with_holes(module: EditganModule, count: int, first: int) -> Tensor:
    """Codes (N, styles, width) of the next N samples, from this one on, that have holes."""
    import torch

    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        codes = module.codes(range(first, first + 100))
        with torch.no_grad():
            found.append(codes[holes(module.view.render(codes)).to(codes.device) >= FEWEST])
        first += 100
        if len(found) == 50 and not any(map(len, found)):
            raise SystemExit("the generator makes no digits with holes: it is not trained")
    return torch.cat(found)[:count]


def repainted(name: str, labels: Tensor) -> Tensor:
    """Label maps (B, H, W) as a user would paint them who sees the picture.

    Holes filled, holes a pixel larger, or strokes of the left half thicker.
    """
    import torch

    from gentool.families.editgan.losses import dilated

    if name == "fill":
        return torch.where(labels == HOLE, 1, labels)
    if name == "enlarge":
        return torch.where(dilated(labels == HOLE, 1) & (labels == 1), HOLE, labels)
    left = torch.arange(labels.shape[2], device=labels.device) < labels.shape[2] // 2
    return torch.where(dilated(labels == 1, 1) & (labels == 0) & left, 1, labels)


def edits(
    module: EditganModule, codes: Tensor, maps: Maps | None, name: str, **terms: float
) -> dict[str, Any]:
    """Codes edited by repainting, their pictures before and after, the region, and how well it went.

    Args:
        terms: weights that are not the published ones.
    """
    import torch

    from gentool.families.editgan import editing
    from gentool.families.editgan.labels import stroke_labels
    from gentool.families.editgan.losses import region_of

    view, weights = module.view, replace(editing.Weights(), **terms)
    with torch.no_grad():
        before = view.render(codes)
    labels = stroke_labels(before).to(before.device)
    wanted = repainted(name, labels)
    region = region_of(labels, wanted)
    ws = editing.edit(view, codes, wanted, region, maps, weights=weights).ws
    with torch.no_grad():
        after = view.render(ws)
    changed = (wanted != labels).cpu()
    figures = changes(before, after, region)
    figures["as_painted"] = float((stroke_labels(after) == wanted.cpu())[changed].float().mean())
    return {"ws": ws, "before": before, "after": after, "region": region, "figures": figures}


def linear(module: EditganModule, count: int, seed: int) -> Tensor:
    """Unit direction (width,) in w from holes to none: logistic regression of N samples (InterFaceGAN)."""
    import torch
    from sklearn.linear_model import LogisticRegression

    codes = module.codes(range(30_000, 30_000 + count))
    with torch.no_grad():
        there = torch.cat([holes(module.view.render(part)) >= FEWEST for part in codes.split(100)])
    fitted = LogisticRegression(max_iter=2000, random_state=seed).fit(
        codes[:, 0].cpu().numpy(), there.numpy()
    )
    normal = -torch.from_numpy(fitted.coef_[0]).to(codes)
    return normal / normal.norm()


def along(module: EditganModule, codes: Tensor, normal: Tensor, edited: dict[str, Any]) -> dict[str, Any]:
    """The linear direction at two strengths: that which changes the regions as much as EditGAN did, and, picture by
    picture, the least that fills its hole."""
    import torch

    region = edited["region"].cpu()

    @torch.no_grad()
    def moved(strength: Tensor) -> Tensor:
        return module.view.render(codes + strength[:, None, None] * normal).cpu()

    def everywhere(strength: float) -> Tensor:
        return moved(codes.new_full((len(codes),), strength))

    before, wanted = edited["before"].cpu(), edited["figures"]["inside"]
    low, high = 0.0, 1.0
    while changes(before, everywhere(high), region)["inside"] < wanted and high < 1000:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        if changes(before, everywhere(middle), region)["inside"] < wanted:
            low = middle
        else:
            high = middle
    equal = changes(before, everywhere(high), region) | {"strength": high}
    least = codes.new_zeros(len(codes))
    open_still = torch.ones(len(codes), dtype=torch.bool)
    for step in range(1, 41):
        strength = 3 * high * step / 40
        filled = holes(everywhere(strength)) == 0
        least[(open_still & filled).to(codes.device)] = strength
        open_still &= ~filled
        if not open_still.any():
            break
    least[open_still.to(codes.device)] = 3 * high
    return {"equal strength": equal, "until filled": changes(before, moved(least), region)}


def by_vector(module: EditganModule, codes: Tensor, maps: Maps | None, delta: Tensor) -> dict[str, Any]:
    """The mean change of other samples, at several scales, bare and refined: judged over the same regions."""
    import torch

    from gentool.families.editgan import editing
    from gentool.families.editgan.labels import stroke_labels
    from gentool.families.editgan.losses import region_of

    view, found = module.view, {}
    with torch.no_grad():
        before = view.render(codes)
    labels = stroke_labels(before).to(before.device)
    region = region_of(labels, repainted("fill", labels))
    for scale in SCALES:
        for steps in (0, REFINED):
            ws, _, _ = editing.apply_vector(view, codes, delta, scale, None, maps, refine=steps)
            with torch.no_grad():
                found[f"{scale:g}{' refined' if steps else ''}"] = changes(before, view.render(ws), region)
        say(f"vector at {scale:g}: {found[f'{scale:g}']}, refined: {found[f'{scale:g} refined']}")
    return found
