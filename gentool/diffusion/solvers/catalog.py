"""The solvers and grids there are, without torch: `gentool solvers list` and recipe checks are instant.

A third party adds a solver with an entry point of the group `gentool.solvers` that names a `SolverInfo` in a
module free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
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


REASONS = {
    "denoiser": "it integrates one denoiser in data space, which this model is not",
    "time": "it depends on a process's own time, which this model does not have",
    "adaptive": "it chooses its own noise levels, and this model knows fixed ones alone",
    "derivative": "it differentiates the network in the noise level, and this one knows discrete levels alone",
    "head": "this run has no head that predicts the derivative: distil one with `gentool train genie/... base=RUN` "
    "and sample that run, or take ttm2, which differentiates the network itself",
}
"""What is told where a model lacks what a solver needs."""


@dataclass(frozen=True)
class SolverInfo:
    """One row of `gentool solvers list`.

    Attributes:
        target: `"module:Class"` of the `core.Solver`.
        order: global order of the end point's error on smooth grids with the default options.
        nfe: network calls per sample for N steps.
        stochastic: whether it draws noise with the default options.
        needs: what it asks for beyond predictions: `"time"` (depends on the process's time variable),
            `"adaptive"` (chooses its own steps between the ends of the grid: no step callback), `"derivative"`
            (differentiates the network along the flow), `"head"` (a head that predicts that derivative).
        grid: the grid it is published with.
        options: names of the options a recipe may set.
        preset: values that the name gives to fields; an option of the same name overrides.
        model: what it integrates: `"denoiser"`, one denoiser in data space; a family with a state of its own (a
            velocity beside the data) names its own kind.
    """

    name: str
    target: str
    order: str
    nfe: str
    paper: str
    summary: str
    grid: str = "log-snr"
    stochastic: bool = False
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)
    model: str = "denoiser"

    def lacking(self, means: Set[str]) -> str | None:
        """Why a model of these means (`model` and `needs` that it meets) cannot be sampled so; None when it can."""
        missing = [need for need in (self.model, *self.needs) if need not in means]
        if not missing:
            return None
        return REASONS.get(missing[0], f"it needs what this model does not have: {missing[0]}")

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


_HERE = "gentool.diffusion.solvers."
_DDIM, _SCORE_SDE, _EDM = "DDIM, 2010.02502", "Score SDE, 2011.13456", "EDM, 2206.00364"
_DPM, _DPMPP = "DPM-Solver, 2206.00927", "DPM-Solver++, 2211.01095"
_DEIS, _PNDM, _UNIPC = "DEIS, 2204.13902", "PNDM, 2202.09778", "UniPC, 2302.04867"
_GENIE = "GENIE, 2210.05475"
_MOMENTUM = "Momentum samplers, 2307.11118"

# fmt: off
SOLVERS = SolverCatalog(
    SolverInfo("ddpm", _HERE + "stochastic:Ddpm", "1", "N", "DDPM, 2006.11239",
               "Ancestral sampling with the posterior's small or the prior's large variance",
               grid="trailing", stochastic=True, options=("variance",)),
    SolverInfo("ddim", _HERE + "stochastic:Ddim", "1", "N", _DDIM,
               "Euler in sigma; eta > 0 adds noise, eta = 1 is ancestral sampling",
               grid="power-t", options=("eta",)),
    SolverInfo("sddim", _HERE + "stochastic:StochasticDdim", "1", "N", "DPDM, 2210.09929",
               "Euler-Maruyama in sigma, the stochastic DDIM of DPDM",
               grid="karras", stochastic=True),
    SolverInfo("euler", _HERE + "stochastic:EulerMaruyama", "1", "N", _SCORE_SDE,
               "Euler on the probability flow in the process's own time; a baseline",
               grid="uniform-t", needs=("time",), preset={"nu": 0.0}),
    SolverInfo("heun", _HERE + "singlestep:HeunInTime", "2", "2N", _SCORE_SDE,
               "Heun on the probability flow in the process's own time; a baseline",
               grid="uniform-t", needs=("time",)),
    SolverInfo("euler-maruyama", _HERE + "stochastic:EulerMaruyama", "1", "N", _SCORE_SDE,
               "Euler-Maruyama on the reverse SDE with noise level nu",
               grid="uniform-t", stochastic=True, needs=("time",), options=("nu",)),
    SolverInfo("pc", _HERE + "predictor_corrector:PredictorCorrector", "1",
               "N (corrector_steps + 1)", _SCORE_SDE,
               "Langevin corrector steps at every level, then a reverse-diffusion step",
               grid="uniform-t", stochastic=True, needs=("time",),
               options=("corrector_steps", "snr", "predictor")),
    SolverInfo("edm", _HERE + "singlestep:Edm", "2", "2N - 1", _EDM,
               "Heun in sigma; s_churn > 0 makes it EDM's stochastic sampler",
               grid="karras", options=("s_churn", "s_min", "s_max", "s_noise", "max_gamma", "alpha")),
    SolverInfo("dpm-1", _HERE + "singlestep:Dpm", "1", "N", _DPM,
               "DPM-Solver-1, the same as ddim",
               preset={"order": 1, "prediction": "eps"}),
    SolverInfo("dpm-2", _HERE + "singlestep:Dpm", "2", "2N", _DPM,
               "DPM-Solver-2, single-step",
               preset={"order": 2, "prediction": "eps"}),
    SolverInfo("dpm-3", _HERE + "singlestep:Dpm", "3", "3N", _DPM,
               "DPM-Solver-3, single-step",
               preset={"order": 3, "prediction": "eps"}),
    SolverInfo("dpm-fast", _HERE + "singlestep:DpmFast", "3, the last block 1 or 2", "N", _DPM,
               "Single-step blocks of mixed order that spend exactly N calls",
               options=("order", "prediction")),
    SolverInfo("dpm-adaptive", _HERE + "adaptive:DpmAdaptive", "3", "order per trial", _DPM,
               "DPM-Solver-12 or -23 with step sizes chosen per sample",
               needs=("adaptive",), options=("order", "h_init", "atol", "rtol", "theta")),
    SolverInfo("dpm-2m", _HERE + "multistep:DpmMultistep", "2", "N", _DPM,
               "DPM-Solver-2 multistep on the noise prediction",
               options=("final_order",), preset={"order": 2, "prediction": "eps"}),
    SolverInfo("dpmpp-2m", _HERE + "multistep:DpmMultistep", "2", "N", _DPMPP,
               "DPM-Solver++ 2M: the default, robust from 8 steps up",
               options=("kind", "final_order"), preset={"order": 2}),
    SolverInfo("dpmpp-3m", _HERE + "multistep:DpmMultistep", "2", "N", _DPMPP,
               "DPM-Solver++ 3M as released (its quadratic term is halved, which makes it order 2)",
               options=("final_order",), preset={"order": 3}),
    SolverInfo("dpmpp-3m-exact", _HERE + "multistep:DpmMultistep", "3", "N", _DPMPP,
               "DPM-Solver++ 3M with the quadratic term in full",
               options=("final_order",), preset={"order": 3, "exact": True}),
    SolverInfo("dpmpp-2s", _HERE + "singlestep:Dpm", "2", "2N", _DPMPP,
               "DPM-Solver++ 2S, single-step",
               options=("r",), preset={"order": 2}),
    SolverInfo("dpmpp-3s", _HERE + "singlestep:Dpm", "3", "3N", _DPMPP,
               "DPM-Solver++ 3S, single-step",
               preset={"order": 3}),
    SolverInfo("dpmpp-sde", _HERE + "multistep:DpmMultistep", "1", "N", _DPMPP,
               "SDE-DPM-Solver++ 1 (k-diffusion's dpmpp_sde is dpmpp-2s-sde here)",
               stochastic=True, options=("eta",), preset={"order": 1, "eta": 1.0}),
    SolverInfo("dpmpp-2m-sde", _HERE + "multistep:DpmMultistep", "2", "N", _DPMPP,
               "SDE-DPM-Solver++ 2M",
               stochastic=True, options=("eta", "kind", "final_order"), preset={"order": 2, "eta": 1.0}),
    SolverInfo("dpmpp-3m-sde", _HERE + "multistep:DpmMultistep", "2", "N", _DPMPP,
               "SDE-DPM-Solver++ 3M",
               stochastic=True, options=("eta", "final_order"),
               preset={"order": 3, "eta": 1.0, "kind": "heun"}),
    SolverInfo("dpmpp-2s-sde", _HERE + "stochastic:DpmppSde2s", "1", "2N", _DPMPP,
               "SDE-DPM-Solver++ 2S, two ancestral steps a step",
               grid="karras", stochastic=True, options=("eta", "r")),
    SolverInfo("deis-tab", _HERE + "multistep:Lagrange", "2-4", "N", _DEIS,
               "DEIS tAB: Adams-Bashforth in time; order r + 1 is the paper's tAB-r",
               grid="power-t", needs=("time",), options=("order", "final_order"), preset={"variable": "t"}),
    SolverInfo("deis-rhoab", _HERE + "multistep:Lagrange", "2-4", "N", _DEIS,
               "DEIS rho-AB: variable-step Adams-Bashforth in sigma, k-diffusion's LMS",
               grid="power-t", options=("order", "final_order"), preset={"variable": "sigma"}),
    SolverInfo("lms", _HERE + "multistep:Lagrange", "2-4", "N", "k-diffusion",
               "Another name of deis-rhoab",
               grid="karras", options=("order", "final_order"), preset={"variable": "sigma"}),
    SolverInfo("deis-logrho", _HERE + "multistep:Lagrange", "2-4", "N", _DEIS,
               "DEIS in log sigma: exact DPM-Solver multistep on the noise prediction",
               options=("order", "final_order"), preset={"variable": "lam"}),
    SolverInfo("deis-rhork", _HERE + "singlestep:RungeKutta", "2-4", "stages N", _DEIS,
               "DEIS rho-RK: a classical Runge-Kutta method in sigma",
               grid="power-t", options=("tableau",)),
    SolverInfo("pndm", _HERE + "pndm:Pndm", "2", "N + 9 (f), N + 1 (s)", _PNDM,
               "PNDM: constant Adams-Bashforth weights after a pseudo-Runge-Kutta (f) or two-call (s) start",
               grid="power-t", needs=("time",), options=("start", "order")),
    SolverInfo("ipndm", _HERE + "pndm:Ipndm", "2", "N", _DEIS,
               "Improved PNDM: constant Adams-Bashforth weights, orders rising from 1",
               grid="power-t", options=("order",)),
    SolverInfo("unipc", _HERE + "unipc:UniPC", "order + 1", "N", _UNIPC,
               "Unified predictor-corrector; the corrector costs no call",
               options=("order", "variant", "prediction", "corrector", "full_solve", "final_order")),
    SolverInfo("plms-hb", _HERE + "momentum:PlmsHeavyBall", "1", "N", _MOMENTUM,
               "Adams-Bashforth with heavy-ball or Nesterov momentum: a wider stability region at order 1",
               grid="uniform-t", options=("order", "beta", "nesterov")),
    SolverInfo("ghvb", _HERE + "momentum:Ghvb", "2", "N", _MOMENTUM,
               "Generalised heavy ball: momentum without the loss of order",
               grid="uniform-t", options=("order",)),
    SolverInfo("ttm2", _HERE + "taylor:Taylor2", "2", "3N", _GENIE,
               "Second-order Taylor steps with the exact derivative: a call, and a product that costs two",
               grid="power-t", needs=("derivative",), preset={"source": "exact"}),
    SolverInfo("genie", _HERE + "taylor:Taylor2", "2", "N", _GENIE,
               "Second-order Taylor steps with the derivative that a distilled head predicts",
               grid="power-t", needs=("head",), preset={"source": "head"}),
    SolverInfo("rk45", _HERE + "adaptive:Rk45", "5", "2 + 6 per trial", _SCORE_SDE,
               "Dormand-Prince 5(4) in log sigma with step sizes chosen per sample",
               needs=("adaptive",), options=("atol", "rtol")),
)
# fmt: on
