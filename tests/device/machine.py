"""A machine whose accelerator is the make-believe one: `gentool` trains, samples and judges there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pkgutil import walk_packages
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

import gentool.tasks
from gentool.tasks.model.load import best_device
from gentool.tasks.sampling.ranks import Ranks
from gentool.tasks.training import loop
from tests.device.far import far_device


class FarAccelerator(Accelerator):
    """As Lightning sees it."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("far", 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "far"


def far_trainer(*, accelerator: str, strategy: Any, devices: Any, **rest: Any) -> Trainer:
    """Lightning's trainer of one process, whatever the recipe says of devices."""
    there = SingleDeviceStrategy(torch.device("far", 0), FarAccelerator())
    return Trainer(strategy=there, devices=1, **rest)


@contextmanager
def far_machine() -> Iterator[torch.device]:
    """Within it the device is the best there is, for every task."""
    for task in walk_packages(gentool.tasks.__path__, "gentool.tasks."):
        import_module(task.name)
    tasks = [module for name, module in sys.modules.items() if name.startswith("gentool.tasks.")]
    with far_device() as far, ExitStack() as patched:
        for module in tasks:
            if getattr(module, "best_device", None) is best_device:
                patched.enter_context(mock.patch.object(module, "best_device", return_value=far))
        patched.enter_context(mock.patch.object(Ranks, "device", far))
        patched.enter_context(mock.patch.object(loop, "Trainer", far_trainer))
        yield far
