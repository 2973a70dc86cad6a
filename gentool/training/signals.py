"""Signals set a flag; the training loop looks at it between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Trainer

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopFlag:
    """Within `with`, signals are noted instead of obeyed: `signum` is the first received, or None.

    A second SIGINT or SIGTERM ends the process at once.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        self.install()
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def install(self) -> None:
        """Takes the signals over, again where another library took them since; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ASKING:
            previous = signal.signal(number, self._handle)
            self._before.setdefault(number, previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signum is not None and number != signal.SIGUSR1:
            os._exit(128 + number)
        self.signum = number

    def agreed(self, trainer: Trainer) -> bool:
        """Whether any rank was asked to stop; every rank gets the same answer at the same step."""
        if trainer.world_size == 1:
            return self.signum is not None
        asked = torch.tensor(float(self.signum or 0), device=trainer.strategy.root_device)
        asked = trainer.strategy.reduce(asked, reduce_op="max")
        if float(asked) > 0:
            self.signum = int(asked)
        return self.signum is not None
