"""Lightning's loop as `gentool train` runs it: the trainer a recipe asks for, its batches and its compiled parts."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import Sampler

from gentool.data import DataSet, StepBatches, loader
from gentool.errors import GentoolError, UserError
from gentool.recipes.schema import Recipe
from gentool.recipes.schema import Trainer as TrainerConfig
from gentool.tasks.training.private import PrivateTraining
from gentool.training.callbacks import StepEnd
from gentool.training.module import GenModule
from gentool.training.private.step import PrivateStep
from gentool.training.sharding import Sharded
from gentool.training.watching import Say


def is_main_process() -> bool:
    """Whether this process is rank 0: the launcher (Lightning's, torchrun's or Slurm's) says so in the environment."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((int(rank) == 0 for rank in ranks if rank is not None), True)


def fit(
    module: GenModule,
    recipe: Recipe,
    dataset: DataSet,
    step_end: StepEnd,
    say: Say,
    folder: Path,
    private: PrivateTraining | None = None,
) -> torch.device:
    """Lightning's loop over the steps that are left; returns where this process worked.

    Afterwards the module is on the CPU, wherever it was trained: Lightning brings it back.

    Args:
        folder: where the loggers of the recipe write.

    Raises:
        UserError: what the recipe asks of the machine is not there. GentoolError: the batch does not fit its memory.
    """
    config = recipe.trainer
    try:
        trainer = Trainer(
            accelerator=accelerator_of(config),
            devices=config.devices if config.devices != "auto" or torch.cuda.is_available() else 1,
            num_nodes=config.nodes,
            strategy=strategy_of(module, config),
            precision=config.precision,
            max_epochs=1,
            accumulate_grad_batches=config.accumulate if module.automatic_optimization else 1,
            gradient_clip_val=config.clip_norm if module.automatic_optimization else None,
            deterministic=config.deterministic,
            callbacks=[step_end],
            logger=make_loggers(config.loggers, folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"trainer.accelerator, devices or strategy: not on this machine: {reason}") from None
    if private is None and recipe.data.batch_size % trainer.world_size:
        raise UserError(
            f"data.batch_size {recipe.data.batch_size} does not divide over {trainer.world_size} devices"
        )
    rank, world = trainer.global_rank, trainer.world_size
    batches: Sampler[Tensor]
    if private is not None:
        step = private.set_up(module, trainer.strategy.root_device, rank, world, say)
        batches = step.batches(len(dataset), module.step, private.stop)
        compiled: Sequence[Any] = (step.engine,) if isinstance(step, PrivateStep) else module.compiled_parts()
    else:
        compiled = module.compiled_parts()
        batches = StepBatches(
            len(dataset),
            recipe.data.batch_size,
            seed=recipe.seed,
            rank=rank,
            world=world,
            start=module.step * config.accumulate,
            stop=config.max_steps * config.accumulate,
        )
    if config.compile:
        compile_in_place(compiled, trainer.strategy.root_device, say)
    try:
        trainer.fit(
            module, loader(dataset, batches, workers=recipe.data.workers, pin=torch.cuda.is_available())
        )
    except torch.OutOfMemoryError as error:
        raise GentoolError(
            "out of GPU memory: lower data.batch_size (and raise trainer.accumulate to keep the gradient), "
            f"or set trainer.precision=bf16-mixed ({str(error).splitlines()[0]})"
        ) from None
    return trainer.strategy.root_device


def accelerator_of(config: TrainerConfig) -> str:
    """Lightning's, by name: CUDA's or the CPU. What Lightning itself would choose may have no float64, as Apple's GPUs,
    and noise levels are drawn in it."""
    wanted = "gpu" if config.accelerator == "auto" and torch.cuda.is_available() else config.accelerator
    return "cuda" if wanted == "gpu" else "cpu"


def strategy_of(module: GenModule, config: TrainerConfig) -> str | Strategy:
    """Lightning's, by name; plain ddp takes it for an error when a backward pass leaves weights out."""
    if config.strategy == "fsdp":
        return Sharded()
    several = config.strategy == "ddp" or config.devices not in ("auto", 1) or config.nodes > 1
    several = several or (config.devices == "auto" and torch.cuda.device_count() > 1)
    if not (module.takes_turns and several):
        return config.strategy
    return "ddp_find_unused_parameters_true"


def compile_in_place(parts: Sequence[Any], device: torch.device, say: Say) -> None:
    """torch.compile of networks (or of a private engine) in place, so that names in the state dict stay as they are.

    Compilation happens at the first call, so what it needs (a compiler for the device) is tried on a sum first.
    """
    try:
        torch.compile(torch.add)(*torch.ones(2, 2, device=device))
    except Exception as error:  # whatever the backend raises
        reason = str(error).splitlines()[0]
        say(f"warning: torch.compile does not work here, training goes on without it: {reason}")
        return
    for part in parts:
        part.compile()


def make_loggers(names: Sequence[str], folder: Path) -> Any:
    """Lightning loggers beside gentool's own two files; False for none."""
    if "tensorboard" not in names:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(folder, name="tensorboard", version="")
    except ModuleNotFoundError:
        raise UserError(
            "trainer.loggers: tensorboard is not installed; pip install 'gentool[tensorboard]'"
        ) from None


def quiet_lightning() -> None:
    """Lightning's banners and hints are for people who write a Trainer by hand."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # of a network's output, which nothing here changes in place: tests/conformance/test_sharding.py
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
