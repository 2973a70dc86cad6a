"""Benchmarks answer --help, leave what claims.md is made of, and run at toy sizes; no timing is judged."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("bench_*.py"))
STORED = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a benchmark as its folder's neighbours see it, and leaves no trace in the process."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    before = dict(sys.modules)
    yield lambda name: load(ROOT / "benchmarks" / f"{name}.py")
    own = ("common", "models", "distilled", "segmenters", "repainting", "lace_study")
    for name in (*own, *(script.stem for script in SCRIPTS)):
        if name not in before:
            sys.modules.pop(name, None)


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd="/")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_says_what_is_measured_and_how_to_scale_it(script: Path) -> None:
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    for option in ("--quick", "--gpu", "--data-dir", "--out"):
        assert option in done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_setting_must_be_chosen(script: Path) -> None:
    done = run(script)
    assert done.returncode == 2
    assert "--quick" in done.stderr


def result(bench: Any, holds: bool = True, reason: str = "") -> Any:
    common = bench("common")
    claim = common.Claim("fast | small", "", "2.0 times", "a peer", holds, reason)
    return common.Result({"ratio": 2.0}, [claim], seeds=(0, 1), scale="three runs")


def written(bench: Any, folder: Path, name: str, **options: Any) -> None:
    common = bench("common")
    document = common.describe(name, "quick", result(bench, **options), 12.3, 0.5)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(dataclasses.asdict(document)))


def checked(bench: Any, path: Path) -> Any:
    document = json.loads(path.read_text())
    common = bench("common")
    assert document.keys() == {field.name for field in dataclasses.fields(common.Document)}
    return TypeAdapter(common.Document).validate_python(document)


def test_a_document_reads_back_as_what_was_written(bench: Any, tmp_path: Path) -> None:
    written(bench, tmp_path, "one")
    document = checked(bench, tmp_path / "one.json")
    assert list(document.seeds) == [0, 1]
    assert document.versions["torch"]
    assert document.claims[0].measured == "2.0 times"


@pytest.mark.skipif(not STORED, reason="no results are stored in this checkout")
def test_stored_results_have_the_schema_and_stand_in_the_claims(bench: Any) -> None:
    page = (ROOT / "docs" / "claims.md").read_text()
    for path in STORED:
        document = checked(bench, path)
        assert document.git is None or not document.git.endswith("-dirty"), (
            f"{path.name}: not the script as committed"
        )
        assert path.stem == document.name + ("" if document.mode == "quick" else f"-{document.mode}")
        for claim in document.claims:
            assert claim.measured.replace("|", "\\|") in page


def test_claims_are_generated_from_the_results(bench: Any, tmp_path: Path) -> None:
    """A claim that fails is listed, with its reason; a bar in a cell does not break the table."""
    written(bench, tmp_path, "good")
    written(bench, tmp_path, "poor", holds=False, reason="the peer is faster")
    page = load(ROOT / "docs" / "generate.py").claims(tmp_path)
    assert "1 of 2 hold." in page
    assert page.index("## good (quick)") < page.index("## poor (quick)")
    rows = [line for line in page.splitlines() if line.startswith("| fast")]
    assert rows == [
        "| fast \\| small | - | 2.0 times | a peer | yes |",
        "| fast \\| small | - | 2.0 times | a peer | **no**: the peer is faster |",
    ]


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians(bench: Any) -> None:
    """A machine that slows down half way must not change it."""
    found = bench("common").ratio_of([(1.0, 2.0), (10.0, 20.0), (100.0, 200.0)])
    assert found == (10.0, 20.0, 0.5, 0.5, 0.5)


def test_the_stopwatch_counts_calls_and_leaves_the_network_as_it_was(bench: Any) -> None:
    import torch

    sampling = bench("bench_sampling")
    network = torch.nn.Linear(2, 2)
    watch = sampling.Stopwatch(network)
    x = torch.randn(3, 2)
    share, _ = watch.share_outside(lambda: network(network(x)))
    assert watch.calls == 2
    assert 0 < share < 1
    watch.remove()
    network(x)
    assert watch.calls == 2


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*")
def test_diffusers_loop_and_ours_draw_the_same_pictures(bench: Any) -> None:
    """Both sides of the comparison of speed do the same work: same noise in, same pictures out."""
    pytest.importorskip("diffusers")
    import torch

    from gentool.noise import Noise

    sampling = bench("bench_sampling")
    scale = sampling.Scale(channels=8, mult="[1, 1]", blocks=1, size=8, steps=5, rounds=1)
    device = torch.device("cpu")
    module = sampling.build(scale, "ddpm", device)
    for pair, (solver, *_) in sampling.PAIRS.items():
        noise = Noise(0, range(sampling.BATCH), (3, 8, 8)).normal("prior")
        ours = sampling.draw(module, solver, 5, device, grid="trailing")
        theirs = sampling.their_loop(module, pair, scale, device)(noise)
        assert (ours - theirs).abs().max() < 2e-3 * ours.abs().max(), pair


@pytest.mark.slow
def test_every_solver_that_needs_no_head_is_timed(bench: Any) -> None:
    import torch

    from gentool.diffusion.solvers.catalog import SOLVERS

    sampling = bench("bench_sampling")
    scale = sampling.Scale(channels=8, mult="[1, 1]", blocks=1, size=8, steps=2, rounds=1)
    found = sampling.overheads(scale, torch.device("cpu"))
    assert list(found) == [
        name for name in SOLVERS.fitting() if not {"head", "variance"} & {*SOLVERS.get(name).needs}
    ]
    assert all(row["calls"] > 0 for row in found.values())


@pytest.mark.slow
def test_the_bare_loop_learns_as_the_recipe_does(bench: Any, tmp_path: Path) -> None:
    """The baseline of training speed does the same work: its loss falls from 1 to where the recipe's does."""
    from gentool.tasks.train import train

    training = bench("bench_training")
    small = ("model.network.width=64", "data.batch_size=64", "trainer.log_every=50")
    case = training.Case("digits", "quickstart", small, 340, 1)
    loop = training.bare_loop(case, 0)
    start = loop(50)
    loop(250)
    (tmp_path / "recipe.yaml").write_text(training.resolved(case, 0).text)
    trained = train(str(tmp_path / "recipe.yaml"), run_dir=tmp_path / "run")
    end = loop(50)
    assert trained.loss is not None
    assert end < 0.9 * start
    assert abs(end / trained.loss - 1) < 0.15


