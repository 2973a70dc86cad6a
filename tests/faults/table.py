"""docs/reliability.md: what was injected and what happened, written by the tests that did it."""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

FAULTS = {
    "kill": "`kill -9` at {times} random disk operations (writes, fsync, rename) and moments",
    "kill-again": "`kill -9` of each of {times} lives of one run",
    "kill-private": "`kill -9` of a private run at {times} random disk operations, half of them writes of the ledger",
    "full-disk": "a full disk (a small tmpfs) when a checkpoint is written",
    "file-size": "a limit on file sizes (quota) when a checkpoint is written",
    "full-ledger": "a full disk when the ledger is written",
    "read-only": "a read-only run folder",
    "removed": "the run folder removed during training",
    "truncated": "the newest checkpoint truncated, at {times} lengths",
    "flipped": "one bit of the newest checkpoint flipped, at {times} places",
    "all-damaged": "every checkpoint damaged",
    "manifest": "the newest checkpoint's manifest missing or damaged",
    "ledger": "a line of the ledger changed or removed, the ledger cut back, or deleted",
    "two-runs": "a second process starts in the folder of a running one",
    "clock": "the clock jumps by a year, back and forth, at every reading",
}
"""In the order of the page."""

HEAD = """# Reliability

Written by `make test-faults`; do not edit. Each line was done to a small run on a CPU; afterwards the run went on by
`--resume auto`, and its weights were compared with those of a run that nothing had happened to.

| injected | what happened |
| --- | --- |
"""

TAIL = """
**Same weights** means bit for bit, of `model.safetensors` and of every row of `metrics.csv` but the speed.

A killed process leaves what it wrote to the kernel; a power cut may not. Against that stands the order of writing
(data, fsync, rename, fsync of the folder; see [run folder](run-folder.md#whole-or-absent)), which is not tested here.
[gentool slurm](slurm.md) is tested on a real Slurm.
"""


class Table:
    """Collects a line a fault."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    def tell(self, fault: str, happened: str, times: int = 1) -> None:
        """Called at the end of a test, when everything it checks has held."""
        self.lines[fault] = f"| {FAULTS[fault].format(times=times)} | {happened} |"

    def page(self) -> str | None:
        """The page, once there is a line for every fault."""
        if set(self.lines) != set(FAULTS):
            return None
        return HEAD + "".join(f"{self.lines[name]}\n" for name in FAULTS) + TAIL
