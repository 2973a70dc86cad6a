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
        "karras": "gentool.diffusion.grid_rules:karras",
        "log-snr": "gentool.diffusion.grid_rules:log_snr",
        "uniform-t": "gentool.diffusion.grid_rules:uniform_t",
        "power-t": "gentool.diffusion.grid_rules:power_t",
        "quadratic-t": "gentool.diffusion.grid_rules:quadratic_t",
        "uniform-sigma": "gentool.diffusion.grid_rules:uniform_sigma",
        "poly-exp": "gentool.diffusion.grid_rules:poly_exp",
        "edm-vp": "gentool.diffusion.grid_rules:edm_vp",
        "leading": "gentool.diffusion.grid_rules:leading",
        "trailing": "gentool.diffusion.grid_rules:trailing",
        "linspace": "gentool.diffusion.grid_rules:linspace",
    },
    "gentool.grids",
)
"""Names to `gentool.diffusion.grids.Rule`s; third parties' by the entry point group `gentool.grids`."""


REASONS = {
    "derivative": "it differentiates the network in the noise level, and this one knows discrete levels alone",
    "head": "this run has no head that predicts the derivative: distil one with `gentool train genie/... base=RUN` "
    "and sample that run, or take ttm2, which differentiates the network itself",
    "variance": "this model learned no variances: train one with model.loss.hybrid, or take ddpm, whose variance is "
    "small or large",
}
"""What is told where a model lacks what a solver needs."""


@dataclass(frozen=True)
class SolverInfo:
    """One row of `gentool solvers list`.

    Attributes:
        target: `"module:Class"` of the `core.Solver`.
        velocity_target: the class that steps states of data and velocity by the same rule, "" where there is
            none.
        order: global order of the end point's error on smooth grids with the default options.
        nfe: network calls per sample for N steps.
        stochastic: whether it draws noise with the default options.
        needs: what it asks for beyond predictions: `"time"` (depends on the process's time variable),
            `"adaptive"` (chooses its own steps between the ends of the grid: no step callback), `"derivative"`
            (differentiates the network along the flow), `"head"` (a head that predicts that derivative), `"variance"`
            (variances of ancestral steps that the network learned),
            `"velocity"` (steps states of data and velocity alone; `target` is the class).
        grid: the grid it is published with.
        options: names of the options a recipe may set.
        preset: values that the name gives to fields; an option of the same name overrides.
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
    velocity_target: str = ""

    def target_for(self, state_parts: int) -> str | None:
        """The class for states of this many parts (`Process.state_parts`); None where the rule has none."""
        if state_parts > 1:
            return self.target if "velocity" in self.needs else self.velocity_target or None
        return None if "velocity" in self.needs else self.target

    def unfit(self, state_parts: int) -> str | None:
        """Why it cannot step states of this many parts; None when it can."""
        if self.target_for(state_parts) is not None:
            return None
        if state_parts > 1:
            return "steps states of data alone, and this model's have a velocity beside it (cld)"
        return "steps states of data and velocity, and this model has no velocity: it is for cld runs"

    def lacking(self, means: Set[str]) -> str | None:
        """Why a model of these means cannot be sampled so; None when it can.

        Args:
            means: the needs that it meets, and the kind of its states: `"data"` or `"velocity"`; neither for a model
                that draws in a way of its own.
        """
        if not means & {"data", "velocity"}:
            return "this model draws its samples in a way of its own, and takes no solver"
        if reason := self.unfit(2 if "velocity" in means else 1):
            return f"it {reason}"
        missing = [need for need in self.needs if need not in means]
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

    def fitting(self, state_parts: int = 1) -> list[str]:
        """Names of the solvers for a process of this many state parts, in the catalogue's order."""
        return [name for name in self if self.get(name).target_for(state_parts) is not None]

    def target(self, name: str, state_parts: int = 1) -> str:
        """`"module:Class"` of the solver `name` for a process of this many state parts.

        Raises:
            UserError: unknown solver, or one that cannot step such states; the message names those that can.
        """
        info = self.get(self.check(name))
        found = info.target_for(state_parts)
        if found is not None:
            return found
        raise UserError(
            f"{name} {info.unfit(state_parts)}; there are: {', '.join(self.fitting(state_parts))}",
            "sample.solver",
        )


_HERE = "gentool.diffusion.solvers."
_DDIM, _SCORE_SDE, _EDM = "DDIM, 2010.02502", "Score SDE, 2011.13456", "EDM, 2206.00364"
_DPM, _DPMPP = "DPM-Solver, 2206.00927", "DPM-Solver++, 2211.01095"
_DEIS, _PNDM, _UNIPC = "DEIS, 2204.13902", "PNDM, 2202.09778", "UniPC, 2302.04867"
_GENIE = "GENIE, 2210.05475"
_MOMENTUM, _CLD = "Momentum samplers, 2307.11118", "CLD-SGM, 2112.07068"

# fmt: off
SOLVERS = SolverCatalog(
    SolverInfo("ddpm", _HERE + "stochastic:Ddpm", "1", "N", "DDPM, 2006.11239",
               "Ancestral sampling with the posterior's small or the prior's large variance",
               grid="trailing", stochastic=True, options=("variance", "temperature")),
    SolverInfo("ddpm-learned", _HERE + "stochastic:DdpmLearned", "1", "N", "Improved DDPM, 2102.09672",
               "Ancestral sampling with variances that the network learned",
               grid="trailing", stochastic=True, needs=("variance",)),
    SolverInfo("ddim", _HERE + "stochastic:Ddim", "1", "N", _DDIM,
               "Euler in sigma; eta > 0 adds noise, eta = 1 is ancestral sampling",
               grid="power-t", options=("eta",)),
    SolverInfo("sddim", _HERE + "stochastic:StochasticDdim", "1", "N", "DPDM, 2210.09929",
               "Euler-Maruyama in sigma, the stochastic DDIM of DPDM",
               grid="karras", stochastic=True),
    SolverInfo("euler", _HERE + "stochastic:EulerMaruyama", "1", "N", _SCORE_SDE,
               "Euler on the probability flow in the process's own time; a baseline",
               grid="uniform-t", needs=("time",), preset={"nu": 0.0},
               velocity_target=_HERE + "langevin:LangevinEuler"),
    SolverInfo("heun", _HERE + "singlestep:HeunInTime", "2", "2N", _SCORE_SDE,
               "Heun on the probability flow in the process's own time; a baseline",
               grid="uniform-t", needs=("time",), velocity_target=_HERE + "langevin:LangevinHeun"),
    SolverInfo("euler-maruyama", _HERE + "stochastic:EulerMaruyama", "1", "N", _SCORE_SDE,
               "Euler-Maruyama on the reverse SDE with noise level nu",
               grid="uniform-t", stochastic=True, needs=("time",), options=("nu",),
               velocity_target=_HERE + "langevin:LangevinEuler"),
    SolverInfo("sscs", _HERE + "langevin:Sscs", "1", "N", _CLD,
               "Symmetric splitting of CLD's reverse SDE: its linear half exactly, twice a step",
               grid="quadratic-t", stochastic=True, needs=("velocity",)),
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
               needs=("adaptive",), options=("atol", "rtol"),
               velocity_target=_HERE + "langevin:LangevinRk45"),
)
# fmt: on
