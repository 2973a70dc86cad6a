"""Recipe of image classifiers: of clean pictures, or of noisy states at every level of a diffusion process."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from gentool.diffusion.config import DdpmProcess, EdmProcess, ProcessConfig
from gentool.diffusion.loss_config import DiscreteTimes, LogUniformTimes, TimesConfig
from gentool.families.base import Family
from gentool.networks.config import ClassifierConfig, ResNet, Wrn
from gentool.recipes.schema import Misfit, Recipe, Strict


class Noise(Strict):
    process: ProcessConfig = EdmProcess()
    """Whose range of noise levels to know; that of the models it will guide."""
    times: TimesConfig = LogUniformTimes()
    """Law of the training noise levels."""

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if isinstance(self.times, DiscreteTimes) and not isinstance(self.process, DdpmProcess):
            raise ValueError(f"times discrete needs the ddpm process, not {self.process.name}")
        return self


class ClassifierModel(Strict):
    network: ClassifierConfig = ResNet()
    """The network; resnet when it has no `name`."""
    noise: Noise | None = None
    """Train on noisy pictures and tell the network how noisy they are, for classifier guidance; null: clean ones."""
    flip: bool = False
    """Mirror half of the training pictures left to right."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Move each training picture by up to this many pixels, its border repeated."""

    @model_validator(mode="after")
    def _noise_is_told(self) -> Self:
        if not isinstance(self.network, ResNet):
            if self.noise is not None:
                raise ValueError(
                    f"network {self.network.name} reads clean pictures only: take resnet, or leave out model.noise"
                )
        elif self.network.noise_conditioned and self.noise is None:
            raise ValueError(
                "network.noise_conditioned needs to know the noise: add model.noise, which sets it"
            )
        return self


class ClassifierRecipe(Recipe):
    model: ClassifierModel = ClassifierModel()
    """The network and the noise it sees."""

    @model_validator(mode="after")
    def _private_norm(self) -> Self:
        network = self.model.network
        if self.privacy is not None and isinstance(network, Wrn) and network.norm == "batch":
            raise Misfit(
                "model.network.norm",
                "batch normalisation computes with the whole batch, so that one record moves the gradients of all: "
                "private training takes group",
            )
        return self


FAMILY = Family(
    name="classifier",
    summary="image classifiers, clean or of noisy states at every level: judges, targets, and guides of samplers",
    paper="Dhariwal and Nichol 2021, Diffusion Models Beat GANs on Image Synthesis (2105.05233), section 4",
    recipe=ClassifierRecipe,
    module="gentool.families.classifier.module:ClassifierModule",
    shards=True,
    draws_samples=False,
)
