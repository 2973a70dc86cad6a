"""`gentool privacy-account`: three questions, the words around the figure, the plot, and what it refuses."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gentool.cli.app import run
from gentool.privacy.mechanisms import Phase, SampledGaussian
from gentool.privacy.plot import _dashes, curves, ticks
from gentool.privacy.rdp import RDP
from tests.tasks.runs import Ended

SETTINGS = {"--noise-multiplier": "1.1", "--sample-rate": "256/60000", "--steps": "14063", "--delta": "1e-5"}
"""Golden row S8: epsilon 2.5967."""


@pytest.fixture
def account(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def call(*arguments: str, **changes: str | None) -> Ended:
        """The settings of row S8 with `changes` (None drops a flag), and further arguments."""
        flags = SETTINGS | {"--" + name.replace("_", "-"): value for name, value in changes.items()}
        words = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
        code = run(["privacy-account", *words, *arguments])
        return Ended(code, *capsys.readouterr())

    return call


def test_epsilon_of_settings(account: Callable[..., Ended]) -> None:
    ended = account("--json")
    assert (ended.code, ended.err) == (0, "")
    document = ended.json
    assert document["epsilon"] == pytest.approx(2.5967, abs=6e-5)
    expected = {
        "delta": 1e-5,
        "accountant": "rdp",
        "conversion": "improved",
        "order": 8.1,
        "noise_multiplier": 1.1,
        "sample_rate": 256 / 60000,
        "steps": 14063,
        "found": "epsilon",
        "target_epsilon": None,
        "notes": [],
    }
    assert {key: document[key] for key in expected} == expected
    classic = account("--json", "--conversion=classic").json
    assert classic["epsilon"] == pytest.approx(3.0084, abs=6e-5)


def test_text_says_what_the_figure_means(account: Callable[..., Ended]) -> None:
    out = account().out
    assert out.startswith("epsilon 2.5967 at delta 1e-05 (RDP, improved conversion, order 8.1)\n")
    words = " ".join(out.split())
    for needed in (
        "one record",
        "add or remove",
        "Poisson",
        "Shuffled",
        "Not covered",
        "tuning",
        "clipping norm",
    ):
        assert needed in words


def test_noise_for_a_budget(account: Callable[..., Ended]) -> None:
    document = account("--json", noise_multiplier=None, target_epsilon="3").json
    assert document["found"] == "noise_multiplier"
    assert document["epsilon"] <= 3 < document["epsilon"] + 1e-4
    again = account("--json", noise_multiplier=repr(document["noise_multiplier"])).json
    assert again["epsilon"] == document["epsilon"]
    first = account(noise_multiplier=None, target_epsilon="3").out.splitlines()[0]
    shown = float(first.removeprefix("noise multiplier "))
    assert document["noise_multiplier"] <= shown <= document["noise_multiplier"] + 1e-6


def test_steps_for_a_budget(account: Callable[..., Ended]) -> None:
    document = account("--json", steps=None, target_epsilon="3").json
    assert document["found"] == "steps"
    assert account("--json", steps=str(document["steps"])).json["epsilon"] <= 3
    assert account("--json", steps=str(document["steps"] + 1)).json["epsilon"] > 3
    assert account(steps=None, target_epsilon="3").out.startswith(f"steps {document['steps']}\n")


def test_phases_count(account: Callable[..., Ended]) -> None:
    """Golden rows C1 (two phases) and C4 (interrupted and resumed), and steps left after phases."""
    alone = dict.fromkeys(("noise_multiplier", "sample_rate", "steps"))
    document = account("--json", "--phase=1,.01,500", "--phase=1.5,0.02,500", **alone).json
    assert document["epsilon"] == pytest.approx(2.1477, abs=6e-5)
    assert (document["noise_multiplier"], document["sample_rate"], document["steps"]) == (None, None, 1000)
    assert len(document["phases"]) == 2
    document = account("--json", "--phase=18.28125,1/15,2000", "--phase=18.28125,1/15,2500", **alone).json
    assert document["epsilon"] == pytest.approx(0.9911, abs=6e-5)
    assert (document["noise_multiplier"], document["sample_rate"], document["steps"]) == (
        18.28125,
        1 / 15,
        4500,
    )
    whole = account("--json", steps=None, target_epsilon="3").json["steps"]
    left = account("--json", "--phase=1.1,256/60000,10000", steps=None, target_epsilon="3").json
    assert left["steps"] == whole - 10000
    assert left["phases"] == [{"noise_multiplier": 1.1, "sample_rate": 256 / 60000, "steps": whole}]


def test_no_step_left_is_zero_and_an_exceeded_budget_is_exit_3(account: Callable[..., Ended]) -> None:
    budget = repr(account("--json").json["epsilon"])
    phase = "--phase=1.1,256/60000,14063"
    assert account("--json", phase, steps=None, target_epsilon=budget).json["steps"] == 0
    ended = account("--json", phase, steps=None, target_epsilon="2.59")
    assert (ended.code, ended.json["error"]["kind"]) == (3, "privacy-budget")


BAD: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = [
    *(
        ("noise multiplier", {"noise_multiplier": value}, ())
        for value in ("nan", "inf", "-inf", "0", "-1", "1e-9")
    ),
    *(
        ("sample rate", {"sample_rate": value}, ())
        for value in ("nan", "inf", "0", "-0.1", "1.5", "256", "1e999")
    ),
    *(("steps", {"steps": value}, ()) for value in ("0", "-5", "1" + 400 * "0")),
    *(("delta", {"delta": value}, ()) for value in ("nan", "inf", "0", "-1e-5", "1", "2")),
    *(
        ("target epsilon", {"target_epsilon": value, "steps": None}, ())
        for value in ("nan", "inf", "0", "-1")
    ),
    ("--delta is missing", {"delta": None}, ()),
    ("missing: --steps", {"steps": None}, ()),
    ("missing: --noise-multiplier, --sample-rate", {"noise_multiplier": None, "sample_rate": None}, ()),
    ("--target-epsilon takes", {"target_epsilon": "3"}, ()),
    ("--target-epsilon takes", {"target_epsilon": "3", "sample_rate": None, "steps": None}, ()),
    ("--target-epsilon takes", {"target_epsilon": "3", "noise_multiplier": None, "steps": None}, ()),
    ("smaller epsilon", {"target_epsilon": "1e9", "noise_multiplier": None}, ()),
    ("larger epsilon", {"target_epsilon": "1e-9", "noise_multiplier": None, "delta": "1e-12"}, ()),
    *(
        ("expected NOISE_MULTIPLIER,SAMPLE_RATE,STEPS", {}, (f"--phase={value}",))
        for value in ("", "1", "1,0.1", "1,0.1,10,3", "a,0.1,10", "1,0.1,1.5", "1,1/0,10")
    ),
    ("noise multiplier", {}, ("--phase=nan,0.1,10",)),
    ("sample rate", {}, ("--phase=1,7,10",)),
    ("unknown accountant", {}, ("--accountant=rpd",)),
    ("improved or classic", {}, ("--conversion=best",)),
    (".png", {}, ("--plot=epsilon.pdf",)),
]


@pytest.mark.parametrize(("words", "changes", "arguments"), BAD)
def test_bad_input_is_exit_2_with_one_clear_line(
    account: Callable[..., Ended], words: str, changes: dict[str, str | None], arguments: tuple[str, ...]
) -> None:
    """No epsilon comes out of nonsense: not 0, not a negative one, not NaN."""
    ended = account(*arguments, **changes)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1
    assert words in ended.err
    ended = account("--json", *arguments, **changes)
    assert ended.code == 2
    assert set(ended.json) == {"error"}
    assert words in f"{ended.json['error']['where']}: {ended.json['error']['message']}"


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": "much"},
        {"sample_rate": "256/"},
        {"sample_rate": "1/0"},
        {"steps": "1.5"},
        {"delta": ""},
    ],
)
def test_what_is_no_number_is_a_usage_error(account: Callable[..., Ended], changes: dict[str, str]) -> None:
    ended = account("--json", **changes)
    assert (ended.code, ended.json["error"]["kind"]) == (2, "usage")


def test_classic_conversion_is_rdps_alone(account: Callable[..., Ended]) -> None:
    ended = account("--accountant=pld", "--conversion=classic")
    assert (ended.code, ended.out) == (2, "")


def test_pld_missing_is_told_with_the_pip_line(
    account: Callable[..., Ended], hide: Callable[[str], None]
) -> None:
    hide("dp_accounting")
    ended = account("--accountant=pld")
    assert (ended.code, ended.out) == (2, "")
    assert "pip install 'gentool[pld]'" in ended.err


def test_notes_go_to_standard_error_and_into_the_document(account: Callable[..., Ended]) -> None:
    loose = account("--json", noise_multiplier="1", sample_rate="0.01", steps="1")
    assert "loose" in loose.json["notes"][0]
    assert "note: RDP is loose" in loose.err
    large_delta = account("--json", delta="0.01")
    assert "delta 0.01 is not below the sample rate" in large_delta.json["notes"][-1]


def test_plot_has_a_readable_picture(account: Callable[..., Ended], tmp_path: Path) -> None:
    """Both conversions' colours lie where their epsilons are; the file is whole and alone in its folder."""
    path = tmp_path / "new" / "epsilon.png"
    document = account("--json", f"--plot={path}").json
    assert document["plot"] == str(path)
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        picture = picture.convert("RGB")
    right = [picture.getpixel((picture.width - 30, y)) for y in range(picture.height)]
    blue = [y for y, pixel in enumerate(right) if pixel == (0x00, 0x72, 0xB2)]
    orange = [y for y, pixel in enumerate(right) if pixel == (0xD5, 0x5E, 0x00)]
    # The axes' lower end is 64 pixels above the bottom: heights over it are in the ratio of the epsilons.
    above = [picture.height - 64 - sum(ys) / len(ys) for ys in (blue, orange)]
    assert above[1] / above[0] == pytest.approx(3.0084 / 2.5967, rel=0.01)