@pytest.mark.slow
def test_digits_at_toy_size(bench: Any) -> None:
    digits = bench("bench_edm_digits")
    found = digits.study(digits.Scale(steps=3, seeds=1, count=150, mixture=150), 0)
    assert set(found.figures["frechet_distance"]) == set(digits.CONFIGS)
    assert len(found.claims) == 7
    json.dumps(found.figures, allow_nan=False)


@pytest.mark.slow
def test_private_diffusion_at_toy_size(bench: Any) -> None:
    """Every row is trained and judged, and a claim is made of each; what they say at this size means nothing."""
    dpdm = bench("bench_dpdm_mnist")
    scale = dpdm.Scale(dpdm.QUICK.rows, 1, 60, ("logreg",), 1, ("trainer.max_steps=2", "sample.steps=3"))
    found = dpdm.measure(scale, 0, "dpdm/digits-small")
    assert set(found) == {row.name for row in scale.rows}
    for rows in found.values():
        for row in rows:
            row["mlp"] = row["logreg"]
    assert len(dpdm.quick_claims(found)) == 4
    json.dumps(found, allow_nan=False)


@pytest.mark.slow
def test_private_generators_at_toy_size(bench: Any) -> None:
    versus = bench("bench_private_generators")
    steps = ("trainer.max_steps=2", "privacy.max_grad_norm=1.0")
    scale = versus.Scale((10.0,), (*steps, "sample.steps=3"), steps, steps, 60, 1)
    found = versus.study(scale, 0, ("data={name: digits, batch_size: 100}",))
    assert {name: set(row) for name, row in found["10"].items()} == {
        "dpdm": {"fd50", "logreg", "mlp", "seconds"},
        "dp-sinkhorn": {"fd50", "logreg", "mlp", "seconds"},
        "dp-sgd": {"logreg", "mlp"},
    }
    assert len(versus.claims(found)) == 1


def test_modes_are_counted_and_their_shares_judged(bench: Any) -> None:
    """Exact shares: nothing missing is a divergence of 0, one mode of two log 2; a stray point is no mode."""
    import torch

    modes = bench("bench_ddgan_modes")
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    even = modes.on_the_grid(means.repeat(50, 1) + 0.1, means, 0.1)
    assert even == {"modes": 2, "kl": 0.0, "within": 1.0}
    single = modes.on_the_grid(means[:1].repeat(50, 1) + 0.5, means, 0.1)
    assert single["modes"] == 0
    assert single["kl"] == pytest.approx(0.6931, abs=1e-4)
    assert single["within"] == 0


@pytest.mark.slow
def test_modes_at_toy_size(bench: Any) -> None:
    modes = bench("bench_ddgan_modes")
    found = modes.on_points(modes.Scale(steps=2, seeds=1, count=100), 0)
    assert set(found.figures["by_steps"]) == {1, 2, 4, 8}
    assert len(found.claims) == 4
    json.dumps(found.figures, allow_nan=False)


