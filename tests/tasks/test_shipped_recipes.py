"""Every recipe that comes with gentool: parsed, built, measured and trained for a step on tiny data.

The networks of the papers are built whole on the meta device, which costs nothing, and counted; their fast
step has fewer channels, and the one at full size is slow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gentool import families, networks
from gentool.data import DataSpec, make_config, open_set
from gentool.recipes import shipped
from gentool.recipes.resolve import Resolved, resolve, resolve_text
from gentool.tasks.evaluate import evaluate
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import load_run
from gentool.tasks.sample import sample
from gentool.tasks.train import train
from gentool.tasks.training.dryrun import dry_run
from gentool.training.probe import random_batch
from tests.families.lion_runs import UNET as SMALL_CLOUDS

PARAMETERS = {
    # edm's papers: counted from the published layer lists
    "edm/cifar10-paper": 55_735_299,
    "edm/cifar10-ncsnpp-paper": 56_397_827,
    "edm/cifar10-flow-paper": 55_734_147,
    "edm/ffhq64-paper": 61_805_571,
    "edm/afhqv2-64-paper": 61_805_571,
    "edm/imagenet64-paper": 295_899_267,
    "edm/mnist-small": 1_753_345,
    "edm/digits-small": 188_945,
    "edm/digits-flow-small": 1_220_672,
    "edm/digits-vp-small": 1_220_672,
    "edm/digits-dp-small": 106_816,
    "edm/digits-hybrid-small": 1_237_120,
    "edm/toy2d-small": 232_066,
    "quickstart": 1_220_672,
    # cld: the paper's 108 M network has its data and velocity side by side
    "cld/cifar10-paper": 107_593_859,
    "cld/celeba-hq256-paper": 65_466_371,
    "cld/toy2d-paper": 298_370,
    "cld/mnist-small": 1_758_081,
    "cld/digits-small": 1_237_056,
    "cld/toy2d-small": 232_322,
    "pfgmpp/digits-small": 1_220_672,
    "pfgmpp/cifar10-paper": 56_400_643,
    "pfgmpp/ffhq64-paper": 61_805_571,
    # the paper says 1.75 and 1.80 million
    "dpdm/mnist-eps02-paper": 1_753_345,
    "dpdm/mnist-eps1-paper": 1_753_345,
    "dpdm/mnist-eps10-paper": 1_753_345,
    "dpdm/fashion-mnist-eps02-paper": 1_753_345,
    "dpdm/fashion-mnist-eps1-paper": 1_753_345,
    "dpdm/fashion-mnist-eps10-paper": 1_753_345,
    "dpdm/celeba32-eps1-paper": 1_804_451,
    "dpdm/celeba32-eps10-paper": 1_804_451,
    "dpdm/celeba64-eps10-paper": 1_999_907,
    "dpdm/cifar10-eps10-paper": 1_754_499,
    "dpdm/imagenet32-eps10-paper": 1_836_483,
    "dpdm/mnist-eps10-small": 72_516,
    "dpdm/mnist-eps1-small": 67_780,
    "dpdm/digits-small": 10_944,
    # the bases of GENIE's heads, and the heads alone
    "edm/cifar10-vp-paper": 106_632_579,
    "edm/church128-paper": 165_782_147,
    "edm/bedroom128-paper": 165_782_147,
    "edm/imagenet64-vp-paper": 281_672_451,
    "edm/imagenet64-vp-conditional-paper": 282_440_451,
    "edm/cats128-paper": 200_288_835,
    "edm/mnist-vp-small": 1_753_345,
    "edm/digits-vp-preconditioned-small": 1_220_672,
    "genie/cifar10-paper": 526_473,
    "genie/church128-paper": 526_729,
    "genie/bedroom128-paper": 526_473,
    "genie/imagenet64-paper": 1_170_633,
    "genie/imagenet64-conditional-paper": 1_170_633,
    "genie/cats128-paper": 1_170_633,
    "genie/mnist-small": 33_507,
    "genie/digits-small": 477_376,
    "lace/digits-small": 30_143,
    "lace/mnist32-small": 22_574,
    "editgan/digits8-small": 732_542,
    "editgan/mnist32-small": 2_433_342,
    "classifier/digits-small": 77_898,
    "classifier/digits-noisy-small": 97_706,
    "classifier/mnist-small": 308_810,
    "classifier/mnist-logreg-dp-small": 7_850,
    "classifier/mnist-mlp-dp-small": 79_510,
    "classifier/mnist-cnn-dp-small": 241_546,
    "classifier/mnist-noisy-small": 345_258,
    "classifier/cifar10-wrn-paper": 36_479_194,
    # the paper's are DeiT-T and DeiT-S: 5.7 and 22 million
    "a-vit/digits-dense-small": 171_322,
    "a-vit/digits-small": 171_322,
    # a distillation token, its place and its head more
    "a-vit/digits-distilled-dense-small": 171_322 + 2 * 48 + 490,
    "a-vit/digits-distilled-small": 171_322 + 2 * 48 + 490,
    "a-vit/imagenet-t-distilled-dense-paper": 5_717_416 + 2 * 192 + 193_000,
    "a-vit/imagenet-t-distilled-paper": 5_717_416 + 2 * 192 + 193_000,
    # 4 4 3 96 + 96 in the embedding, 66 96 of tokens, 6 (12 96^2 + 13 96) in the blocks, 2 96 and 970 at the end
    "a-vit/cifar10-dense-small": 683_242,
    "a-vit/cifar10-small": 683_242,
    "a-vit/mnist-dense-small": 173_482,
    "a-vit/mnist-small": 173_482,
    "a-vit/imagenet-t-dense-paper": 5_717_416,
    "a-vit/imagenet-t-paper": 5_717_416,
    "a-vit/imagenet-s-dense-paper": 22_050_664,
    "a-vit/imagenet-s-paper": 22_050_664,
    # generator and discriminator; the papers' as counted in the authors' own networks
    "ddgan/cifar10-paper": 48_432_515 + 12_741_633,
    "ddgan/stacked-mnist-paper": 48_366_723 + 12_741_633,
    "ddgan/celebahq256-paper": 39_726_979 + 27_737_217,
    "ddgan/lsun-church256-paper": 39_726_979 + 27_737_217,
    "ddgan/stacked-mnist-small": 5_025_732,
    "ddgan/mnist-small": 1_389_506,
    "ddgan/digits-small": 1_389_506,
    "ddgan/toy2d-small": 19_523,
    # the autoencoder, the prior of points and the global prior, as counted in the authors' own networks
    "lion/airplane-paper": 22_402_731 + 11_420_740 + 77_173_376,
    "lion/chair-paper": 22_402_731 + 11_420_740 + 77_173_376,
    "lion/car-paper": 22_402_731 + 11_420_740 + 77_173_376,
    "lion/all-paper": 22_402_731 + 11_420_740 + 77_173_376,
    "lion/shapes-small": 1_743_879,
    "lion/shapes-voxel-small": 1_743_879,
    "lion/mnist-clouds-small": 1_398_983,
    "sap/shapenet-paper": 1_085_816,
    "sap/shapes-small": 266_696,
    "dp-sinkhorn/celeba-paper": 3_886_595,
    "dp-sinkhorn/digits-small": 27_712,
    "dp-sinkhorn/fashion-mnist-paper": 957_969,
    "dp-sinkhorn/mnist-paper": 957_969,
    "dp-sinkhorn/mnist-small": 25_777,
    # generator and discriminator
    "stylegan2/cifar10-paper": 19_947_539 + 20_720_641,
    "stylegan2/ffhq256-paper": 24_767_458 + 24_001_089,
    "stylegan2/cifar32-small": 11_290_644,
    "stylegan2/digits8-conditional-small": 340_229,
    "stylegan2/digits8-small": 322_310,
    "stylegan2/mnist32-small": 384_076,
}
THINNER = {
    "vit": ("network.width=48",),
    "wrn": ("network.depth=10", "network.widen=1"),
    "biggan": ("network.channels=16",),
    "dcgan": ("network.channels=16",),
    "song-unet": ("network.channels=16",),
    "adm-unet": ("network.channels=16", "network.head_channels=16", "network.blocks=1"),
    "stylegan2": (
        *(f"network.{part}=32" for part in ("latent", "style")),
        *(f"{part}.channel_{key}" for part in ("network", "discriminator") for key in ("base=512", "max=8")),
    ),
    "latent-unet": ("network.channels=4", "network.blocks=1", "discriminator.channels=2"),
}
PAPER = [name for name in shipped.names() if name.endswith("-paper")]


def resolved(name: str, overrides: Sequence[str] = ()) -> Resolved:
    return resolve(name, overrides, families.recipe_schema)


def known_spec(name: str) -> DataSpec:
    """What the recipe's data hold; for folders of pictures, what its header says of them."""
    data = resolved(name).recipe.data
    if data.name == "images":
        classes = data.class_count or 0
        return DataSpec("image", (3, data.size, data.size), classes, tuple(map(str, range(classes))))
    return data.expected_spec() or open_set(data, "train").spec


