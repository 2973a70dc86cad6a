"""Recipe of DP-Sinkhorn: the generator, the transport loss, and what privacy perturbs. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gentool.families.base import Family
from gentool.networks.oneshot_config import DcganGenerator, GeneratorConfig
from gentool.recipes.schema import Fraction, Misfit, Positive, Recipe, Sample, Strict

Weight = Annotated[float, Field(ge=0)]


class Cost(Strict):
    """c(x, y) = l2 |x - y|_2^2 + l1 |x - y|_1 on pixels in [-1, 1] beside the scaled one-hot label."""

    l2: Weight = 1.0
    """Weight of the squared Euclidean distance."""
    l1: Weight = 1.0
    """Weight of the sum of absolute differences: the paper's m, 1 for accuracy, 3 for FID."""
    label: Weight = 15.0
    """Length of the one-hot label: a wrong class costs 2 l2 label^2 + 2 l1 label. The conditioning lies in it."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.l1 == self.l2 == 0:
            raise ValueError("l1 and l2 are both 0: nothing would cost anything")
        return self


class Transport(Strict):
    """Sinkhorn's iterations: one for each scale, from the diameter of both batches down to `blur`."""

    cost: Cost = Cost()
    """What it costs to move one image onto another."""
    blur: Annotated[float, Field(gt=0)] = 0.05
    """The final scale; the regularisation of the transport is blur^exponent, in units of the cost."""
    exponent: Annotated[float, Field(ge=1, le=2)] = 1.0
    """Of scales in eps: 1 for the mixed cost, 2 for the squared distance alone, as in the paper's code."""
    scaling: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Each scale over the one before it."""
    extra: Annotated[int, Field(ge=0)] = 0
    """Iterations more at the final scale: the plan comes nearer to the optimal one, which the paper's is not."""


class DpSinkhornModel(Strict):
    network: GeneratorConfig = DcganGenerator()
    """The generator."""
    conditional: bool = True
    """Give the label to the generator and to the cost."""
    generated: Positive | None = None
    """Images n generated a step, fixed: it must not follow the real batch's size, which is private. Absent:
    data.batch_size."""
    transport: Transport = Transport()
    """The loss."""
    debias: Fraction = 0.4
    """Share p of images drawn afresh for the term that keeps samples apart: 0 biased, 1 fully debiased."""
    perturb: Literal["images", "parameters"] = "images"
    """Clip and noise the gradient of the images (the paper's) or of the generator's parameters (DP-SGD's place)."""
    clip: Literal["tensor", "row"] = "tensor"
    """max_grad_norm bounds the gradient of all n images together, or of each: sensitivity 2 C, or 2 C sqrt(n)."""


class OneShotSample(Sample):
    threshold_background: bool = False
    """Set every pixel below the middle of the range to black. The paper's code did so before it measured, which
    lowers FID and helps classifiers where backgrounds are black (MNIST); samples keep the setting with them."""


class DpSinkhornRecipe(Recipe):
    model: DpSinkhornModel = DpSinkhornModel()
    """The generator and its loss."""
    sample: OneShotSample = OneShotSample()
    """What `gentool sample RUN` does when nothing is said."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        trainer, privacy = self.trainer, self.privacy
        several = isinstance(trainer.devices, int) and trainer.devices > 1
        if several or trainer.nodes > 1:
            where = "trainer.devices" if several else "trainer.nodes"
            raise Misfit(where, "dp-sinkhorn trains on one device: its loss is of the whole batch; set 1")
        if trainer.accumulate != 1:
            raise Misfit(
                "trainer.accumulate",
                "the transport loss is of one whole batch, not a mean over examples; raise data.batch_size",
            )
        if trainer.precision == "16-mixed":
            raise Misfit(
                "trainer.precision", "image gradients overflow in float16; use bf16-mixed or 32-true"
            )
        if self.model.perturb == "parameters" and self.model.clip == "row":
            raise Misfit("model.clip", "row is of images; the parameters' gradient is one tensor")
        if privacy is None:
            for key in ("perturb", "clip"):
                if key in self.model.model_fields_set and getattr(self.model, key) not in (
                    "images",
                    "tensor",
                ):
                    raise Misfit(f"model.{key}", "says how privacy perturbs, and there is no privacy: block")
            return self
        for key in ("noise_multiplicity", "engine", "physical_batch", "memory_gib"):
            if getattr(privacy, key) != type(privacy).model_fields[key].default:
                raise Misfit(
                    f"privacy.{key}",
                    "is of gradients of single records, which dp-sinkhorn does not take: it perturbs one gradient "
                    "of the generated images",
                )
        return self

    @property
    def generated(self) -> int:
        """Images n that a step generates against the real batch."""
        return self.model.generated or int(self.data.batch_size)

    @property
    def redrawn(self) -> int:
        """Images n' = floor(n p) drawn besides, for the second term."""
        return int(self.generated * self.model.debias + 1e-9)  # 0.29 * 100 is 28.999...

    @property
    def private_step(self) -> tuple[str, float]:
        """The gradient as `mechanism` clips it: in a ball of radius C, whose diameter 2 C one record may cross.

        Rows clipped one by one lie in a product of n balls, of diameter 2 C sqrt(n).
        """
        bound = self.privacy.max_grad_norm if self.privacy else math.inf
        if self.model.perturb == "parameters":
            return "generator-gradient", 2 * bound
        return "image-gradient", 2 * bound * (math.sqrt(self.generated) if self.model.clip == "row" else 1)


FAMILY = Family(
    name="dp-sinkhorn",
    summary="private one-shot generator: optimal transport to real images, noise on the gradient of generated ones",
    paper="Cao et al. 2021, Don't Generate Me: Training Differentially Private Generative Models with Sinkhorn "
    "Divergence (2111.01177)",
    recipe=DpSinkhornRecipe,
    module="gentool.families.dp_sinkhorn.module:DpSinkhornModule",
)
