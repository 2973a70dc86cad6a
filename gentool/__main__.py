"""`python -m gentool` and the `gentool` script."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line on `sys.argv`; returns the exit code."""
    from gentool.cli.app import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
