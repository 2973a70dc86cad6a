"""Start-up: CPU time of `gentool --help` against importing torch and lightning, alternating processes."""

from __future__ import annotations

import sys

from common import Claim, Result, Settings, child_cpu_seconds, main, paired_ratio


def run(settings: Settings) -> Result:
    help_command = [sys.executable, "-m", "gentool", "--help"]
    import_command = [sys.executable, "-c", "import torch, lightning"]
    found = paired_ratio(
        lambda: child_cpu_seconds(help_command),
        lambda: child_cpu_seconds(import_command),
        rounds=5 if settings.quick else 15,
    )
    return Result(
        figures={
            "help_cpu_seconds": found.ours,
            "import_cpu_seconds": found.theirs,
            "ratio": found.ratio,
            "ratio_range": [found.low, found.high],
        },
        claims=[
            Claim(
                "`gentool --help` costs at most 0.3 s of CPU",
                "",
                f"{found.ours:.3f} s",
                "the limit",
                found.ours <= 0.3,
            ),
            Claim(
                "`gentool --help` costs at most a tenth of `import torch, lightning`",
                "peers' --help: 1.6 to 4.8 s",
                f"{found.ratio:.3f} of {found.theirs:.2f} s",
                "`import torch, lightning` in alternating processes",
                found.ratio <= 0.1,
            ),
        ],
        scale="medians of alternating process runs",
    )


if __name__ == "__main__":
    main("startup", run, __doc__)
