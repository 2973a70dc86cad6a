"""The catalog: instant, honest about what it lists, and strict about options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import pytest

from gentool.diffusion import grids
from gentool.diffusion.solvers.catalog import GRIDS, SOLVERS, SolverCatalog, SolverInfo
from gentool.diffusion.solvers.core import Solver, build
from gentool.errors import UserError
from gentool.registry import resolve

ASKED_FOR = [
    *("ddpm", "ddpm-learned", "ddim", "sddim", "euler", "heun", "euler-maruyama", "pc", "edm"),
    *("dpm-1", "dpm-2", "dpm-3", "dpm-fast", "dpm-adaptive", "dpm-2m"),
    *("dpmpp-2m", "dpmpp-3m", "dpmpp-3m-exact", "dpmpp-2s", "dpmpp-3s"),
    *("dpmpp-sde", "dpmpp-2m-sde", "dpmpp-3m-sde", "dpmpp-2s-sde"),
    *("deis-tab", "deis-rhoab", "lms", "deis-rhork", "deis-logrho"),
    *("pndm", "ipndm", "unipc", "plms-hb", "ghvb", "rk45", "sscs", "ttm2", "genie"),
]


def test_listing_imports_no_torch() -> None:
    code = (
        "import sys; from gentool.diffusion.solvers.catalog import SOLVERS, GRIDS; list(GRIDS);"
        "[SOLVERS.get(name).check_options({}) for name in SOLVERS];"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_solver_of_the_family_is_there() -> None:
    assert sorted(SOLVERS) == sorted(ASKED_FOR)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_a_row_agrees_with_its_class(name: str) -> None:
    info = SOLVERS.get(name)
    assert info.grid in GRIDS
    assert info.summary
    assert info.paper
    targets = {parts: target for parts in (1, 2) if (target := info.target_for(parts)) is not None}
    assert targets
    for parts, target in targets.items():
        cls = resolve(target)
        assert issubclass(cls, Solver)
        assert cls.state_parts == parts
        known = {field.name for field in fields(cls)}
        assert set(info.options) <= known
        assert set(info.preset) <= known
        build(name, state_parts=parts)


def test_every_grid_resolves_to_a_rule() -> None:
    for name in GRIDS:
        assert isinstance(GRIDS.get(name), grids.Rule)


def test_unknown_names_and_options_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown solver 'dpmp-2m'; did you mean dpmpp-2m"):
        build("dpmp-2m")
    with pytest.raises(
        UserError, match=r"'s_chrn' of solver edm; did you mean s_churn\? \(there are: s_churn"
    ):
        build("edm", {"s_chrn": 1.0})
    with pytest.raises(UserError, match=r"unknown option 'order' of solver dpm-2 \(it has none\)"):
        build("dpm-2", {"order": 3})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unipc", {"order": 9}, "sample.options.order: input should be less than or equal to 4, not 9"),
        (
            "ddpm",
            {"temperature": -0.1},
            "sample.options.temperature: input should be greater than or equal to 0",
        ),
        (
            "ddpm",
            {"temperature": float("inf")},
            "sample.options.temperature: input should be a finite number",
        ),
        ("unipc", {"order": "3"}, "sample.options.order: input should be a valid integer, not '3'"),
        ("unipc", {"variant": "bh3"}, "input should be 'bh1' or 'bh2', not 'bh3'"),
        ("ddim", {"eta": 1.5}, "less than or equal to 1"),
        ("edm", {"s_churn": float("nan")}, "finite number"),
        ("rk45", {"rtol": 0.0}, "greater than 0"),
    ],
)
def test_option_values_out_of_range_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, options)


def test_an_eta_for_the_noise_prediction_is_refused(vp: object) -> None:
    from gentool.diffusion.solvers.multistep import DpmMultistep

    solver = DpmMultistep(order=2, prediction="eps", eta=1.0)
    with pytest.raises(UserError, match="needs the x0 prediction"):
        solver.prepare(grids.make_grid("log-snr", 4, vp), vp)


THIRD_PARTY = SolverInfo(
    "mine", "gentool.diffusion.solvers.stochastic:Ddim", "1", "N", "none", "A third party's", options=("eta",)
)


def test_third_parties_add_solvers_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name="mine", value=f"{__name__}:THIRD_PARTY")
    monkeypatch.setattr(
        "gentool.registry.entry_points", lambda group: [point] if group == "gentool.solvers" else []
    )
    catalog = SolverCatalog(SOLVERS.get("ddim"))
    assert list(catalog) == ["ddim", "mine"]
    assert catalog.get("mine") == THIRD_PARTY
