"""gentool purify --attack: the whole way on tiny runs, kills, budgets, and a clear refusal for each mistake."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gentool.data import make_config, open_set, to_model
from gentool.data.choice import shuffled
from gentool.diffusion.purify import Purifier
from gentool.errors import GentoolError
from gentool.noise import mix
from gentool.runs.samples import write_samples
from gentool.tasks.model.load import load_run
from gentool.tasks.purification import target as attack_target
from gentool.tasks.purification.purifier import Settings
from gentool.tasks.purification.target import gradient_check, open_target
from gentool.tasks.train import train
from tests.tasks.runs import TINY, Call, start


@pytest.fixture(scope="module")
def vp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny unconditional VP run."""
    changes = [*TINY[1:], "model.process.name=vp", "model.conditional=false", "model.network.dropout=0"]
    return train(TINY[0], changes, run_dir=tmp_path_factory.mktemp("vp") / "run").run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = ["model.network.channels=8", "model.network.mult=[1,2]", "trainer.max_steps=120"]
    return train("classifier/digits-small", changes, run_dir=tmp_path_factory.mktemp("cls") / "run").run


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose tokens halt, hardly trained: three in ten digits are read, well above chance."""
    changes = ["model.network.width=24", "model.network.depth=3", "model.halting.gate_center=2.0"]
    changes += ["model.augment.shift=0", "model.label_smoothing=0", "ema=null"]
    changes += ["optimizer.lr=5.0e-3", "optimizer.warmup=5"]
    folder = tmp_path_factory.mktemp("a-vit") / "run"
    return train(
        "a-vit/digits-small",
        [*changes, "model.halting.target_depth=2.0", "trainer.max_steps=100"],
        run_dir=folder,
    ).run


@pytest.fixture
def words(vp: Path, classifier: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The words of an attack on six digits."""

    def said(attack: str, *more: str, eot: int | None = 2, data: str = "digits") -> list[str]:
        fixed = ["--classifier", str(classifier), "--steps", "3", "--eps", "0.15", "-n", "6", "--draws", "3"]
        few = [] if eot is None else ["--iterations", "3", "--eot", str(eot)]
        return [
            "purify",
            str(vp),
            data,
            "--attack",
            attack,
            *fixed,
            *few,
            "-o",
            str(tmp_path / "out"),
            "-q",
            *more,
        ]

    return said


def test_figures_records_and_page(words: Callable[..., list[str]], tmp_path: Path, call: Call) -> None:
    done = call(*words("pgd", "--json", "--report", str(tmp_path / "page.html")))
    assert done.code == 0, done.err
    found = done.json
    assert (found["images"], found["asked"], found["draws"]) == (6, 6, 3)
    assert found["attack"]["gradient"] == "exact-replay"
    assert found["gradient_check"] < 1e-4
    lines = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    records = lines[1:]
    assert len({r["index"] for r in records}) == 6
    for stage, name in (("clean", "clean"), ("attacked", "robust")):
        right = [np.mean([k == r["label"] for k in r["victims"]["defence"][stage]]) for r in records]
        assert found["accuracy"]["defence"][name]["mean"]["value"] == pytest.approx(np.mean(right))
    assert all(r["victims"]["defence"]["distance"] <= 0.15 for r in records)
    assert "upper bound" in found["note"]
    kept = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert kept["accuracy"] == found["accuracy"]
    page = (tmp_path / "page.html").read_text()
    for words_ in ("no defence", "noise alone", "worst of N", "Examples", "data:image/png", "exact-replay"):
        assert words_ in page
    assert "<script" not in page


def test_the_table(words: Callable[..., list[str]], call: Call) -> None:
    done = call(*words("transfer", eot=None))
    assert done.code == 0, done.err
    rows = done.out.splitlines()
    assert len(rows) == 8
    assert rows[0].split("  ")[0] == "CLASSIFIER"
    assert rows[1].startswith("no defence   one answer")


def test_a_forecast_before_the_start_counts_every_network_call(
    words: Callable[..., list[str]], call: Call
) -> None:
    """6 pictures: 3 steps x (2 draws x (3 gradients x 3 passes + 2 outputs) + 2 x 3 judgements)."""
    asked = [word for word in words("pgd", "--json") if word != "-q"]
    done = call(*asked)
    assert done.json["forecast"]["network_calls"] == 6 * 3 * (2 * (3 * 3 + 2) + 6)
    assert f"{6 * 3 * 28:,} network calls" in done.err
    assert done.err.index("forecast") < done.err.index("attacking")


