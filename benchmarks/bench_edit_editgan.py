"""EditGAN on a generator of MNIST at 32x32: holes of digits filled by repainting their label map.

Labels are exact, of any picture: outside, stroke, and hole, which is dark and not reached from the border. The
generator is trained here, or given by --generator; the classifier whose features compare pictures, and the heads and
encoder, are trained here. All lie in DATA_DIR/edit_editgan and are taken from there by the next run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Result, Settings, main, say

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.families.editgan.losses import Maps
    from gentool.families.editgan.module import EditganModule

HOLE, FEWEST = 2, 4
"""The class, and how many of its pixels make a hole; filled means that none is left."""
FIRST = 20_000
"""Number of the first sample that is edited; heads learn from the first 16, and are judged from 10,000 on."""
SCALES = (0.5, 1.0, 1.5, 2.0)
REFINED = 30


@dataclass(frozen=True)
class Scale:
    """generator, classifier, editgan: overrides of each run's recipe; count: pictures edited; judged: pictures by which
    heads are judged; samples: whose latents the linear direction is learnt from; segmenter: training steps of what
    heads are compared with; more: whether holes are enlarged and strokes thickened too."""

    generator: tuple[str, ...]
    classifier: tuple[str, ...]
    editgan: tuple[str, ...]
    count: int
    judged: int
    samples: int
    segmenter: int
    more: bool


QUICK = Scale((), ("trainer.max_steps=300",), (), 50, 500, 4000, 400, more=False)
GPU = Scale(
    ("trainer.max_steps=15000", "data.batch_size=64"),
    (),
    ("trainer.max_steps=6000",),
    500,
    2000,
    20_000,
    1500,
    more=True,
)


def prepared(settings: Settings, scale: Scale) -> dict[str, Path]:
    """The runs by name."""
    from gentool.tasks.train import train

    folder = settings.data_dir.absolute() / "edit_editgan" / settings.mode
    data = f"data.root={settings.data_dir.absolute()}"

    def run(name: str, recipe: str, overrides: tuple[str, ...]) -> Path:
        wanted = (*overrides, data, f"seed={settings.seed}")
        done = train(recipe, wanted, run_dir=folder / name, resume="auto", say=say)
        say(f"{name}: {recipe}, {done.steps} steps in {done.seconds:.0f} s")
        return done.run

    runs = {"generator": settings.generator or run("generator", "stylegan2/mnist32-small", scale.generator)}
    runs["classifier"] = run("classifier", "classifier/mnist-small", ("data.pad=32", *scale.classifier))
    base = (f"base={runs['generator']}", f"model.perceptual={runs['classifier']}", *scale.editgan)
    runs["editgan"] = run("editgan", "editgan/mnist32-small", base)
    return runs


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


def said(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    say(f"{name}: {figures}")
    return figures


# The heads


def of_heads(module: EditganModule, scale: Scale, seed: int) -> dict[str, float]:
    """Intersection over union of holes on samples never seen: of the heads, and of networks on pictures."""
    import torch
    from segmenters import UNet, WindowMlp, learn, overlap

    from gentool.families.editgan.labels import stroke_labels

    torch.manual_seed(seed)
    codes, labels = module.labelled()
    networks = {"window": WindowMlp(3), "unet": UNet(3)}
    with torch.no_grad():
        x = module.view.render(codes)
    learnt = {
        name: learn(network.to(x.device), x, labels, scale.segmenter, seed)
        for name, network in networks.items()
    }
    parts: dict[str, list[Tensor]] = {name: [] for name in ("known", "heads", *learnt)}
    with torch.no_grad():
        for part in module.codes(range(10_000, 10_000 + scale.judged)).split(50):
            made, logits = module.view.render_labelled(part)
            parts["known"].append(stroke_labels(made))
            parts["heads"].append(logits.argmax(1).cpu())
            for name, network in learnt.items():
                parts[name].append(network(made).argmax(1).cpu())
    whole = {name: torch.cat(part) for name, part in parts.items()}
    return {name: overlap(whole[name], whole["known"], HOLE) for name in ("heads", *learnt)}


# Edits


def with_holes(module: EditganModule, count: int, first: int) -> Tensor:
    """Codes (N, styles, width) of the next N samples with holes."""
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
    """Label maps (B, H, W) as they should be: holes filled, holes a pixel larger, strokes of the left half thicker."""
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
        before, logits = view.render_labelled(codes)
    labels = logits.argmax(1)
    wanted = repainted(name, labels)
    region = region_of(labels, wanted)
    ws = editing.edit(view, codes, wanted, region, maps, weights=weights).ws
    with torch.no_grad():
        after = view.render(ws)
    changed = (wanted != labels).cpu()
    figures = changes(before, after, region)
    figures["as_painted"] = float((stroke_labels(after) == wanted.cpu())[changed].float().mean())
    return {"ws": ws, "before": before, "after": after, "region": region, "figures": figures}


def linear(module: EditganModule, scale: Scale, seed: int) -> Tensor:
    """Unit direction (width,) in w from holes to none: logistic regression of samples (InterFaceGAN)."""
    import torch
    from sklearn.linear_model import LogisticRegression

    codes = module.codes(range(30_000, 30_000 + scale.samples))
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
    from gentool.families.editgan.losses import region_of

    view, found = module.view, {}
    with torch.no_grad():
        before, logits = view.render_labelled(codes)
    labels = logits.argmax(1)
    region = region_of(labels, repainted("fill", labels))
    classes = torch.tensor([False, True, True], device=codes.device)
    for scale in SCALES:
        for steps in (0, REFINED):
            ws, _, _ = editing.apply_vector(view, codes, delta, scale, classes, maps, refine=steps)
            with torch.no_grad():
                found[f"{scale:g}{' refined' if steps else ''}"] = changes(before, view.render(ws), region)
        say(f"vector at {scale:g}: {found[f'{scale:g}']}, refined: {found[f'{scale:g} refined']}")
    return found


def of_photos(run: Path, count: int, folder: Path) -> dict[str, Any]:
    """Real test digits with holes, inverted and edited by `gentool edit`."""
    import numpy as np
    import torch

    from gentool.data import open_set, to_model
    from gentool.families.editgan.losses import squared
    from gentool.tasks.editgan import Wish, edit
    from gentool.tasks.sample import load_run

    module: Any = load_run(run)[2]
    data = open_set(module.recipe.data, "test")
    x = data.take(range(min(len(data), 10 * count))).x
    x = x[holes(to_model(x)) >= FEWEST][:count]
    np.savez(folder / "photos.npz", x.permute(0, 2, 3, 1).numpy())
    wish = Wish(relabel=[("hole", "stroke")])
    done = edit(run, str(folder / "photos.npz"), wish, out=folder / "edited.npz", batch_size=50, say=say)
    seen, photos = done.figures, to_model(x)
    with torch.no_grad():
        encoded = squared(module.view.render(module.view.encode(photos)), photos)
    inverted = squared(seen.before, photos)
    there = holes(seen.before) >= FEWEST
    return {
        **changes(seen.before[there], seen.after[there], seen.region[there]),
        "count": len(x),
        "kept_their_hole_when_inverted": int(there.sum()),
        "psnr": float(seen.psnr.mean()),
        "error_of_the_encoder": float(encoded.mean()),
        "error_inverted": float(inverted.mean()),
        "seconds": round(done.seconds, 1),
    }


def run(settings: Settings) -> Result:
    import torch
    from models import device

    from gentool.tasks.sample import load_run

    scale = QUICK if settings.quick else GPU
    runs = prepared(settings, scale)
    module: Any = load_run(runs["editgan"])[2].to(device())
    maps = module.maps()
    figures: dict[str, Any] = {"generator": about(runs["generator"], given=settings.generator is not None)}
    figures["overlap of holes"] = said("overlap", of_heads(module, scale, settings.seed))
    codes = with_holes(module, scale.count, FIRST)
    edited = edits(module, codes, maps, "fill")
    figures["fill"] = said("fill", edited["figures"])
    figures["fill, labels alone"] = said("alone", edits(module, codes, maps, "fill", outside=0.0)["figures"])
    figures["fill, without labels"] = edits(module, codes, maps, "fill", labels=0.0)["figures"]
    figures["linear"] = said("linear", along(module, codes, linear(module, scale, settings.seed), edited))
    others = with_holes(module, scale.count, FIRST + 5000)
    delta = (edits(module, others, maps, "fill")["ws"] - others).mean(0)
    figures["vector"] = by_vector(module, codes, maps, delta)
    if scale.more:
        for name in ("enlarge", "thicken"):
            figures[name] = said(name, edits(module, codes, maps, name)["figures"])
    del edited, others
    torch.manual_seed(settings.seed)
    figures["photos"] = said("photos", of_photos(runs["editgan"], scale.count, runs["editgan"].parent))
    return Result(
        figures,
        claims(figures, scale.count),
        (settings.seed,),
        described(scale, figures["generator"]),
        recipe="editgan/mnist32-small, stylegan2/mnist32-small",
    )


def about(path: Path, *, given: bool) -> dict[str, Any]:
    """Where the generator came from, and what it was trained on."""
    from gentool.runs.folder import RunFolder
    from gentool.runs.weights import fingerprint
    from gentool.tasks.sample import stored_recipe

    run = RunFolder.open(path)
    recipe = stored_recipe(run).recipe
    return {
        "given by --generator": given,
        "pictures seen": recipe.trainer.max_steps * recipe.data.batch_size,
        "sha256": fingerprint(run.weights),
    }


def described(scale: Scale, generator: dict[str, Any]) -> str:
    origin = "given by --generator" if generator["given by --generator"] else "trained in the benchmark"
    return (
        f"generator {origin} ({generator['pictures seen']} pictures); {scale.count} digits a figure, 60 steps an edit; "
        f"labels by flood fill, of 16 samples to train on and {scale.judged} others to judge by"
    )


def claims(figures: dict[str, Any], count: int) -> list[Claim]:
    """The rows of docs/claims.md."""
    fill, straight, photos, vector = (figures[name] for name in ("fill", "linear", "photos", "vector"))
    equal, until = straight["equal strength"], straight["until filled"]
    heads = figures["overlap of holes"]
    scale = max(SCALES, key=lambda s: (vector[f"{s:g}"]["filled"], -s))
    bare, refined = vector[f"{scale:g}"], vector[f"{scale:g} refined"]
    return [
        Claim(
            f"EditGAN fills the holes of at least 0.8 of {count} sampled digits",
            "CelebA smiles: 0.915 by a vector of 16 masks",
            f"{fill['filled']:.2f}",
            f"labels' term alone {figures['fill, labels alone']['filled']:.2f}, linear direction of equal strength "
            f"{equal['filled']:.2f}",
            fill["filled"] >= 0.8,
        ),
        Claim(
            "... and changes pixels outside the region by at most a third of a linear direction in w at equal change "
            "inside",
            "",
            f"{fill['outside']:.4f} ({fill['outside'] / equal['outside']:.2f} of it)",
            f"linear {equal['outside']:.4f}, until filled {until['outside']:.4f} ({until['filled']:.2f} are), "
            f"labels' term alone {figures['fill, labels alone']['outside']:.4f}",
            fill["outside"] <= equal["outside"] / 3,
        ),
        Claim(
            f"EditGAN fills the holes of at least 0.8 of {count} real test digits, inverted first",
            "",
            f"{photos['filled']:.2f}",
            f"outside the region changed by {photos['outside']:.4f}, inverted at {photos['psnr']:.1f} dB",
            photos["filled"] >= 0.8,
        ),
        Claim(
            f"A vector of other digits: {REFINED} steps of refinement lower the change outside, at success within 0.05",
            "CelebA smiles: identity 0.7047 to 0.7452, success 0.915 to 0.858",
            f"outside {refined['outside']:.4f}, filled {refined['filled']:.2f} (scale {scale:g})",
            f"bare: outside {bare['outside']:.4f}, filled {bare['filled']:.2f}",
            refined["outside"] < bare["outside"] and refined["filled"] >= bare["filled"] - 0.05,
        ),
        Claim(
            "Label heads find holes better than a U-Net of the same 16 samples: by 0.05 of intersection over union",
            "",
            f"{heads['heads']:.3f}",
            f"U-Net {heads['unet']:.3f}, MLP of 5x5 pixels {heads['window']:.3f}",
            heads["heads"] >= heads["unet"] + 0.05,
        ),
        Claim(
            "100 steps of inversion leave at most a quarter of the encoder's squared error on real test digits",
            "",
            f"{photos['error_inverted']:.5f}",
            f"encoder alone {photos['error_of_the_encoder']:.5f}",
            photos["error_inverted"] <= photos["error_of_the_encoder"] / 4,
        ),
    ]


if __name__ == "__main__":
    main("edit_editgan", run, __doc__, generator=True)
