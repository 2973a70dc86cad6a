"""Trainings by two processes that are one of them each: `python -m tests.tasks.training.sharded_runs RANK PORT FOLDER`.

Many short trainings in the same two processes, as starting one takes longer than all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gentool.errors import GentoolError, PreemptedError
from gentool.tasks.train import train
from gentool.training import sharding
from gentool.training.module import GenModule
from gentool.training.sharding import local

BLOCK = 2000
"""Weights from which on a block of the tiny network is gathered by itself."""
RECIPE = (
    "quickstart",
    "data.batch_size=8",
    "model.network={name: song-unet, channels: 16, mult: [1], blocks: 1, attention: []}",
    "trainer.max_steps=4",
    "trainer.checkpoint_every=2",
    "trainer.log_every=2",
    "trainer.devices=2",
    "trainer.accelerator=cpu",
    "optimizer.warmup=0",
    "ema.decay=0.5",
)
CLIPPED = ("trainer.clip_norm=0.05", "trainer.accumulate=2", "model.network.dropout=0")
PRIVATE = (
    "privacy={noise_multiplier: 1.5, records: 40, physical_batch: 8}",
    *(
        "data.limit=40",
        "model.precond={name: edm, sigma_data: 0.577}",
        "model.network.channels=8",
        "trainer.clip_norm=null",
    ),
)
STOP_AT = 2
"""The step after which a signal is sent; the next is the last."""
SENT = {
    "all_gather_into_tensor": 1.0,
    "all_gather_single": 1.0,
    "reduce_scatter_tensor": 0.5,
    "reduce_scatter_single": 0.5,
}
"""Collectives of FSDP by the names of torch's versions, and the share of what is given that goes to the one other."""


def run(folder: Path, strategy: str, *changes: str, **how: Any) -> None:
    name, *settings = RECIPE
    train(name, [*settings, f"trainer.strategy={strategy}", *changes], run_dir=folder, **how)


def stopped(folder: Path, strategy: str, *changes: str) -> None:
    """The first process is told to stop after a step, as a scheduler would: both save and end."""

    def stop(step: int, total: int, row: dict[str, float]) -> None:
        if step == STOP_AT:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        run(folder, strategy, *changes, on_step=stop)
    except PreemptedError:
        return
    raise AssertionError("not stopped")


def bytes_of(values: Any) -> int:
    """Of memory that this process holds for tensors or what is left of them here."""
    return sum(local(value.detach()).untyped_storage().nbytes() for value in values)


@contextmanager
def watched(found: dict[str, Any]) -> Iterator[None]:
    """Notes what this process holds after each step, and what it sends in it."""
    sent = 0

    def held(module: GenModule) -> None:
        nonlocal sent
        optimizer, weights = module.trainer.optimizers[0], list(module.parameters())
        assert module.ema is not None
        found["whole"] = sum(weight.numel() * weight.element_size() for weight in weights)
        found["weights"] = bytes_of(weights)
        found["moments"] = bytes_of(optimizer.state[weight]["exp_avg"] for weight in weights)
        found["average"] = bytes_of(
            value for name, value in module.ema._values.items() if name in module.ema._parameters
        )
        found["sent"], sent = sent, 0

    def counted(collective: Callable[..., Any], share: float) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            nonlocal sent
            _, given, *_ = (
                signature(collective).bind(*positional, **named).arguments.values()
            )  # after the output
            sent += round(share * given.numel() * given.element_size())
            return collective(*positional, **named)

        return call

    with pytest.MonkeyPatch.context() as patch, after_steps(held):
        for name, share in SENT.items():
            if hasattr(dist, name):
                patch.setattr(dist, name, counted(getattr(dist, name), share))
        yield


@contextmanager
def after_steps(do: Callable[[GenModule], None]) -> Iterator[None]:
    end = GenModule.end_step

    def end_step(module: GenModule, batch_size: int) -> None:
        end(module, batch_size)
        do(module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenModule, "end_step", end_step)
        yield


def digest(module: GenModule) -> str:
    return sha256(b"".join(weight.detach().numpy().tobytes() for weight in module.parameters())).hexdigest()


def spoil(module: GenModule) -> None:
    """A weight becomes infinite in the second process's shard alone."""
    shares = [local(weight.detach()) for weight in module.parameters()]
    if module.step == STOP_AT and dist.get_rank() == 1:
        next(share for share in shares if share.numel())[0] = torch.inf


def copy(source: Path, target: Path, rank: int) -> None:
    """By the first process, once the second is done with the source too."""
    dist.barrier()
    if rank == 0:
        shutil.copytree(source, target)
    dist.barrier()


def main(rank: int, port: str, folder: Path) -> None:
    started = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    os.environ.update({name: str(value) for name, value in started.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, TORCHELASTIC_RUN_ID="tests")
    sharding.BLOCK = BLOCK
    found: dict[str, Any] = {}
    run(folder / "ddp", "ddp")
    with watched(found):
        run(folder / "fsdp", "fsdp")
    stopped(folder / "stopped", "fsdp")
    copy(folder / "stopped", folder / "fsdp-ddp", rank)
    run(folder / "stopped", "fsdp", resume="auto")
    run(folder / "fsdp-ddp", "ddp", resume="auto")
    stopped(folder / "ddp-fsdp", "ddp")
    run(folder / "ddp-fsdp", "fsdp", resume="auto")
    for strategy in ("ddp", "fsdp"):
        run(folder / f"clipped-{strategy}", strategy, *CLIPPED)
        run(folder / f"bf16-{strategy}", strategy, "trainer.precision=bf16-mixed", "ema=null")
    found["private weights"] = []
    with after_steps(lambda module: found["private weights"].append(digest(module))):
        stopped(folder / "private", "ddp", *PRIVATE)
        run(folder / "private", "ddp", *PRIVATE, resume="auto")
    with after_steps(spoil):
        try:
            run(folder / "spoiled", "fsdp")
        except GentoolError as error:
            found["spoiled"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
