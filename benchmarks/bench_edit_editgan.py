"""EditGAN on a generator of MNIST at 32x32: holes of digits filled by repainting their label map.

Labels are exact, of any picture: outside, stroke, and hole, which is dark and not reached from the border. The
generator is trained here, or given by --generator; the classifier whose features compare pictures, and the heads and
encoder, are trained here. All lie in DATA_DIR/edit_editgan and are taken from there by the next run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import Claim, Result, Settings, main, say
from repainting import (
    FEWEST,
    HOLE,
    REFINED,
    SCALES,
    along,
    by_vector,
    edits,
    holes,
    linear,
    with_holes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gentool.families.editgan.losses import Maps
    from gentool.families.editgan.module import EditganModule

FIRST = 40_000
"""Number of the first sample that is edited; heads are judged from 10,000 on."""
Training = tuple[str, tuple[str, ...]]
"""A recipe and its overrides."""


@dataclass(frozen=True)
class Scale:
    """generator, classifier, editgan: each run's recipe and overrides; count: pictures edited; judged: pictures by
    which heads are judged; samples: whose latents the linear direction is learnt from; segmenter: training steps of
    what heads are compared with."""

    generator: Training
    classifier: Training
    editgan: Training
    count: int
    judged: int
    samples: int
    segmenter: int


QUICK = Scale(
    ("stylegan2/mnist32-small", ("trainer.max_steps=3200",)),
    ("classifier/mnist-small", ("data.pad=32", "model.network.channels=8", "trainer.max_steps=400")),
    ("editgan/mnist32-small", ("trainer.max_steps=500",)),
    count=50,
    judged=500,
    samples=4000,
    segmenter=400,
)
GPU = Scale(
    ("stylegan2/mnist32-small", ("trainer.max_steps=16000", "data.batch_size=64")),
    ("classifier/mnist-small", ("data.pad=32",)),
    ("editgan/mnist32-small", ()),
    count=500,
    judged=2000,
    samples=20_000,
    segmenter=1500,
)


def prepared(settings: Settings, scale: Scale) -> dict[str, Path]:
    """The runs by name."""
    from gentool.tasks.train import train

    folder = settings.data_dir.absolute() / "edit_editgan" / settings.mode

    def run(name: str, training: Training, *more: str) -> Path:
        recipe, overrides = training
        if "mnist" in recipe:
            more += (f"data.root={settings.data_dir.absolute()}",)
        wanted = (*overrides, *more, f"seed={settings.seed}")
        done = train(recipe, wanted, run_dir=folder / name, resume="auto", say=say)
        say(f"{name}: {recipe}, {done.steps} steps in {done.seconds:.0f} s")
        return done.run

    runs = {"generator": settings.generator or run("generator", scale.generator)}
    runs["classifier"] = run("classifier", scale.classifier)
    base = (f"base={runs['generator']}", f"model.perceptual={runs['classifier']}")
    runs["editgan"] = run("editgan", scale.editgan, *base)
    return runs


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
    networks = {"window": WindowMlp(3), "unet": UNet(3)}
    with torch.no_grad():
        x = module.view.render(module.view.encode(module.photos()))
        labels = module.strokes(x)
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


def of_photos(module: EditganModule, maps: Maps | None, scale: Scale) -> dict[str, Any]:
    """Real test digits with holes, inverted and edited."""
    import torch

    from gentool.data import open_set, to_model
    from gentool.families.editgan import editing
    from gentool.families.editgan.losses import squared

    data, view = open_set(module.recipe.data, "test"), module.view
    x = to_model(data.take(range(min(len(data), 10 * scale.count))).x)
    x = x[holes(x) >= FEWEST][: scale.count].to(module.device)
    found = editing.invert(view, x, maps)
    with torch.no_grad():
        seen, encoded = view.render(found.ws), squared(view.render(view.encode(x)), x)
    error = squared(seen, x)
    there = (holes(seen) >= FEWEST).to(x.device)
    return {
        **edits(module, found.ws[there], maps, "fill")["figures"],
        "count": len(x),
        "kept_their_hole_when_inverted": int(there.sum()),
        "psnr": float(-10 * error.log10().mean()),
        "error_of_the_encoder": float(encoded.mean()),
        "error_inverted": float(error.mean()),
    }


def run(settings: Settings) -> Result:
    from models import device

    from gentool.tasks.model.load import load_run

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
    figures["linear"] = said(
        "linear", along(module, codes, linear(module, scale.samples, settings.seed), edited)
    )
    others = with_holes(module, scale.count, FIRST + 5000)
    delta = (edits(module, others, maps, "fill")["ws"] - others).mean(0)
    figures["vector"] = by_vector(module, codes, maps, delta)
    for name in ("enlarge", "thicken"):
        figures[name] = said(name, edits(module, codes[:10], maps, name)["figures"])
    figures["photos"] = said("photos", of_photos(module, maps, scale))
    return Result(
        figures,
        claims(figures, scale),
        (settings.seed,),
        described(scale, figures["generator"]),
        recipe=f"{scale.editgan[0]}, {scale.generator[0]}",
    )


def about(path: Path, *, given: bool) -> dict[str, Any]:
    """Where the generator came from, and what it was trained on."""
    from gentool.runs.folder import RunFolder
    from gentool.runs.weights import fingerprint
    from gentool.tasks.model.load import stored_recipe

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
        f"generator {origin} ({generator['pictures seen']} pictures); {scale.count} digits a figure, "
        "10 where holes are enlarged and strokes thickened; "
        "labels by flood fill, of 16 real digits as the encoder sees them to train on and "
        f"{scale.judged} samples to judge by"
    )


def claims(figures: dict[str, Any], scale: Scale) -> list[Claim]:
    """The rows of docs/claims.md."""
    fill, straight, photos, vector = (figures[name] for name in ("fill", "linear", "photos", "vector"))
    equal, until = straight["equal strength"], straight["until filled"]
    heads = figures["overlap of holes"]
    best = max(SCALES, key=lambda s: (vector[f"{s:g}"]["filled"], -s))
    bare, refined = vector[f"{best:g}"], vector[f"{best:g} refined"]
    return [
        Claim(
            f"EditGAN fills the holes of at least 0.8 of {scale.count} sampled digits",
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
            "EditGAN fills the holes of at least 0.8 of "
            f"{photos['kept_their_hole_when_inverted']} real test digits, inverted first",
            "",
            f"{photos['filled']:.2f}",
            f"outside the region changed by {photos['outside']:.4f}, inverted at {photos['psnr']:.1f} dB",
            photos["filled"] >= 0.8,
            "a few dark pixels are left, which the heads take for stroke",
        ),
        Claim(
            f"A vector of other digits: {REFINED} steps of refinement lower the change outside, at success within 0.05",
            "CelebA smiles: identity 0.7047 to 0.7452, success 0.915 to 0.858",
            f"outside {refined['outside']:.4f}, filled {refined['filled']:.2f} (scale {best:g})",
            f"bare: outside {bare['outside']:.4f}, filled {bare['filled']:.2f}",
            refined["outside"] < bare["outside"] and refined["filled"] >= bare["filled"] - 0.05,
        ),
        Claim(
            "100 steps of inversion leave at most a quarter of the encoder's squared error on real test digits",
            "",
            f"{photos['error_inverted']:.5f}",
            f"encoder alone {photos['error_of_the_encoder']:.5f}",
            photos["error_inverted"] <= photos["error_of_the_encoder"] / 4,
        ),
        Claim(
            "Label heads find holes better than a U-Net of the same 16 pictures: by 0.05 of intersection over union",
            "",
            f"{heads['heads']:.3f}",
            f"U-Net {heads['unet']:.3f}, MLP of 5x5 pixels {heads['window']:.3f}",
            heads["heads"] >= heads["unet"] + 0.05,
        ),
    ]


if __name__ == "__main__":
    main("edit_editgan", run, __doc__, generator=True)
