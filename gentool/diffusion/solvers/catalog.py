"""The solvers and grids there are, without torch: `gentool solvers list` and recipe checks are instant.

A third party adds a solver with an entry point of the group `gentool.solvers` that names a `SolverInfo` in a
module free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gentool.errors import UserError, did_you_mean
from gentool.registry import Registry

GRIDS: Registry[Any] = Registry(
    "grid",
    {
        "karras": "gentool.diffusion.grids:karras",
        "log-snr": "gentool.diffusion.grids:log_snr",
        "uniform-t": "gentool.diffusion.grids:uniform_t",
        "power-t": "gentool.diffusion.grids:power_t",
        "uniform-sigma": "gentool.diffusion.grids:uniform_sigma",
        "poly-exp": "gentool.diffusion.grids:poly_exp",
        "edm-vp": "gentool.diffusion.grids:edm_vp",
        "leading": "gentool.diffusion.grids:leading",
        "trailing": "gentool.diffusion.grids:trailing",
        "linspace": "gentool.diffusion.grids:linspace",
    },
    "gentool.grids",
)
"""Names to `gentool.diffusion.grids.Rule`s; third parties' by the entry point group `gentool.grids`."""


@dataclass(frozen=True)
class SolverInfo:
    """One row of `gentool solvers list`.

    Attributes:
        target: `"module:Class"` of the `core.Solver`.
        order: global order of the end point's error on smooth grids with the default options.
        nfe: network calls per sample for N steps.
        stochastic: whether it draws noise with the default options.
        needs: what it asks for beyond a predictor: `"time"` (depends on the process's time variable),
            `"adaptive"` (chooses its own steps between the ends of the grid: no step callback).
        grid: the grid it is published with.
        options: names of the options a recipe may set.
        preset: values that the name gives to fields; an option of the same name overrides.
    """

    name: str
    target: str
    summary: str
    order: str
    nfe: str
    paper: str
    grid: str = "log-snr"
    stochastic: bool = False
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise a `UserError` that lists the options there are at the first unknown one."""
        for key in options:
            if key not in self.options:
                there_are = f"there are: {', '.join(self.options)}" if self.options else "it has none"
                hint = did_you_mean(key, self.options)
                raise UserError(
                    f"unknown option {key!r} of solver {self.name}{hint} ({there_are})", "sample.options"
                )


class SolverCatalog(Registry[SolverInfo]):
    """Solver names to `SolverInfo`, with third parties' from the entry point group `gentool.solvers`."""

    def __init__(self, *infos: SolverInfo) -> None:
        super().__init__("solver", {info.name: info.target for info in infos}, "gentool.solvers")
        self._own = {info.name: info for info in infos}

    def get(self, name: str) -> SolverInfo:
        return self._own[name] if name in self._own else super().get(name)


_HERE = "gentool.diffusion.solvers"
_DDIM, _SCORE_SDE, _EDM = "DDIM, 2010.02502", "Score SDE, 2011.13456", "EDM, 2206.00364"
_DPM, _DPMPP = "DPM-Solver, 2206.00927", "DPM-Solver++, 2211.01095"
_DEIS, _PNDM, _UNIPC = "DEIS, 2204.13902", "PNDM, 2202.09778", "UniPC, 2302.04867"
_MOMENTUM = "Momentum samplers, 2307.11118"

