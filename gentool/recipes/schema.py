"""The sections every recipe shares. Families subclass `Recipe` and type their own `model:` block.

No torch here: validating a recipe is instant. Every field has a description: it becomes the JSON Schema that
editors complete from, and the generated reference in docs/.
"""

from __future__ import annotations

import math
from fractions import Fraction as Ratio
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gentool.errors import UserError, did_you_mean

SCHEMA = 1
"""Version of the recipe grammar; a recipe may say `schema: 1`, and one of a later version is refused."""

MAX_STEPS = 100_000
"""Most steps of a solver's grid: each has a row of coefficients in memory."""

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Base of every recipe block: unknown keys, lax conversions, NaN and infinity are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Misfit(ValueError):
    """What a validator of a whole block finds wrong with one key inside it: the fault is told at that key."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Trainer(Strict):
    max_steps: Positive = 1000
    """Optimiser steps in all; a resumed run goes on to this number."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    """Arithmetic of the network; weights, losses and EMA stay in float32."""
    devices: Positive | Literal["auto"] = "auto"
    """Devices per node."""
    nodes: Positive = 1
    """Machines that train together."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How devices share the work: ddp has all weights on each, fsdp a shard; auto is ddp from two devices on."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to train."""
    accumulate: Positive = 1
    """Batches per optimiser step."""
    auto_microbatch: bool = True
    """Work off a batch that does not fit the GPU's memory in parts, with the same gradient; not under fsdp."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Clip the gradient's global norm to this."""
    compile: bool = False
    """torch.compile the network; falls back with one warning where no compiler is found."""
    matmul: Literal["highest", "high", "medium"] = "high"
    """float32 matrix precision on GPUs (high is TF32)."""
    checkpoint_every: Positive = 1000
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """How many of the newest checkpoints to keep."""
    log_every: Positive = 50
    """Steps between rows of metrics.csv."""
    loggers: tuple[Literal["tensorboard"], ...] = ()
    """Loggers beside metrics.csv and metrics.jsonl, which are always written."""
    deterministic: bool = False
    """Refuse operations whose result may vary between runs on a GPU."""


class Optimizer(Strict):
    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """Update rule."""
    lr: Annotated[float, Field(gt=0)] = 1.0e-3
    """Learning rate after warm-up."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Adam's moment decays."""
    eps: Annotated[float, Field(gt=0)] = 1.0e-8
    """Adam's denominator guard."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay (adamw), L2 (adam, sgd)."""
    momentum: Fraction = 0.0
    """Momentum of sgd."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """What the learning rate does after warm-up, down to `final` times lr at max_steps."""
    final: Fraction = 0.0
    """The last learning rate as a fraction of lr."""


class Ema(Strict):
    rule: Literal["constant", "ramp", "half-life", "inverse-power"] = "ramp"
    """constant: beta = decay; ramp: min(decay, (1+k)/(10+k)); half-life: EDM; inverse-power: k-diffusion."""
    decay: Fraction = 0.999
    """The (largest) decay of the constant, ramp and inverse-power rules."""
    half_life: Annotated[float, Field(gt=0)] = 500_000.0
    """Images after which a weight counts half (rule half-life)."""
    ramp_up: Annotated[float, Field(gt=0)] = 0.05
    """Half-life is at most this share of the images seen (rule half-life)."""
    power: Annotated[float, Field(gt=0)] = 2 / 3
    """Exponent of the inverse-power rule."""


class TimeShift(Strict):
    window: Annotated[int, Field(ge=2)]
    """Width of the search for a better time, in levels of a thousand."""
    cutoff: Annotated[int, Field(ge=0)] = 0
    """Shift only above this level."""
    data_variance: Annotated[float, Field(ge=0)] = 0.0
    """Variance of the data's values; 0 is the paper's rule."""


_SOLVERS_OWN = {"grid", "grid_options", "options", "afs", "denoise"}
"""Keys of the sample block that were chosen with one solver in mind."""


class Sample(Strict):
    solver: str = "dpmpp-2m"
    """Solver by name; see `gentool solvers list`."""
    steps: Annotated[int, Field(gt=0, le=MAX_STEPS)] = 20
    """Steps of the solver's grid."""
    grid: str | None = None
    """Step grid (karras, log-snr, uniform-t, power-t, ...); absent: the solver's own."""
    grid_options: dict[str, Any] = Field(default_factory=dict)
    """Options of the grid (rho, kappa, final, sigma_max ...)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the solver (eta, s_churn, order ...), checked against its signature."""
    afs: bool = False
    """Answer the first network call analytically (GENIE's analytical first step): one call less."""
    denoise: bool = False
    """End on the x0 prediction of the last level: one call more."""
    time_shift: TimeShift | None = None
    """Time-Shift sampler (Li et al. 2024) around the solver."""
    guidance: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Guidance rules in order, e.g. `{cfg: {scale: 2.0}}`; see docs/guidance.md."""
    count: Positive = 64
    """How many samples."""
    batch_size: Positive = 64
    """Samples per network call; never changes a sample."""
    threshold: Literal["none", "static", "dynamic"] = "none"
    """Clip x0 predictions to the pixel range (images only)."""
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Other settings by name, for `gentool sample RUN --preset NAME`: keys of this block that differ. One that
    names a solver takes nothing of this block's grid and options."""

    def preset(self, name: str) -> dict[str, Any]:
        """What the preset changes in this block, by key.

        Raises:
            UserError: there is no such preset.
        """
        if name not in self.presets:
            there_are = f"there are: {', '.join(self.presets)}" if self.presets else "the recipe has none"
            raise UserError(f"no preset {name!r}{did_you_mean(name, list(self.presets))} ({there_are})")
        given = self.presets[name]
        plain = Sample().model_dump(mode="json", include=_SOLVERS_OWN) if "solver" in given else {}
        return plain | given


