"""gentool train: a recipe to a run folder; the same call goes on where a killed one stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from gentool import families
from gentool.data import open_set
from gentool.errors import GentoolError, PreemptedError, RunInterrupted, UserError
from gentool.recipes.resolve import Resolved, resolve
from gentool.runs import checkpoints
from gentool.runs.atomic import write_json, write_text
from gentool.runs.folder import RunFolder, new_path
from gentool.runs.provenance import describe_machine
from gentool.runs.weights import save_weights
from gentool.tasks.model.base import DIGEST, describe
from gentool.tasks.model.build import build_module, learn_from_teachers, start_from_base
from gentool.tasks.model.card import account_of_run, model_card
from gentool.tasks.model.load import TRAINED_AS, load_run, trained_as
from gentool.tasks.training.loop import fit, is_main_process, quiet_lightning
from gentool.tasks.training.private import prepare
from gentool.tasks.training.resume import check_same_run, find_run
from gentool.tasks.training.status import Status, peak_memory
from gentool.training import snapshot
from gentool.training.callbacks import OnStep, StepEnd
from gentool.training.metricslog import MetricsLog
from gentool.training.module import GenModule
from gentool.training.signals import StopFlag
from gentool.training.watching import Say, unsaid

RUN_DIR = "GENTOOL_RUN_DIR"
"""Tells the processes that Lightning starts for the other ranks which folder rank 0 chose."""


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        epsilon: what a private run has spent, over all its lives; None where it protects nobody.
        main: False in the further processes of a distributed run, which have nothing to report.
        memory: bytes taken at most, on this process's device. images_per_second: over the last rows of the log.
    """

    run: Path
    steps: int
    seconds: float
    loss: float | None
    epsilon: float | None = None
    main: bool = True
    memory: int = 0
    images_per_second: float | None = None


def train(
    source: str,
    overrides: Sequence[str] = (),
    *,
    run_dir: Path | None = None,
    resume: str | None = None,
    allow_change: bool = False,
    on_step: OnStep | None = None,
    say: Say = unsaid,
) -> Trained:
    """Trains to `trainer.max_steps`.

    Args:
        resume: None starts a new run; "auto" goes on from the newest good state of `run_dir` (without one, of the
            newest run of this recipe), or starts where there is none; a path names the run to go on with.
        allow_change: go on although the recipe or the data differ from those of the run.

    Raises:
        PreemptedError, RunInterrupted: a signal asked it to stop; the state is saved.
        UserError, CorruptError, NonFiniteError: as their messages say.
    """
    started = time.perf_counter()
    resolved = resolve(source, overrides, families.recipe_schema)
    chosen = os.environ.get(RUN_DIR)
    run = find_run(resolved, run_dir=Path(chosen) if chosen else run_dir, resume=resume)
    if run is None:
        run = RunFolder(run_dir or new_path(resolved.name))
    if not is_main_process():
        with StopFlag() as flag:
            return _train(run, resolved, None, lambda line: None, started, allow_change, flag)
    with run.training(), StopFlag() as flag:
        check_same_run(run, resolved, starting=resume is None, allow_change=allow_change)
        os.environ[RUN_DIR] = str(run.path.resolve())
        try:
            return _train(run, resolved, on_step, say, started, allow_change, flag)
        finally:
            os.environ.pop(RUN_DIR, None)