SOLVERS = SolverCatalog(
    SolverInfo(
        "ddpm",
        f"{_HERE}.stochastic:Ddpm",
        "Ancestral sampling with the posterior's small or the prior's large variance",
        "1",
        "N",
        "DDPM, 2006.11239",
        "trailing",
        stochastic=True,
        options=("variance",),
    ),
    SolverInfo(
        "ddim",
        f"{_HERE}.stochastic:Ddim",
        "Euler in sigma; eta > 0 adds noise, eta = 1 is ancestral sampling",
        "1",
        "N",
        _DDIM,
        "power-t",
        options=("eta",),
    ),
    SolverInfo(
        "sddim",
        f"{_HERE}.stochastic:StochasticDdim",
        "Euler-Maruyama in sigma, the stochastic DDIM of DPDM",
        "1",
        "N",
        "DPDM, 2210.09929",
        "karras",
        stochastic=True,
    ),
    SolverInfo(
        "euler",
        f"{_HERE}.stochastic:EulerMaruyama",
        "Euler on the probability flow in the process's own time; a baseline",
        "1",
        "N",
        _SCORE_SDE,
        "uniform-t",
        needs=("time",),
        preset={"nu": 0.0},
    ),
    SolverInfo(
        "heun",
        f"{_HERE}.singlestep:HeunInTime",
        "Heun on the probability flow in the process's own time; a baseline",
        "2",
        "2N",
        _SCORE_SDE,
        "uniform-t",
        needs=("time",),
    ),
    SolverInfo(
        "euler-maruyama",
        f"{_HERE}.stochastic:EulerMaruyama",
        "Euler-Maruyama on the reverse SDE with noise level nu",
        "1",
        "N",
        _SCORE_SDE,
        "uniform-t",
        stochastic=True,
        needs=("time",),
        options=("nu",),
    ),
    SolverInfo(
        "pc",
        f"{_HERE}.predictor_corrector:PredictorCorrector",
        "Langevin corrector steps at every level, then a reverse-diffusion step",
        "1",
        "N (corrector_steps + 1)",
        _SCORE_SDE,
        "uniform-t",
        stochastic=True,
        needs=("time",),
        options=("corrector_steps", "snr", "predictor"),
    ),
    SolverInfo(
        "edm",
        f"{_HERE}.singlestep:Edm",
        "Heun in sigma; s_churn > 0 makes it EDM's stochastic sampler",
        "2",
        "2N - 1",
        _EDM,
        "karras",
        options=("s_churn", "s_min", "s_max", "s_noise", "max_gamma", "alpha"),
    ),
    SolverInfo(
        "dpm-1",
        f"{_HERE}.singlestep:Dpm",
        "DPM-Solver-1, the same as ddim",
        "1",
        "N",
        _DPM,
        preset={"order": 1, "prediction": "eps"},
    ),
    SolverInfo(
        "dpm-2",
        f"{_HERE}.singlestep:Dpm",
        "DPM-Solver-2, single-step",
        "2",
        "2N",
        _DPM,
        preset={"order": 2, "prediction": "eps"},
    ),
    SolverInfo(
        "dpm-3",
        f"{_HERE}.singlestep:Dpm",
        "DPM-Solver-3, single-step",
        "3",
        "3N",
        _DPM,
        preset={"order": 3, "prediction": "eps"},
    ),
    SolverInfo(
        "dpm-fast",
        f"{_HERE}.singlestep:DpmFast",
        "Single-step blocks of mixed order that spend exactly N calls",
        "3, the last block 1 or 2",
        "N",
        _DPM,
        options=("order", "prediction"),
    ),
    SolverInfo(
        "dpm-adaptive",
        f"{_HERE}.adaptive:DpmAdaptive",
        "DPM-Solver-12 or -23 with step sizes chosen per sample",
        "3",
        "order per trial",
        _DPM,
        needs=("adaptive",),
        options=("order", "h_init", "atol", "rtol", "theta"),
    ),
    SolverInfo(
        "dpm-2m",
        f"{_HERE}.multistep:DpmMultistep",
        "DPM-Solver-2 multistep on the noise prediction",
        "2",
        "N",
        _DPM,
        options=("final_order",),
        preset={"order": 2, "prediction": "eps"},
    ),
    SolverInfo(
        "dpmpp-2m",
        f"{_HERE}.multistep:DpmMultistep",
        "DPM-Solver++ 2M: the default, robust from 8 steps up",
        "2",
        "N",
        _DPMPP,
        options=("kind", "final_order"),
        preset={"order": 2},
    ),
    SolverInfo(
        "dpmpp-3m",
        f"{_HERE}.multistep:DpmMultistep",
        "DPM-Solver++ 3M as released (its quadratic term is halved, which makes it order 2)",
        "2",
        "N",
        _DPMPP,
        options=("final_order",),
        preset={"order": 3},
    ),
    SolverInfo(
        "dpmpp-3m-exact",
        f"{_HERE}.multistep:DpmMultistep",
        "DPM-Solver++ 3M with the quadratic term in full",
        "3",
        "N",
        _DPMPP,
        options=("final_order",),
        preset={"order": 3, "exact": True},
    ),
    SolverInfo(
        "dpmpp-2s",
        f"{_HERE}.singlestep:Dpm",
        "DPM-Solver++ 2S, single-step",
        "2",
        "2N",
        _DPMPP,
        options=("r",),
        preset={"order": 2},
    ),
    SolverInfo(
        "dpmpp-3s",
        f"{_HERE}.singlestep:Dpm",
        "DPM-Solver++ 3S, single-step",
        "3",
        "3N",
        _DPMPP,
        preset={"order": 3},
    ),
    SolverInfo(
        "dpmpp-sde",
        f"{_HERE}.multistep:DpmMultistep",
        "SDE-DPM-Solver++ 1 (k-diffusion's dpmpp_sde is dpmpp-2s-sde here)",
        "1",
        "N",
        _DPMPP,
        stochastic=True,
        options=("eta",),
        preset={"order": 1, "eta": 1.0},
    ),
    SolverInfo(
        "dpmpp-2m-sde",
        f"{_HERE}.multistep:DpmMultistep",
        "SDE-DPM-Solver++ 2M",
        "2",
        "N",
        _DPMPP,
        stochastic=True,
        options=("eta", "kind", "final_order"),
        preset={"order": 2, "eta": 1.0},
    ),
    SolverInfo(
        "dpmpp-3m-sde",
        f"{_HERE}.multistep:DpmMultistep",
        "SDE-DPM-Solver++ 3M",
        "2",
        "N",
        _DPMPP,
        stochastic=True,
        options=("eta", "final_order"),
        preset={"order": 3, "eta": 1.0, "kind": "heun"},
    ),
    SolverInfo(
        "dpmpp-2s-sde",
        f"{_HERE}.stochastic:DpmppSde2s",
        "SDE-DPM-Solver++ 2S, two ancestral steps a step",
        "1",
        "2N",
        _DPMPP,
        "karras",
        stochastic=True,
        options=("eta", "r"),
    ),
    SolverInfo(
        "deis-tab",
        f"{_HERE}.multistep:Lagrange",
        "DEIS tAB: Adams-Bashforth in time; order r + 1 is the paper's tAB-r",
        "2-4",
        "N",
        _DEIS,
        "power-t",
        needs=("time",),
        options=("order", "final_order"),
        preset={"variable": "t"},
    ),
    SolverInfo(
        "deis-rhoab",
        f"{_HERE}.multistep:Lagrange",
        "DEIS rho-AB: variable-step Adams-Bashforth in sigma, k-diffusion's LMS",
        "2-4",
        "N",
        _DEIS,
        "power-t",
        options=("order", "final_order"),
        preset={"variable": "sigma"},
    ),
    SolverInfo(
        "lms",
        f"{_HERE}.multistep:Lagrange",
        "Another name of deis-rhoab",
        "2-4",
        "N",
        "k-diffusion",
        "karras",
        options=("order", "final_order"),
        preset={"variable": "sigma"},
    ),
    SolverInfo(
        "deis-logrho",
        f"{_HERE}.multistep:Lagrange",
        "DEIS in log sigma: exact DPM-Solver multistep on the noise prediction",
        "2-4",
        "N",
        _DEIS,
        options=("order", "final_order"),
        preset={"variable": "lam"},
    ),
    SolverInfo(
        "deis-rhork",
        f"{_HERE}.singlestep:RungeKutta",
        "DEIS rho-RK: a classical Runge-Kutta method in sigma",
        "2-4",
        "stages N",
        _DEIS,
        "power-t",
        options=("tableau",),
    ),
    SolverInfo(
        "pndm",
        f"{_HERE}.pndm:Pndm",
        "PNDM: constant Adams-Bashforth weights after a pseudo-Runge-Kutta (f) or two-call (s) start",
        "2",
        "N + 9 (f), N + 1 (s)",
        _PNDM,
        "power-t",
        needs=("time",),
        options=("start", "order"),
    ),
    SolverInfo(
        "ipndm",
        f"{_HERE}.pndm:Ipndm",
        "Improved PNDM: constant Adams-Bashforth weights, orders rising from 1",
        "2",
        "N",
        _DEIS,
        "power-t",
        options=("order",),
    ),
    SolverInfo(
        "unipc",
        f"{_HERE}.unipc:UniPC",
        "Unified predictor-corrector; the corrector costs no call",
        "order + 1",
        "N",
        _UNIPC,
        options=("order", "variant", "prediction", "corrector", "full_solve", "final_order"),
    ),
    SolverInfo(
        "plms-hb",
        f"{_HERE}.momentum:PlmsHeavyBall",
        "Adams-Bashforth with heavy-ball or Nesterov momentum: a wider stability region at order 1",
        "1",
        "N",
        _MOMENTUM,
        "uniform-t",
        options=("order", "beta", "nesterov"),
    ),
    SolverInfo(
        "ghvb",
        f"{_HERE}.momentum:Ghvb",
        "Generalised heavy ball: momentum without the loss of order",
        "2",
        "N",
        _MOMENTUM,
        "uniform-t",
        options=("order",),
    ),
    SolverInfo(
        "rk45",
        f"{_HERE}.adaptive:Rk45",
        "Dormand-Prince 5(4) in log sigma with step sizes chosen per sample",
        "5",
        "2 + 6 per trial",
        _SCORE_SDE,
        needs=("adaptive",),
        options=("atol", "rtol"),
    ),
)