def test_a_larger_choice_goes_on_with_a_smaller(
    words: Callable[..., list[str]], tmp_path: Path, call: Call
) -> None:
    call(*words("transfer", "-n", "3", eot=None))
    first = (tmp_path / "out" / "records.jsonl").read_text()
    asked = [word for word in words("transfer", "--json", eot=None) if word != "-q"]
    done = call(*asked)
    assert "3 of 6 pictures are on record already" in done.err
    assert (tmp_path / "out" / "records.jsonl").read_text().startswith(first)
    assert done.json["images"] == 6
    less = call(*words("transfer", "-n", "2", "--json", eot=None))
    assert less.json["images"] == 2
    assert less.json["forecast"] is None


def test_a_killed_campaign_goes_on_to_the_same_figures(
    words: Callable[..., list[str]], tmp_path: Path, call: Call
) -> None:
    """kill -9 after some pictures, then the same command: the records are those of a run that was left alone."""
    asked = words("pgd", "--iterations", "12", "--batch-size", "2", "-n", "5", "--json")
    alone = call(*asked, "-o", str(tmp_path / "whole"))
    assert alone.code == 0, alone.err
    process = start(*asked)
    path = tmp_path / "out" / "records.jsonl"
    for _ in range(1200):
        if path.is_file() and path.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = path.read_bytes()
    assert 3 <= before.count(b"\n") < 6
    done = call(*asked)
    assert done.code == 0, done.err
    assert path.read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()
    assert done.json["accuracy"] == alone.json["accuracy"]


def test_a_campaign_that_is_terminated_says_so_and_goes_on(
    words: Callable[..., list[str]], tmp_path: Path, call: Call
) -> None:
    process = start(*words("pgd", "--iterations", "15", "--batch-size", "2"))
    path = tmp_path / "out" / "records.jsonl"
    for _ in range(4800):
        if path.is_file() and path.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 75, err
    assert "the same command goes on" in err