def _train(
    run: RunFolder,
    resolved: Resolved,
    on_step: OnStep | None,
    say: Say,
    started: float,
    allow_change: bool,
    flag: StopFlag,
) -> Trained:
    recipe, config = resolved.recipe, resolved.recipe.trainer
    quiet_lightning()
    torch.set_float32_matmul_precision(config.matmul)
    dataset = open_set(recipe.data, "train")
    rank_zero = is_main_process()
    base = start_from_base(run, recipe, rank_zero) if families.FAMILIES.get(recipe.family).distils else None
    module = build_module(recipe, dataset.spec, None if base is None else load_run(base.path)[2])
    teachers = learn_from_teachers(module, run, rank_zero)
    module.say = say
    if config.precision == "64-true":  # before the EMA is made and a checkpoint's weights are loaded
        module.double()
    state, bad = checkpoints.newest(run.checkpoints)
    for line in bad:
        say(f"warning: {line}; going on from the one before it")
    before = run.read_provenance()
    if state is not None and not allow_change:
        check_data(before, dataset.fingerprint, run)
    module.look_up(dataset)
    private = prepare(
        run, resolved, module, state, base=base, allow_change=allow_change, main=rank_zero, say=say
    )
    if state is None:
        if private is None:
            module.fit_to_data(dataset)
        module.prepare_training()
    else:
        snapshot.restore_weights(module, state)
        done = module.step >= config.max_steps
        say(f"{'complete at' if done else 'going on from'} step {module.step} of {config.max_steps}")
    provenance = {
        **describe_machine(),
        "recipe": resolved.name,
        "data_fingerprint": dataset.fingerprint,
        "data_spec": asdict(dataset.spec),
        **({} if base is None else {"base": describe(base)}),
        **{folder: describe(copy) for folder, copy in teachers.items()},
    }
    if dataset.skipped:
        provenance["data_skipped"] = [f"{fault.where}: {fault.message}" for fault in dataset.skipped]
    if rank_zero:
        run.sweep()
        write_text(run.recipe, resolved.text)
        lives = [*before.get("lives", []), {"from_step": module.step, **provenance}]
        write_json(run.provenance, {**provenance, "lives": lives})
    log = MetricsLog(run, module.step) if rank_zero else None

    def save(trainer: Trainer, trained: GenModule) -> None:
        taken = snapshot.take(trainer, trained) | {"log": step_end.state()}
        released = trained.released_state()  # on every rank: shards are gathered
        if private is not None:
            taken["ledger"] = private.head
        if trainer.is_global_zero:
            checkpoints.save(taken, run.checkpoints, trained.step, config.keep_checkpoints)
            save_model(run, trained, released, resolved, provenance.get("base", {}).get("sha256"))
        trainer.strategy.barrier()

    stop = config.max_steps if private is None else private.stop
    step_end = StepEnd(
        log=log,
        save=save,
        stop=flag,
        on_step=None
        if on_step is None
        else Status(
            on_step, lambda: module.device, lambda: None if private is None else private.epsilon_so_far()
        ),
        restore=None if state is None else lambda trainer: snapshot.restore_optimizers(trainer, state),
        last_step=stop,
    )
    if state is not None:
        step_end.load_state(state["log"])
    device = module.device
    if module.step < config.max_steps:
        device = fit(module, recipe, dataset, step_end, say, run.path, private)
        if private is not None:
            private.ended(module.step, config.max_steps, say)
    seconds = time.perf_counter() - started
    if rank_zero:
        finish(run, resolved, module, log, seconds, device)
    if flag.signum is not None and module.step < stop:
        raise stopped(flag.signum, module.step, run)
    rows = [] if log is None else log.rows
    epsilon = None if private is None else private.epsilon
    last = rows[-1] if rows else {}
    return Trained(
        run.path,
        module.step,
        seconds,
        last.get("loss"),
        epsilon,
        rank_zero,
        peak_memory(device),
        last.get("images_per_second"),
    )


def save_model(
    run: RunFolder, module: GenModule, released: dict[str, Tensor], resolved: Resolved, base: str | None
) -> None:
    """model.safetensors: the averaged weights where there are any, and the SHA-256 of the base they stand on."""
    save_weights(
        run.weights,
        released,
        {
            "family": resolved.recipe.family,
            "recipe": resolved.name,
            "step": str(module.step),
            "weights": "raw" if module.ema is None else "ema",
            TRAINED_AS: trained_as(resolved),
            **({} if base is None else {DIGEST: base}),
        },
    )


def check_data(before: dict[str, Any], fingerprint: str, run: RunFolder) -> None:
    known = before.get("data_fingerprint")
    if known is not None and known != fingerprint:
        raise UserError(
            "the data differ from those this run was trained on "
            f"(fingerprint {fingerprint[:12]}, was {known[:12]}); bring the old data back, start a new run, "
            "or add --allow-change",
            str(run.path),
        )


def finish(
    run: RunFolder,
    resolved: Resolved,
    module: GenModule,
    log: MetricsLog | None,
    seconds: float,
    device: torch.device,
) -> None:
    """Closes the provenance with the time this life took and where, and writes the model card."""
    provenance = run.read_provenance()
    provenance["lives"][-1] |= {
        "to_step": module.step,
        "seconds": round(seconds, 3),
        "device": str(device),
    }
    provenance["steps"] = module.step
    write_json(run.provenance, provenance)
    rows, account = log.rows if log else [], account_of_run(run, resolved)
    write_text(run.card, model_card(resolved, provenance, rows, account=account))


def stopped(signum: int, step: int, run: RunFolder) -> GentoolError:
    if signum == signal.SIGINT:
        return RunInterrupted(
            f"interrupted at step {step} with the state saved; go on with --resume {run.path}"
        )
    return PreemptedError(
        f"stopped by signal {signum} at step {step} with the state saved; go on with --resume auto"
    )
