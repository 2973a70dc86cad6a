"""gentool edit on clouds: what edits of nothing give back, what they keep, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gentool.families.lion.editing import Editor, Level
from gentool.families.lion.generation import Generation
from gentool.families.lion.module import LionModule
from gentool.families.lion.priors import Mixed
from gentool.points.distances import chamfer
from gentool.recipes.schema import Sample
from gentool.runs.samples import read_samples
from gentool.tasks.model.load import load_run
from gentool.tasks.train import train
from gentool.training.sampling import Drawn, SampleRequest
from tests.families.lion_runs import recipe, spheres
from tests.tasks.runs import Call


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional run; tests only read it."""
    folder = tmp_path_factory.mktemp("edit")
    text = folder / "told.yaml"
    text.write_text(recipe(spheres(folder / "spheres.npz"), ", conditional: true"))
    return train(str(text), run_dir=folder / "run").run


@pytest.fixture(scope="module")
def clouds(run: Path) -> Path:
    return run.parent / "spheres.npz"


def editor_of(run: Path, clouds: Path) -> tuple[Editor, torch.Tensor]:
    module = load_run(run)[2]
    assert isinstance(module, LionModule)
    return Editor(module, 24), torch.from_numpy(np.load(clouds)["arr_0"][:2])


def test_the_ends_of_an_interpolation_are_the_shapes_themselves(clouds: Path, tmp_path: Path) -> None:
    """With a flow that is smooth (priors of normal latents), up to the solver's error, which falls with its steps."""
    text = tmp_path / "mixed.yaml"
    text.write_text(recipe(clouds, ", mixed: true"))
    editor, x = editor_of(train(str(text), ["trainer.max_steps=4"], run_dir=tmp_path / "run").run, clouds)
    for denoiser, _ in editor.generation.parts():
        assert isinstance(denoiser.network, Mixed)
        denoiser.network.logit.fill_(-torch.inf)
    errors = []
    with torch.no_grad():
        plain = editor.reconstruct(x)
        for steps in (25, 50):
            way = Sample(solver="edm", steps=steps, grid="log-snr")
            style, points, _ = editor.noise(x, way)
            made = editor.between((style.float(), points.float()), torch.linspace(0, 1, 5), way, 0).x
            errors.append(float((made[[0, 4]] - plain).abs().max()))
            assert (made[2] - made[0]).abs().max() > 0.1
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.01