class Evaluate(Strict):
    metrics: tuple[str, ...] = ("fid", "precision-recall")
    """Metrics by name; see docs/metrics.md."""
    features: str = "classifier"
    """Feature extractor: classifier, pixels, values (of vectors), clouds (of clouds of points) or inception."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of metrics by name, e.g. `{downstream: {epochs: 20}}`; see docs/metrics.md."""
    count: Positive | None = None
    """Samples to judge; absent: those of `sample`."""


class Privacy(Strict):
    """Differential privacy of the training data, for adding or removing one record; see docs/privacy.md."""

    enabled: bool = True
    """false: the same code without noise and clipping, as a baseline; the ledger says that it is not private."""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """Target: the least noise that keeps trainer.max_steps within it is found. Give it or noise_multiplier."""
    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Standard deviation of the noise / max_grad_norm, instead of a target."""
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability of the guarantee's failure; absent: 1/(10 records), rounded down to a power of ten."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Each record's gradient is clipped to this L2 norm."""
    noise_multiplicity: Positive = 1
    """Draws of time and noise per record, their gradients averaged before clipping; costs no privacy (DPDM)."""
    records: Positive | None = None
    """Public number of training records (the true one is private); absent: what is published of the data set."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] | str | None = None
    """Chance of a record to join a step, a number or a fraction (1/15); absent: data.batch_size / records."""
    accountant: Literal["rdp", "pld"] = "rdp"
    """What turns steps into epsilon; pld is tighter, and needs the extra pld."""
    engine: Literal["layers", "vmap", "microbatch", "opacus"] = "layers"
    """How gradients of single records are computed: layers is the fastest, vmap takes any network, microbatch is the
    slow reference, opacus a cross-check."""
    memory_gib: Annotated[float, Field(gt=0)] = 4.0
    """Memory for the gradients and activations of the records that are worked on at once."""
    physical_batch: Positive | None = None
    """Records that are worked on at once; absent: as many as memory_gib holds. Never changes the result."""
    pretrained: Literal["public"] | None = None
    """public: the run that this one starts from (`base:`) learned from other, public data, and costs nothing; absent:
    what its ledger states counts, and a run without one is refused."""
    secure_noise: bool = False
    """Sum four Gaussians drawn in 64 bits: harder to attack through floating-point rounding."""
    debug_seed: Annotated[int, Field(ge=0)] | None = None
    """Reproducible batches and noise, for debugging: whoever knows the seed can remove the noise: NOT PRIVATE."""

    @field_validator("noise_multiplier")
    @classmethod
    def _some_noise(cls, noise: float | None) -> float | None:
        if noise is not None and noise < 0.01:
            raise ValueError(
                f"{noise:g} is no noise to speak of; to train without, say privacy.enabled: false"
            )
        return noise

    @field_validator("sample_rate")
    @classmethod
    def _fraction(cls, rate: float | str | None) -> float | str | None:
        if isinstance(rate, str):
            try:
                fits = 0 < Ratio(rate) <= 1
            except (ValueError, ZeroDivisionError):
                fits = False
            if not fits:
                raise ValueError(
                    f"expected a number or a fraction above 0 and at most 1 (1/15), got {rate!r}"
                )
        return rate

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.enabled and (self.epsilon is None) == (self.noise_multiplier is None):
            found = "neither" if self.epsilon is None else "both"
            raise ValueError(f"give epsilon (a target, the noise is found) or noise_multiplier; got {found}")
        return self

    def rate(self) -> float | None:
        """`sample_rate` as a number."""
        return None if self.sample_rate is None else float(Ratio(self.sample_rate))


class NamedRun(NamedTuple):
    """A run folder that a recipe names beside its base.

    Attributes:
        key: the dotted key at which it does.
        folder: in which the run of the recipe keeps a copy.
    """

    key: str
    source: str
    folder: str


class Recipe(Strict):
    """What every recipe has. `data` and `model` are typed by `families.recipe_schema`."""

    family: str
    """Which model family; `gentool families list`."""
    description: str = ""
    """One line: what this trains, on what, and what to expect."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes weights, data order and noise."""
    data: Any
    """Data set by name and how to read it."""
    model: Any
    """The family's networks and process."""
    privacy: Privacy | None = None
    """Train with differential privacy; null: without."""
    trainer: Trainer = Trainer()
    optimizer: Optimizer = Optimizer()
    ema: Ema | None = Ema()
    """Moving average of the weights; sampling uses it. null switches it off."""
    sample: Sample = Sample()
    """What `gentool sample RUN` does when nothing is said."""
    evaluate: Evaluate = Evaluate()
    """What `gentool evaluate RUN` does when nothing is said."""

    @property
    def private_step(self) -> tuple[str, float]:
        """What one private step releases, by its name in the ledger, and the L2 norm by which one record can move it.

        Of DP-SGD: the sum of clipped gradients, and the clipping norm. A family that perturbs something else
        overrides it.
        """
        return "dp-sgd", self.privacy.max_grad_norm if self.privacy else math.inf

    @property
    def teachers(self) -> tuple[NamedRun, ...]:
        """The runs that the model learns from beside the data and its base; its own run keeps copies of them."""
        return ()