def tiny(name: str, folder: Path) -> list[str]:
    """Overrides that put two batches of noise of the right shape and classes in the place of the data."""
    spec = known_spec(name)
    if spec.kind == "vector":
        return ["data.count=32", "data.batch_size=2"]
    if name.startswith("sap/"):  # normals, which arrays in a file do not have
        return [
            "data={name: shapes, points: 128, normals: true, count: 4, batch_size: 2}",
            "model.points=64",
            "model.resolution=16",
        ]
    rng = np.random.default_rng(0)
    path = folder / "tiny.npz"
    if spec.kind == "points":
        labels = {"arr_1": np.arange(20) % spec.classes} if spec.classes else {}
        np.savez(path, arr_0=rng.normal(size=(20, 32, 3)).astype(np.float32), **labels)
        return [f"data={{name: npz, path: {json.dumps(str(path))}, batch_size: 2}}"]
    pixels = rng.integers(0, 256, (8, *spec.shape[1:], spec.shape[0]), dtype=np.uint8)
    labels = {"arr_1": np.full(8, spec.classes - 1)} if spec.classes else {}
    np.savez(path, arr_0=pixels, **labels)
    changes = [f"data={{name: npz, path: {json.dumps(str(path))}, batch_size: 2}}"]
    if (privacy := resolved(name).recipe.privacy) is not None:  # such a file has no published size
        draws = min(2, privacy.noise_multiplicity)
        changes += ["privacy.records=100", f"privacy.noise_multiplicity={draws}"]
    return changes