def test_an_interpolation_says_how_far_its_ends_are_off(
    run: Path, clouds: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "i.h5"
    done = call("edit", run, clouds, "--method", "interpolate", "--frames", 5, "-o", out, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["count"] == 5
    assert document["method"] == "interpolate"
    found = torch.from_numpy(read_samples(out).array)
    editor, x = editor_of(run, clouds)
    with torch.no_grad():
        off = chamfer(found[[0, 4]], editor.reconstruct(x))
    assert document["ends"] == pytest.approx(off.tolist(), rel=1e-3)


@pytest.mark.parametrize("frozen", [None, "global", "points"])
def test_mixed_noise_has_unit_variance_and_a_frozen_latent_keeps_its_own(
    frozen: Level | None, run: Path, clouds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the flow starts from; a straight mix would have half of the variance in the middle."""
    editor, _ = editor_of(run, clouds)
    editor.generation = Generation(editor.model.priors, editor.config, 3000)
    starts: dict[str, Any] = {}

    def kept(what: str, to: Any) -> Any:
        def draw(request: SampleRequest, *told: Any) -> Drawn:
            starts[what] = request.start
            return to(request, *told)

        return draw

    for what in ("style", "points"):
        monkeypatch.setattr(editor.generation, what, kept(what, getattr(editor.generation, what)))
    settings = load_run(run, ["sample.steps=1"])[1].recipe.sample
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, 8, generator=generator), torch.randn(2, 4, 3000, generator=generator)
    with torch.no_grad():
        editor.between(ends, torch.tensor([0.0, 0.5, 1.0]), settings, 0, frozen)
    assert starts["points"].square().mean((1, 2)).sub(1).abs().max() < 0.05
    for what, level, noise in zip(("style", "points"), ("global", "points"), ends):
        assert torch.equal(starts[what][0], noise[0])
        assert torch.equal(starts[what][2], noise[0 if frozen == level else 1])


def test_the_batch_changes_no_frame(run: Path, clouds: Path, tmp_path: Path, call: Call) -> None:
    found = []
    for size in (16, 2):
        out = tmp_path / f"{size}.h5"
        chosen = ("--frames", 3, "--set", "steps=3", "--batch-size", size)
        done = call("edit", run, clouds, "--method", "interpolate", *chosen, "-o", out)
        assert done.code == 0, done.err
        found.append(read_samples(out).array)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)


def test_samples_are_interpolated_between_their_noises(run: Path, tmp_path: Path, call: Call) -> None:
    done = call("edit", run, "--method", "interpolate", "--frames", 3, "-o", tmp_path / "x.ply", "-q")
    assert done.code == 0, done.err
    assert read_samples(tmp_path / "x.ply").array.shape == (3, 24, 3)


def test_an_edit_never_overwrites_its_input(run: Path, clouds: Path, call: Call) -> None:
    before = clouds.read_bytes()
    for method in ("interpolate", "diffuse-denoise"):
        call("edit", run, clouds, "--method", method, "-o", clouds, "-q").refused(2, "is INPUT itself")
    assert clouds.read_bytes() == before


def test_no_noise_is_the_reconstruction(run: Path, clouds: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "x.npz"
    done = call(
        "edit", run, clouds, "-n", 2, "--method", "diffuse-denoise", "--tau", 0, "--variants", 2, "-o", out
    )
    assert done.code == 0, done.err
    found = read_samples(out).array.reshape(2, 3, 24, 3)
    for cloud in found:
        np.testing.assert_allclose(cloud[1:], cloud[:1].repeat(2, 0), atol=1e-6)


def test_more_noise_moves_further_and_variations_differ(run: Path, clouds: Path) -> None:
    editor, x = editor_of(run, clouds)
    settings = load_run(run)[1].recipe.sample
    with torch.no_grad():
        plain = editor.reconstruct(x)
        moved = [
            editor.varied(x, (tau, tau), settings.model_copy(update={"steps": 20}), 0, range(2))
            for tau in (0, 20, 200)
        ]
        other = editor.varied(x, (200, 200), settings, 1, range(2)).x
    away = [float((edited.x - plain).abs().mean()) for edited in moved]
    assert away[0] == 0
    assert 0 < away[1] < away[2]
    assert [edited.nfe for edited in moved] == [0, 40, 40]
    assert (other - moved[2].x).abs().max() > 0.01


def test_one_latent_may_stay(run: Path, clouds: Path) -> None:
    editor, x = editor_of(run, clouds)
    settings = load_run(run)[1].recipe.sample
    with torch.no_grad():
        style, points = editor.encode(x)
        only_points = editor.varied(x, (0, 100), settings, 0, range(2))
        again = editor.varied(x, (0, 100), settings, 0, range(2))
    assert only_points.nfe == 3
    assert torch.equal(only_points.x, again.x)
    assert style.shape == (2, 8)
    assert points.shape == (2, 4, 24)


def test_clouds_of_another_size_are_edited(run: Path, tmp_path: Path, call: Call) -> None:
    data = spheres(tmp_path / "other.npz", 2, points=40)
    done = call("edit", run, data, "--method", "diffuse-denoise", "--variants", 1, "-o", tmp_path / "x.h5")
    assert done.code == 0, done.err
    assert read_samples(tmp_path / "x.h5").array.shape == (4, 40, 3)


def test_voxels_become_shapes_of_a_run_that_knows_them(
    run: Path, clouds: Path, tmp_path: Path, call: Call
) -> None:
    grid = np.zeros((5, 5, 5), bool)
    grid[1:4, 1:4, 2] = True
    np.save(tmp_path / "grid.npy", grid)
    text = tmp_path / "g.yaml"
    more = f", conditional: true, guided: {{start: {run}, input: {{name: voxels, size: 0.5}}}}"
    text.write_text(recipe(clouds, more))
    guided = train(str(text), run_dir=tmp_path / "run").run
    asked = ("--method", "diffuse-denoise", "--tau", "0,50", "--variants", 2, "--condition", "1")
    done = call("edit", guided, tmp_path / "grid.npy", *asked, "-o", tmp_path / "x.h5")
    assert done.code == 0, done.err
    found = read_samples(tmp_path / "x.h5").array
    assert found.shape == (3, 24, 3)
    # the first is the reconstruction, which lies near the voxels' centres, a flat square of side 1
    assert np.abs(found[0][:, :2]).max() < 1
    assert np.abs(found[0][:, 2]).max() < 0.3


def test_what_is_no_voxel_grid_is_refused(run: Path, clouds: Path, tmp_path: Path, call: Call) -> None:
    asked = ("--method", "diffuse-denoise", "-o", tmp_path / "x.h5")
    np.save(tmp_path / "floats.npy", np.ones((2, 2, 2)))
    done = call("edit", run, tmp_path / "floats.npy", *asked)
    assert done.code == 2
    assert "a run fine-tuned on them" in done.err
    text = tmp_path / "g.yaml"
    text.write_text(recipe(clouds, f", conditional: true, guided: {{start: {run}}}"))
    guided = train(str(text), ["trainer.max_steps=1"], run_dir=tmp_path / "run").run
    np.save(tmp_path / "empty.npy", np.zeros((2, 2, 2), bool))
    for name, said, code in (
        ("floats.npy", "expected a boolean grid", 2),
        ("empty.npy", "is empty", 2),
        ("nowhere.npy", "no such file", 2),
    ):
        done = call("edit", guided, tmp_path / name, *asked)
        assert done.code == code
        assert said in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "interpolate", "--frames", "1"), "at least 2 frames"),
        (("--method", "diffuse-denoise", "--tau", "1001"), "level from 2 to 1000"),
        (("--method", "diffuse-denoise", "--tau", "much"), "expected a level"),
        (("--method", "diffuse-denoise", "--variants", "0"), "at least 1"),
        (("--method", "diffuse-denoise", "--frames", "3"), "does not read it"),
        (("--method", "interpolate", "--sample", "3"), "between two shapes"),
        (("--method", "interpolate", "--freeze", "both"), "expected global or points"),
        (("--method", "interpolate", "--set", "solver=ddpm", "--set", "options={}"), "deterministic"),
        (("--method", "interpolate", "--classifier", "x"), "clouds of points"),
        (("--method", "diffuse-denoise", "--condition", "0,1"), "expected one class"),
        (("--method", "diffuse-denoise", "--condition", "cat"), "--condition 'cat': the classes are 0 to 1"),
    ],
)
def test_bad_settings_end_in_one_clear_error(
    options: tuple[str, ...], said: str, run: Path, clouds: Path, tmp_path: Path, call: Call
) -> None:
    done = call("edit", run, clouds, *options, "-o", tmp_path / "x.h5")
    assert done.code == 2, done.err
    assert said in done.err


def test_pictures_are_no_clouds(run: Path, tmp_path: Path, call: Call) -> None:
    done = call("edit", run, "digits", "--method", "diffuse-denoise", "-o", tmp_path / "x.h5")
    assert done.code == 2
    assert "expected clouds of points" in done.err