def test_a_time_budget_cuts_pictures_and_never_the_attack(
    words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    """A clock on which every look takes ten seconds: two minutes are enough for some pictures."""
    from gentool.tasks.purification import robustness

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            self.now += 10
            return self.now

    monkeypatch.setattr(robustness, "time", Clock())
    done = call(*words("pgd", "--batch-size", "1", "--time-budget", "1.3", "--json"))
    assert done.code == 0, done.err
    assert 0 < done.json["images"] < 6
    assert done.json["attack"]["iterations"] == 3
    assert any("of 6 pictures were judged" in line for line in done.json["warnings"])


def test_a_budget_that_allows_no_picture_is_an_error(words: Callable[..., list[str]], call: Call) -> None:
    call(*words("pgd", "--time-budget", "1e-9")).refused(2, "allows no picture")


@pytest.mark.parametrize(
    ("attack", "more", "said"),
    [
        ("pdg", (), ("did you mean pgd",)),
        ("pgd", ("--eps", "8"), ("did you mean 8/255",)),
        ("pgd", ("--norm", "linf2"), ("did you mean linf",)),
        ("pgd", ("--gradient", "adjoint"), ("exact, bpda",)),
        ("pgd", ("--surrogate-steps", "2"), ("add --gradient surrogate",)),
        ("surrogate", ("--surrogate-steps", "3"), ("the defence takes 3",)),
        ("pgd", ("--draws", "0"), ("--draws",)),
        ("pgd", ("-n", "100000"), ("there are",)),
        ("pgd", ("--time-budget", "-1"), ("--time-budget",)),
        ("pgd", ("--resize",), ("model's own shape",)),
        ("pgd", ("--t-star", "10"), ("0.1",)),
    ],
)
def test_mistakes_are_refused(
    attack: str,
    more: tuple[str, ...],
    said: tuple[str, ...],
    words: Callable[..., list[str]],
    tmp_path: Path,
    call: Call,
) -> None:
    call(*words(attack, *more)).refused(2, *said)
    assert not (tmp_path / "out").exists()


def test_a_single_picture_that_is_misread_anyway_is_no_sign_of_other_data(
    vp: Path, classifier: Path, words: Callable[..., list[str]], call: Call
) -> None:
    target = open_target(vp, "digits", str(classifier), settings=Settings(steps=3))[1]
    with torch.no_grad():
        right = target.logits(2 * target.x - 1).argmax(1) == target.label
    assert not right.all()
    seed = next(s for s in range(1000) if not right[shuffled(len(right), mix(s, "pictures"))[0]])
    done = call(*words("transfer", "-n", "1", "--seed", str(seed), "--json", eot=None))
    assert done.code == 0, done.err
    assert done.json["accuracy"]["none"]["clean"]["mean"]["value"] == 0


def test_attack_options_without_an_attack(vp: Path, classifier: Path, call: Call) -> None:
    done = call("purify", vp, "digits", "--classifier", classifier, "--eps", "8/255", "--draws", "4")
    done.refused(2, "--eps, --draws", "name the attack")


def test_an_attack_without_a_classifier(vp: Path, call: Call) -> None:
    call("purify", vp, "digits", "--attack", "pgd").refused(2, "--classifier RUN2")


def test_an_attack_with_a_diffusion_run_as_its_classifier(vp: Path, call: Call) -> None:
    call("purify", vp, "digits", "--attack", "pgd", "--classifier", vp).refused(2, "classifier")


def test_square_without_the_toolbox(
    words: Callable[..., list[str]], hide: Callable[[str], None], call: Call
) -> None:
    hide("art")
    call(*words("square", eot=None)).refused(2, "pip install 'gentool[art]'")


def test_labels_off_by_one_and_missing_labels(
    words: Callable[..., list[str]], tmp_path: Path, call: Call
) -> None:
    batch = open_set(make_config("digits", {}), "test").take(range(60))
    pixels = batch.x.permute(0, 2, 3, 1).numpy()
    write_samples(tmp_path / "off.npz", pixels, (batch.label.numpy() + 1) % 10)
    call(*words("pgd", "-n", "60", data=str(tmp_path / "off.npz"))).refused(2, "off by one")
    write_samples(tmp_path / "bare.npz", pixels)
    call(*words("pgd", data=str(tmp_path / "bare.npz"))).refused(2, "has no labels")


def test_another_campaign_is_not_written_over(words: Callable[..., list[str]], call: Call) -> None:
    assert call(*words("transfer", eot=None)).code == 0
    call(*words("transfer", "--seed", "1", eot=None)).refused(2, "another campaign", "seed: 0, now 1")


def test_a_wrong_gradient_ends_the_campaign(
    vp: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-test compares replay with plain back-propagation on the user's own model."""
    _, target = open_target(vp, "digits", str(classifier), settings=Settings(steps=3))
    assert gradient_check(target, seed=0) < 1e-5

    class Bent(Purifier):
        def __call__(self, x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
            out = super().__call__(x, *rest, **more)
            return out if self.replay is None else out.detach() + 1.1 * (out - out.detach())

    bent = Bent(target.purifier.denoise, target.purifier.process, steps=3)
    with pytest.raises(GentoolError, match=r"off by 0\.1"):
        gradient_check(attack_target.Target(bent, target.logits, target.x, target.label, {}), seed=0)


def test_a_classifier_whose_tokens_halt_is_attacked_by_exact_gradients(
    words: Callable[..., list[str]], vp: Path, adaptive: Path, tmp_path: Path, call: Call
) -> None:
    """Gradients go by masked tokens, readings by dropped ones: the same logits."""
    _, target = open_target(vp, "digits", str(adaptive), settings=Settings(steps=3))
    assert gradient_check(target, seed=0) < 1e-4
    x = target.x[:8].clone().requires_grad_()
    logits = target.logits(2 * x - 1)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert (gradient.abs().amax((1, 2, 3)) > 0).all()
    with torch.no_grad():
        torch.testing.assert_close(target.logits(2 * x - 1), logits, rtol=1e-4, atol=1e-5)
    done = call(*words("pgd", "--json", "--classifier", str(adaptive)))
    assert done.code == 0, done.err
    assert done.json["attack"]["gradient"] == "exact-replay"


def test_a_classifier_whose_tokens_halt_reads_what_was_purified(
    vp: Path, adaptive: Path, tmp_path: Path, call: Call
) -> None:
    words = ["digits", "-n", "12", "--classifier", adaptive, "--steps", "3", "-o", tmp_path / "o.npz", "-q"]
    done = call("purify", vp, *words, "--json")
    assert done.code == 0, done.err
    module = load_run(adaptive)[2]
    x = to_model(open_set(make_config("digits", {}), "test").take(range(12)).x)
    assert done.json["classifier"]["before"] == module.model(x).argmax(1).tolist()
