"""metrics.csv and metrics.jsonl: always written, and cut back to the checkpoint when a run resumes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping

from gentool.runs.atomic import plain_failures, write_text
from gentool.runs.folder import RunFolder


class MetricsLog:
    """Appends rows; rows after `start_step` (of a life that was cut off) are dropped first."""

    def __init__(self, run: RunFolder, start_step: int) -> None:
        self.run = run
        self._columns: list[str] = []
        self.rows = [row for row in read_rows(run) if row["step"] <= start_step]
        self._rewrite()

    def write(self, row: Mapping[str, float]) -> None:
        self.rows.append(dict(row))
        if [k for k in row if k not in self._columns]:
            self._rewrite()
            return
        with plain_failures(self.run.metrics_jsonl), open(self.run.metrics_jsonl, "a") as handle:
            handle.write(json.dumps(row) + "\n")
        with plain_failures(self.run.metrics_csv), open(self.run.metrics_csv, "a", newline="") as handle:
            csv.DictWriter(handle, self._columns).writerow(row)

    def _rewrite(self) -> None:
        self._columns = list(dict.fromkeys(k for row in self.rows for k in row))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns)
        if self._columns:
            writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.run.metrics_csv, table.getvalue())
        write_text(self.run.metrics_jsonl, "".join(json.dumps(row) + "\n" for row in self.rows))


def read_rows(run: RunFolder) -> list[dict[str, float]]:
    """The rows of metrics.jsonl; a last line cut short by a kill is left out."""
    rows: list[dict[str, float]] = []
    if run.metrics_jsonl.is_file():
        for line in run.metrics_jsonl.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
