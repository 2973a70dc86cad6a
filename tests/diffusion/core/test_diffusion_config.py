"""Recipe blocks of the core: two words suffice, faults are named, no torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from gentool.diffusion import precond, processes, times
from gentool.diffusion.config import DiffusionConfig, PrecondConfig, ProcessConfig
from gentool.diffusion.loss_config import TimesConfig

NAMES = ["edm", "ve", "vp", "ddpm", "cosine", "trig", "flow"]


def read(**blocks: object) -> DiffusionConfig:
    return DiffusionConfig.model_validate(blocks)


@pytest.mark.parametrize(
    ("process", "own_precond", "own_times"),
    [
        ("edm", "edm", "log-normal"),
        ("ve", "ve", "log-uniform"),
        ("vp", "vp", "uniform-t"),
        ("ddpm", "vp", "discrete"),
        ("cosine", "v", "uniform-t"),
        ("trig", "v", "uniform-t"),
        ("flow", "flow", "uniform-t"),
    ],
)
def test_preconditioning_and_times_follow_the_process(process: str, own_precond: str, own_times: str) -> None:
    config = read(process={"name": process})
    assert (config.chosen_precond.name, config.chosen_times.name) == (own_precond, own_times)
    built = processes.build(config.process)
    assert built.name == process
    assert precond.build(config.chosen_precond, built).name == own_precond
    assert callable(times.build(config.chosen_times, built))


def test_what_is_said_wins_and_reaches_the_objects() -> None:
    config = read(
        process={"name": "edm", "sigma_max": 40},
        precond={"name": "edm", "sigma_data": 0.6},
        loss={
            "times": {"name": "log-normal", "mean": -0.4, "stratified": True},
            "weight": {"name": "min-snr"},
        },
    )
    assert processes.build(config.process).sigma_max == 40
    built = precond.build(config.chosen_precond, processes.build(config.process))
    assert built.sigma_data is not None
    assert built.sigma_data.item() == 0.6
    assert config.chosen_times.stratified


@pytest.mark.parametrize(
    ("blocks", "word"),
    [
        ({"process": {"name": "edn"}}, "edm"),
        ({"process": {"name": "edm", "sigma_mim": 0.1}}, "sigma_mim"),
        ({"process": {"name": "edm", "sigma_min": 90.0}}, "must lie below"),
        ({"process": {"name": "flow", "t_max": 1.0}}, "less than 1"),
        ({"process": {"name": "vp", "train_t_min": 0.1}}, "must not exceed"),
        ({"process": {"name": "trig", "logsnr_min": 20.0}}, "must lie below"),
        ({"process": {"name": "ddpm", "beta_min": 0.5}}, "must not exceed"),
        ({"precond": {"name": "edm", "sigma_data": 0}}, "greater than 0"),
        ({"loss": {"times": {"name": "discrete"}}}, "needs the ddpm process"),
        ({"loss": {"hybrid": 0.001}}, "the ddpm process, not edm"),
        ({"process": {"name": "ddpm"}, "loss": {"hybrid": 0}}, "greater than 0"),
        (
            {"process": {"name": "ddpm"}, "loss": {"hybrid": 0.001, "times": {"name": "uniform-t"}}},
            "needs loss.times discrete, not uniform-t",
        ),
        (
            {"process": {"name": "ddpm"}, "precond": {"name": "iddpm"}, "loss": {"hybrid": 0.001}},
            "throws its variances away",
        ),
        ({"process": {"name": "edm", "sigma_max": float("nan")}}, "finite"),
    ],
)
def test_faults_are_named(blocks: dict[str, object], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        read(**blocks)


def test_every_name_of_the_schema_builds() -> None:
    for union, needs in [
        (ProcessConfig, None),
        (PrecondConfig, processes.Vp()),
        (TimesConfig, processes.Ddpm()),
    ]:
        adapter = TypeAdapter(union)
        names = adapter.json_schema()["discriminator"]["mapping"]
        for name in names:
            config = adapter.validate_python({"name": name})
            if union is ProcessConfig:
                assert processes.build(config).name == name
            elif union is PrecondConfig:
                assert precond.build(config, needs).name == name
            else:
                assert callable(times.build(config, needs))


def test_a_dumped_block_reads_back_the_same() -> None:
    config = read(process={"name": "trig"}, precond={"name": "v", "time_scale": 1})
    assert DiffusionConfig.model_validate(config.model_dump()) == config


def test_reading_recipes_needs_no_torch() -> None:
    code = "import sys, gentool.diffusion.config as c; c.DiffusionConfig(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