def test_plot_that_cannot_be_written_says_why(account: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = account(f"--plot={tmp_path / 'file' / 'epsilon.png'}")
    assert (ended.code, ended.out) == (1, "")
    assert "not a folder" in ended.err


def test_curves_end_at_the_account_and_grow() -> None:
    phases = [Phase(SampledGaussian(10.0), 1), Phase(SampledGaussian(1.1, 0.01), 2000)]
    for curve, accountant in zip(curves(phases, 1e-5, [RDP(), RDP("classic")]), (RDP(), RDP("classic"))):
        assert (curve.steps[0], curve.steps[-1]) == (1, 2001)
        assert curve.epsilons[0] == accountant.epsilon(phases[:1], 1e-5).epsilon
        assert curve.epsilons[-1] == accountant.epsilon(phases, 1e-5).epsilon
        assert list(curve.epsilons) == sorted(curve.epsilons)


@pytest.mark.parametrize("end", [1e-7, 0.03, 0.99, 1.0, 2.7, 10.0, 14063.0, 9.999e11])
def test_ticks_are_few_and_round(end: float) -> None:
    made = ticks(end)
    assert 4 <= len(made) - 1 <= 10
    assert made[0] == 0
    assert made[-1] <= end * (1 + 1e-9)
    step = made[1]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_dashes_cover_their_share_of_a_line() -> None:
    pieces = _dashes([(0, 0), (30, 40), (130, 40)], 6, 4)
    assert sum(math.dist(*piece) for piece in pieces) == pytest.approx(0.6 * 150, abs=1e-6)


def test_the_documentation_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "privacy-account.md"
    blocks = re.findall(r"^    \$ gentool (.+)\n((?:    (?!\$).+\n)+)", page.read_text(), re.MULTILINE)
    assert len(blocks) == 5
    for line, shown in blocks:
        assert run(shlex.split(line)) == 0
        assert capsys.readouterr().out.startswith(textwrap.dedent(shown)), line


@pytest.mark.parametrize("extra", [(), ("--json",), ("--target-epsilon", "3"), ("--help",)])
def test_neither_torch_nor_numpy_is_imported(extra: tuple[str, ...]) -> None:
    """What keeps the command under half a second."""
    settings = ["--noise-multiplier", "1.1", "--sample-rate", "0.01", "--delta", "1e-5"]
    steps = [] if "--target-epsilon" in extra else ["--steps", "9000"]
    code = (
        "import sys; from gentool.cli.app import run; assert run(sys.argv[1:]) == 0; "
        "sys.exit(str({'torch', 'numpy', 'scipy', 'lightning', 'PIL'} & set(sys.modules) or ''))"
    )
    command = [sys.executable, "-c", code, "privacy-account", *settings, *steps, *extra]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stderr.strip() == ""