@pytest.mark.slow
def test_halting_at_toy_size(bench: Any, tmp_path: Path) -> None:
    """On digits: every figure that the claims name is there, and dropping is masking."""
    module = bench("bench_a_vit_mnist")
    small = ("data.limit=40", "model.network={patch: 2, width: 12, depth: 3, heads: 2}")
    scale = module.Scale("a-vit/digits-dense-small", "a-vit/digits-small", small, 3, 2, 1, True, 1.3)
    found = module.study(scale, "data={name: digits, batch_size: 16}", 0, tmp_path)
    rows = module.claims([found], scale)
    assert [claim.holds for claim in rows if claim.claim.startswith("dropping tokens gives")] == [True]
    assert len(rows) == 4
    ideal = {"accuracy": 0.97, "throughput-ratio": 1.4, "operations-saved": 0.31, "mean-depth": 2.0}
    made = {"dense": {"accuracy": 0.974}, "tuned": ideal | {"masked_difference": 1e-6}}
    three = dataclasses.replace(scale, ablation=False)
    assert [claim.holds for claim in module.claims([made], three)] == [True] * 3
    made["dense"]["accuracy"] = 0.976
    assert [claim.holds for claim in module.claims([made], three)] == [False, False, True]


def test_genie_at_toy_size(bench: Any) -> None:
    digits, distilled = bench("bench_genie_digits"), bench("distilled")
    tiny = distilled.Plan(
        digits.BASE,
        ("model.network={name: film-mlp, width: 16, blocks: 1}", "trainer.max_steps=2"),
        digits.HEAD,
        ("trainer.max_steps=2",),
        count=20,
        grids=("uniform-t",),
    )
    study = distilled.study(tiny, 0, judge=False)
    found = study["grids"]["uniform-t"]
    assert set(found) == {*distilled.FREE, *distilled.ABLATIONS}
    assert [row["nfe"] for row in found["genie"]] == [5, 10, 15]
    assert [row["nfe"] for row in found["ttm2"]] == [15, 30, 45]
    for row in (row for rows in found.values() for row in rows):
        row["distance"] = 1.0
    made = distilled.claims(study | {"fine_distance": 1.0}, 0.6, "digits", "uniform-t")
    assert len(made) == 7


def test_the_privacy_audit_at_toy_size(bench: Any) -> None:
    """Its lower bounds are honest and useful: below epsilon, and above half of it where that is easy."""
    audit = bench("bench_privacy_audit")
    bounds = bench("audit").bounds
    assert bounds(0, 100)[0] == 0
    low, high = bounds(10, 100)
    assert low < 0.1 < high
    easy = audit.Mechanism("two releases", 1.0, 1.0, 2, 1e-2, math.nan)
    assert 0.5 * audit.rdp(easy) < audit.audit(easy, 40_000, 0) < audit.rdp(easy)
    assert audit.audit(easy, 40_000, 0, noise=0.3) > audit.rdp(easy)
    never = audit.Mechanism("never sampled", 1.0, 1e-9, 5, 1e-3, 0.0)
    assert audit.audit(never, 10_000, 0) < 0.05


def test_the_canary_at_toy_size(bench: Any) -> None:
    """The outlier's own gradients are what the attack says they are, and no noise at all gives it away."""
    canary = bench("bench_privacy_canary")
    world = canary.world(4.0)
    unit = torch.randn(650, generator=torch.Generator().manual_seed(0))
    each = [
        float(world.engine({k: v[i : i + 1] for k, v in world.records.items()}, 1.0, 1).total @ unit)
        for i in range(9)
    ]
    assert world.along(unit)[:9].tolist() == pytest.approx(each, rel=1e-4, abs=1e-6)
    with_it, without = ([world.score(p, 7 + i, 0.05) for i in range(8)] for p in (True, False))
    assert min(with_it) > max(without)