def thin(name: str) -> list[str]:
    if base_of(name) is not None:
        return []  # what is large is the base: `small`
    if name.startswith("lion/"):
        parts = ("vae.encoder", "vae.decoder", "point_prior.network")
        small = [f"model.{part}={SMALL_CLOUDS}" for part in parts]
        return (
            [*small, "model.points=32", "model.style_prior={width: 16, blocks: 1}"] if name in PAPER else []
        )
    if name.startswith("sap/"):
        return ["model.width=8", "model.blocks=1", "model.grid=8"] if name in PAPER else ["model.grid=16"]
    network = getattr(resolved(name).recipe.model, "network", None)
    return [f"model.{change}" for change in THINNER.get(getattr(network, "name", ""), ()) if name in PAPER]


def base_of(name: str) -> str | None:
    """The recipe that a distilled model's recipe names as its base's."""
    return getattr(resolved(name).recipe, "base", None)


def small(name: str, folder: Path) -> list[str]:
    """Overrides for tiny data and thin networks, that of the base by a recipe of its own."""
    changes = [*tiny(name, folder), *thin(name)]
    if (base := base_of(name)) is not None:
        path = folder / "base.yaml"
        path.write_text(resolved(base, [*tiny(base, folder), *thin(base)]).text)
        changes.append(f"base={json.dumps(str(path))}")
    if getattr(resolved(name).recipe.model, "distillation", None) is not None:
        made = ("classifier/digits-small", [*changes[:1], "model.network.channels=8", "trainer.max_steps=1"])
        changes.append(f"model.distillation.teacher={train(*made, run_dir=folder / 'teacher').run}")
    if (
        resolved(name).recipe.family == "lace"
    ):  # labels by measures alone: there is no labeller to train on noise
        changes += ["model.attributes={slant: {source: measure, measure: slant}}", "model.latents=64"]
    return changes


def started(name: str, folder: Path) -> list[str]:
    """The override that names a run to fine-tune, trained for one step, where the recipe asks for one."""
    if getattr(resolved(name).recipe.model, "guided", None) is None:
        return []
    run = train(
        "lion/shapes-small", [*tiny("lion/shapes-small", folder), *ONE_STEP], run_dir=folder / "start"
    ).run
    return [f"model.guided.start={json.dumps(str(run))}"]


ONE_STEP = ("trainer.max_steps=1", "trainer.compile=false")


def trained_base(name: str, folder: Path) -> list[str]:
    """The override that names a base trained for one step, where the recipe asks for one."""
    if (base := base_of(name)) is None:
        return []
    run = train(base, [*small(base, folder), *ONE_STEP], run_dir=folder / "base").run
    return [f"base={json.dumps(str(run))}"]


