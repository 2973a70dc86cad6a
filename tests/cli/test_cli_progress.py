"""Progress: a line a minute in a log, a bar for a person, silence when asked."""

from __future__ import annotations

import io
import json
import sys

import pytest

from gentool.cli.output import print_json
from gentool.cli.progress import LineReport, duration, progress


def lines(steps: list[tuple[float, int]], total: int, figures: dict[str, float]) -> list[str]:
    """What is written when `done` is reported at each time."""
    stream, now = io.StringIO(), 0.0
    report = LineReport("training", "steps", stream, clock=lambda: now)
    for now, done in steps:  # noqa: B007
        report(done, total, figures)
    return stream.getvalue().splitlines()


def test_one_line_a_minute_with_rate_and_time_left() -> None:
    steps = [(float(second), second * 10) for second in range(181)]
    assert lines(steps, 10_000, {"loss": 0.123456}) == [
        "training 600/10000 steps, 10 steps/s, 15 min 40 s left, loss 0.1235",
        "training 1200/10000 steps, 10 steps/s, 14 min 40 s left, loss 0.1235",
        "training 1800/10000 steps, 10 steps/s, 13 min 40 s left, loss 0.1235",
    ]


def test_the_end_is_always_told() -> None:
    assert lines([(0.0, 0), (5.0, 20)], 20, {}) == ["training 20/20 steps, 4 steps/s"]


def test_a_resumed_runs_rate_counts_its_own_steps() -> None:
    assert lines([(0.0, 9000), (60.0, 9060)], 9120, {}) == [
        "training 9060/9120 steps, 1 steps/s, 1 min 00 s left"
    ]


def test_the_rate_is_that_of_the_last_minute() -> None:
    assert lines([(0.0, 0), (60.0, 60), (120.0, 660)], 6660, {})[1] == (
        "training 660/6660 steps, 10 steps/s, 10 min 00 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_log_that_has_gone_away_does_not_stop_the_work() -> None:
    """The line is lost and nothing else: the next one is written where the log is back."""

    class Log(io.StringIO):
        gone, tries = True, 0

        def write(self, text: str) -> int:
            self.tries += 1
            if self.gone:
                raise BrokenPipeError
            return super().write(text)

    log = Log()
    report = LineReport("training", "steps", log, every=0.0, clock=iter((0.0, 1.0)).__next__)
    report(1, 3, {})
    assert (log.tries, log.getvalue()) == (1, "")
    log.gone = False
    report(2, 3, {})
    assert log.getvalue() == "training 2/3 steps, 1 steps/s, 1 s left\n"


def test_quiet_says_nothing_and_a_log_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sampling", "batches", quiet=True) as report:
        report(1, 1, {})
    assert capsys.readouterr() == ("", "")
    with progress("sampling", "batches") as report:
        report(1, 1, {})
    assert capsys.readouterr() == ("", "sampling 1/1 batches\n")


def test_a_terminal_gets_a_bar_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with progress("training", "steps") as report:
        for done in range(5, 11):
            report(done, 10, {"loss": 1 / done})
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err
    assert "10/10" in err
    assert "loss 0.1" in err


def test_json_has_null_for_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [1.5, float("inf"), (2,)], "c": {"d": None}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1.5, None, [2]], "c": {"d": None}}