@pytest.mark.slow
def test_lace_at_toy_size(bench: Any, tmp_path: Path) -> None:
    """On a generator that learns in seconds: every claim has its figures; a generator that lies there is taken."""
    bench("bench_edit_lace")
    study = bench("lace_study")
    reader = ("classifier/digits-small", ("trainer.max_steps=100", "model.network.channels=8"))
    few = ("trainer.max_steps=200", "model.latents=2500")
    short = ("model.conditional=false", "trainer.max_steps=300", "model.network.width=64")
    base = ("dp-sinkhorn/digits-small", short)
    scale = study.Scale(base, reader, ("lace/digits-small", few), 4, 8, 3, 4, pc=False, real=600)
    found = study.study(scale, tmp_path, 0, "digits")
    assert [claim.claim.split(":")[0] for claim in found.claims].count("LACE on digits") == 4
    assert set(found.figures["edits"]) == {"anchored", "free"}
    for edits in found.figures["edits"].values():
        assert edits["des_mean"] == pytest.approx(edits["strength"] - edits["side_effect"])
        assert edits["des_error"] >= 0
    assert "dp-sinkhorn/digits-small, 300 steps" in found.scale
    json.dumps(found.figures, allow_nan=False)
    before = (tmp_path / "generator" / "model.safetensors").stat().st_mtime
    other = dataclasses.replace(scale, generator=(base[0], (*short, "model.network.width=32")))
    runs, _ = study.prepared(other, tmp_path, 0)
    assert (runs["generator"] / "model.safetensors").stat().st_mtime == before


@pytest.mark.slow
def test_robustness_at_toy_size(bench: Any) -> None:
    """Every claim is made of figures of its own, and attacks of every kind go through."""
    robust = bench("bench_purify_robust")
    tiny = dataclasses.replace(
        robust.QUICK,
        diffusion=("quickstart", (*robust.VP, "trainer.max_steps=5", "model.network.width=32")),
        classifier=(robust.QUICK.classifier[0], ("trainer.max_steps=60", "model.network.channels=8")),
        data=("digits", {}),
        swept=20,
        judged=20,
        adaptive=6,
        steps=2,
        times=(0.03, 0.1),
        attacks={
            "transfer": {},
            "bpda": {"iterations": 2, "eot": 2, "surrogate": 1},
            "exact": {"iterations": 2, "eot": 2},
        },
        draws=2,
    )
    found = robust.study(tiny, 0, Path(".data"))
    assert len(found.claims) == 7
    assert set(found.figures["by_t_star"]) == {"none", "0.03", "0.1"}
    assert set(found.figures["sde"]) == {"transfer", "bpda", "exact"}
    for row in found.figures["sde"].values():
        assert row["none"]["robust"]["mean"] <= row["none"]["clean"]["mean"]
    json.dumps(found.figures, allow_nan=False)


def test_edits_are_judged_by_the_pictures(bench: Any) -> None:
    """A ring's hole counts, a gap's does not; changes are told apart by region; maps are repainted as named."""
    edits = bench("repainting")
    ring = -torch.ones(2, 1, 8, 8)
    ring[:, :, 2:6, 2:6] = 1
    ring[0, :, 3:5, 3:5] = -1
    assert edits.holes(ring).tolist() == [4, 0]
    region = torch.zeros(2, 8, 8, dtype=torch.bool)
    region[:, 3:5, 3:5] = True
    filled = torch.where(region[:, None], 1.0, ring)
    found = edits.changes(ring[:1], filled[:1], region[:1])
    assert found == {"filled": 1.0, "hole_pixels": [4, 0], "inside": 1.0, "outside": 0.0}
    assert edits.changes(ring[:1], ring[:1], region[:1])["filled"] == 0.0
    labels = torch.where(ring[:, 0] > 0, 1, 0)
    labels[0, 3:5, 3:5] = 2
    assert not (edits.repainted("fill", labels) == 2).any()
    assert (edits.repainted("enlarge", labels) == 2).sum() == 16
    thick = edits.repainted("thicken", labels)
    assert ((thick == 1) & (labels == 0)).flatten(1).sum(1).tolist() == [10, 10]
    assert torch.equal(thick[:, :, 4:], labels[:, :, 4:])


class Glow:
    """Pictures whose every pixel is the first value of the code."""

    def render(self, ws: torch.Tensor) -> torch.Tensor:
        return ws[:, 0, 0, None, None, None].expand(-1, 1, 8, 8)


def test_a_direction_is_taken_as_far_as_the_edit_went(bench: Any) -> None:
    edits = bench("repainting")
    codes, normal = -torch.ones(3, 2, 4), torch.tensor([1.0, 0.0, 0.0, 0.0])
    module: Any = dataclasses.make_dataclass("Module", ["view"])(Glow())
    region = torch.zeros(3, 8, 8, dtype=torch.bool)
    region[:, :2] = True
    edited = {"before": Glow().render(codes), "region": region, "figures": {"inside": 0.3}}
    found = edits.along(module, codes, normal, edited)["equal strength"]
    assert found["inside"] == pytest.approx(0.3, abs=1e-3)
    assert found["outside"] == pytest.approx(0.3, abs=1e-3)  # it cannot tell them apart
    assert found["strength"] == pytest.approx(0.6, abs=1e-3)