def test_every_recipe_is_listed_here() -> None:
    assert set(PARAMETERS) == set(shipped.names())


@pytest.mark.parametrize("name", shipped.names())
def test_the_resolved_recipe_resolves_to_itself(name: str) -> None:
    first = resolved(name)
    again = resolve_text(first.text, name, families.recipe_schema)
    assert again.recipe == first.recipe
    assert again.text == first.text


@pytest.mark.parametrize("name", shipped.names())
def test_the_header_says_what_it_needs_and_how_to_run_it(name: str) -> None:
    lines = shipped.path(name).read_text().splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    comments = "\n".join(line for line in lines if line.startswith("#"))
    assert f"gentool train {name}" in comments
    assert "Data needed" in comments
    assert resolved(name).recipe.description


@pytest.mark.parametrize("name", shipped.names())
def test_parameters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole network, built on the meta device."""
    build = networks.build

    def on_meta(*arguments: Any) -> networks.Network:
        with torch.device("meta"):
            return build(*arguments)

    monkeypatch.setattr(networks, "build", on_meta)
    module = build_module(resolved(name).recipe, known_spec(name))
    assert networks.summary(module)["total"] == PARAMETERS[name]


@pytest.mark.parametrize("name", shipped.names())
def test_the_recipes_own_sampling_and_judging_are_possible(name: str, tmp_path: Path) -> None:
    """Solver, options, grid, metrics and features fit the model and the data."""
    from gentool.metrics import catalog

    base = [change for change in small(name, tmp_path) if change.startswith("base=")]
    recipe = resolved(name, [*thin(name), *base]).recipe
    spec = known_spec(name)
    module = build_module(recipe, spec)
    if not module.draws_samples:
        return  # judged by figures of its own, which need nothing of the recipe
    assert module.check_request(recipe.sample) == []
    chosen = catalog.plan(
        [m for m in recipe.evaluate.metrics if m != "bits-per-dim"], recipe.evaluate.features
    )
    assert module.classes or not any("labels" in info.needs for info in chosen)


@pytest.mark.parametrize("name", shipped.names())
def test_one_step_on_tiny_data_and_what_comes_of_it(name: str, tmp_path: Path) -> None:
    changes = [*small(name, tmp_path), *trained_base(name, tmp_path), *started(name, tmp_path), *ONE_STEP]
    done = train(name, changes, run_dir=tmp_path / "run")
    assert done.steps == 1
    assert done.loss is not None
    assert np.isfinite(done.loss)
    if not families.module_class(resolved(name).recipe.family).draws_samples:
        assert all(map(np.isfinite, evaluate(str(done.run)).metrics.values()))
        return
    _, kept, module = load_run(done.run)
    steps = {"steps": 2} if module.solver_name(kept.recipe.sample) == kept.recipe.sample.solver else {}
    if kept.recipe.family == "ddgan":  # whose steps are the model's own
        steps = {}
    drawn = sample(done.run, count=2, settings=steps)
    assert len(drawn.images) == 2
    assert drawn.path.is_file()


@pytest.mark.parametrize("name", shipped.names())
def test_dry_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "gentool.tasks.training.dryrun.BUDGET", 1e6
    )  # the whole batch, however busy the machine is
    changes = small(name, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = dry_run(name, changes)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.parameters["total"] > 0
    assert found.steps_per_second > 0
    assert found.memory_bytes > 4 * 4 * found.parameters["total"]
    assert found.measured_batch == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_one_step_at_the_papers_size(name: str) -> None:
    recipe = resolved(name).recipe
    spec = known_spec(name)
    module = build_module(recipe, spec).train()
    module.assume_data()
    loss = module.try_step(random_batch(spec, 1, torch.device("cpu")))
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters() if p.requires_grad)


def test_named_sets_are_what_their_recipes_expect() -> None:
    """`expected_spec`, by which dry runs do without a download, follows the options that shape pictures."""
    plain = make_config("cifar10", {}).expected_spec()
    assert plain is not None
    assert (plain.kind, plain.shape, plain.classes) == ("image", (3, 32, 32), 10)
    small = make_config("mnist", {"size": 14, "classes": [3, 7]}).expected_spec()
    assert small is not None
    assert (small.shape, small.class_names) == ((1, 14, 14), ("3", "7"))
    padded = make_config("fashion-mnist", {"pad": 32}).expected_spec()
    assert padded is not None
    assert (padded.shape, padded.class_names[0]) == ((1, 32, 32), "T-shirt/top")
