"""`python -m gentool` and the `gentool` script."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line on `sys.argv`; returns the exit code."""
    # OpenMP threads spin while they wait, unless told otherwise: on a machine that has other work to do, that
    # makes training on the CPU several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from gentool.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
