"""Where a result came from: versions, revision, command line, machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gentool

PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "scipy",
    "scikit-learn",
    "torchmetrics",
    "h5py",
    "safetensors",
    "opacus",
)


def describe_machine() -> dict[str, Any]:
    """Versions, git revision of the working folder's gentool (when it is a checkout), command line, UTC time."""
    return {
        "gentool": gentool.__version__,
        "git": git_revision(),
        "versions": {name: v for name in PACKAGES if (v := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": ["gentool", *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The commit of gentool's own checkout, with `-dirty` when it was changed; None outside one."""
    root = Path(gentool.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("-dirty" if dirty.stdout.strip() else "")
