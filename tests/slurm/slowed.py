"""`gentool` with a pause of `SLOW` seconds after each training step: a tiny run that can be stopped in the middle."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from gentool.__main__ import main

if __name__ == "__main__":
    pause = float(os.environ.get("SLOW", "0"))
    if pause and sys.argv[1:2] == ["train"]:
        from gentool.training.callbacks import StepEnd

        step_end = StepEnd.on_train_batch_end

        def slowed(self: StepEnd, *arguments: Any) -> None:
            step_end(self, *arguments)
            time.sleep(pause)

        StepEnd.on_train_batch_end = slowed  # type: ignore[method-assign]
    sys.exit(main())
