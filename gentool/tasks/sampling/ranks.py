"""The processes of one `gentool sample` or `evaluate` that srun or torchrun has started together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from gentool.errors import GentoolError


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work; alone when no launcher says otherwise.

    Attributes:
        rank: 0 .. world - 1; 0 alone keeps and writes what all have made. local: the number on its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """As the launcher tells in the environment. A batch script's own process is alone: srun starts the others."""
        for names in (
            ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
            ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun
        ):
            if all(name in os.environ for name in names):
                return cls(*(int(os.environ[name]) for name in names))
        return cls()

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local % torch.cuda.device_count())

    @contextmanager
    def together(self) -> Iterator[None]:
        """Connects the processes (gloo: what passes between them lies in the machine's memory).

        Raises:
            GentoolError: they cannot reach each other, or one of them has ended before its work was done.
        """
        if self.world == 1:
            yield
            return
        if "MASTER_ADDR" not in os.environ:
            from lightning.fabric.plugins.environments import SLURMEnvironment

            slurm = SLURMEnvironment(auto_requeue=False)
            os.environ |= {"MASTER_ADDR": slurm.main_address, "MASTER_PORT": str(slurm.main_port)}
        with self._linked():
            distributed.init_process_group("gloo", rank=self.rank, world_size=self.world)
        try:
            yield
            with self._linked():
                distributed.barrier()  # nobody hangs up while another still sends
        finally:
            distributed.destroy_process_group()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, on rank 0; elsewhere nothing."""
        if self.world == 1:
            return [value]
        found: list[Any] | None = [None] * self.world if self.main else None
        with self._linked():
            distributed.gather_object(value, found)
        return found or []

    @contextmanager
    def _linked(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise GentoolError(
                f"process {self.rank} of {self.world} lost the others ({str(error).splitlines()[0]}); "
                "their own messages say why"
            ) from None
