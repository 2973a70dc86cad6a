"""gentool slurm: a training, and what follows it, as the job scripts of a Slurm cluster. Only text is made here.

A training job takes the same run folder in every life and goes on there (`--resume auto`). Two signals reach it:

- `--signal=B:USR1@seconds` tells the batch shell alone, before the time limit. It passes the signal on and notes it, as
  that is the one case where the job must put itself back into the queue.
- SIGTERM comes from Slurm to every process, when the job is preempted (then Slurm requeues it) or cancelled (then
  nobody should). The shell outlives it, so that the processes have Slurm's grace period for their checkpoint.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from gentool import families
from gentool.errors import UserError, did_you_mean
from gentool.recipes.resolve import Resolved, resolve

FOLLOWERS = ("sample", "evaluate")
"""Commands that take a run folder and nothing else, in the order that they make sense in."""

_TIME = re.compile(r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}")


@dataclass(frozen=True)
class Cluster:
    """What the jobs ask of the cluster; None leaves it to the site's own default.

    Attributes:
        time: limit of each job, as Slurm writes it (90, 2:00:00, 1-12:00:00). mem: per node (64G).
        array: jobs that train with seeds one apart, each in a run folder of its own.
        grace: seconds before the time limit at which training is told to save.
        setup: shell lines before the work (module load ..., source .venv/bin/activate).
        more: further options of sbatch as `KEY[=VALUE]`, without their dashes.
    """

    time: str | None = None
    partition: str | None = None
    account: str | None = None
    mem: str | None = None
    cpus: int | None = None
    array: int | None = None
    grace: int = 120
    setup: Sequence[str] = ()
    more: Sequence[str] = ()


def script(
    source: str,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | None = None,
    then: Sequence[str] = (),
    cluster: Cluster = Cluster(),
) -> str:
    """The sbatch script that trains a recipe; with `then`, a shell script that submits it and the jobs that follow.

    Args:
        overrides: `KEY=VALUE` for the recipe; `trainer.nodes` and `trainer.devices` decide the processes.
        run_dir: the run folder (with an array, followed by the task's number); None names it by the job.
        then: of `FOLLOWERS`; each starts when the job before it ended with 0, with the same run folder.

    Raises:
        UserError: the recipe, or what is asked of the cluster, is not valid.
    """
    _check(cluster, then)
    resolved = resolve(source, overrides, families.recipe_schema)
    family = families.FAMILIES.get(resolved.recipe.family)
    if "sample" in then and not family.draws_samples:
        raise UserError(
            f"--then sample: the family {family.name} draws no samples; --then evaluate judges the model"
        )
    jobs = _Jobs(source, tuple(overrides), resolved, run_dir, cluster)
    return jobs.pipeline(then) if then else jobs.train()


def _check(cluster: Cluster, then: Sequence[str]) -> None:
    if cluster.time is not None and not _TIME.fullmatch(cluster.time):
        raise UserError(
            f"--time {cluster.time!r}: expected minutes, hours:minutes:seconds or days-hours:minutes:seconds "
            "(90, 2:00:00, 1-12:00:00)"
        )
    if cluster.time is not None and _seconds(cluster.time) <= cluster.grace:
        raise UserError(
            f"--grace {cluster.grace}: the time limit of {cluster.time} is over by then; the job would be told to save "
            "as it starts, and go back to the queue for ever: take a longer --time or a shorter --grace"
        )
    given = [("--partition", cluster.partition), ("--account", cluster.account), ("--mem", cluster.mem)]
    for switch, value in [*given, *(("--sbatch", value) for value in cluster.more)]:
        if value is not None and not re.fullmatch(r"[^\s#]+", value):
            raise UserError(f"{switch} {value!r}: expected a word without blanks and #")
    for line in cluster.setup:
        if not line.strip() or line.splitlines() != [line]:
            raise UserError(f"--setup {line!r}: expected one line of shell; repeat --setup for more")
    for name in then:
        if name not in FOLLOWERS:
            raise UserError(
                f"--then {name}: expected {' or '.join(FOLLOWERS)}{did_you_mean(name, FOLLOWERS)}"
            )
    if len(set(then)) < len(then):
        raise UserError(f"--then {','.join(then)}: each command once")


def _seconds(time: str) -> int:
    """Of a time limit as Slurm writes it: minutes, min:sec, h:min:sec, days-h, days-h:min, days-h:min:sec."""
    days, dash, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, minutes, seconds = (0, *parts, 0)[:3] if len(parts) < 3 else parts
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds


@dataclass(frozen=True)
class _Jobs:
    """The jobs of one recipe."""

    source: str
    overrides: tuple[str, ...]
    resolved: Resolved
    run_dir: str | None
    cluster: Cluster

    def train(self) -> str:
        """Goes on in its run folder in each of its lives, and asks for another where the time limit ends one."""
        asked = [
            "--requeue  # after preemption or the loss of a node",
            f"--signal=B:USR1@{self.cluster.grace}  # seconds before the time limit: save, and queue again",
        ]
        work = self._srun("--wait=60 --kill-on-bad-exit=0", *self._train_words())
        return self._job("train", asked, self._run("$SLURM_JOB_ID", "$SLURM_ARRAY_JOB_ID")) + _TRAIN.replace(
            "WORK", work
        )

    def follow(self, command: str) -> str:
        """Reads the run folder of the training; started anew when it is requeued, as its file is whole or absent."""
        head = self._job(command, ["--requeue"], self._run("$TRAIN", "$TRAIN"))
        return f"{head}\n{self._srun('--wait=0', f'gentool {command}', _quoted('$run'))}\n"

    def pipeline(self, then: Sequence[str]) -> str:
        """Submits the training and its followers; array tasks follow the task of their own number."""
        lines = [
            "#!/bin/bash",
            f"# Submits the training of {self.resolved.name}, then {', '.join(then)}; prints the numbers of the jobs.",
            "# A job starts when the one before it has ended well, and is dropped when that cannot happen any more.",
            "# Run it with: bash FILE, or: gentool slurm ... | bash",
            "set -e",
            "",
            *_submission("train", "", self.train()),
            "export TRAIN=$train  # names the run folder for the jobs that follow",
        ]
        before, kind = "train", "afterok" if self.cluster.array is None else "aftercorr"
        for command in then:
            asked = f'--dependency="{kind}:${before}" --kill-on-invalid-dep=yes '
            lines += ["", *_submission(command, asked, self.follow(command))]
            before = command
        return "\n".join([*lines, "", f"echo {' '.join(f'${name}' for name in ('train', *then))}", ""])

    def _job(self, command: str, asked: Sequence[str], run: str) -> str:
        """The head of a job script, down to the line that names the run folder."""
        trainer, cluster = self.resolved.recipe.trainer, self.cluster
        devices = 1 if trainer.devices == "auto" else trainer.devices
        name = self.resolved.name.replace("/", "-") + ("" if command == "train" else f"-{command}")
        options = [
            f"--job-name={name}",
            f"--output=%x-{'%j' if cluster.array is None else '%A_%a'}.log",
            "--open-mode=append  # a requeued job goes on in the same log",
            *asked,
            *([] if cluster.array is None else [f"--array=0-{cluster.array - 1}"]),
            f"--nodes={trainer.nodes}",
            f"--ntasks-per-node={devices}  # a process for each device",
            *([] if trainer.accelerator == "cpu" else [f"--gpus-per-node={devices}"]),
        ]
        chosen = {
            "cpus-per-task": cluster.cpus,
            "mem": cluster.mem,
            "time": cluster.time,
            "partition": cluster.partition,
            "account": cluster.account,
        }
        options += [f"--{key}={value}" for key, value in chosen.items() if value is not None]
        options += [f"--{option.lstrip('-')}" for option in cluster.more]
        lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options), "", *cluster.setup, run]
        return "\n".join(lines) + "\n"

    def _run(self, job: str, array_job: str) -> str:
        """The line that names the run folder: by the job, whose number stays when it is requeued."""
        task = "" if self.cluster.array is None else "-$SLURM_ARRAY_TASK_ID"
        number = job if self.cluster.array is None else array_job
        place = f"runs/{self.resolved.name}/slurm-" if self.run_dir is None else self.run_dir
        variable = task if self.run_dir is not None else number + task
        return f"run={shlex.quote(place)}{_quoted(variable) if variable else ''}"

    def _train_words(self) -> list[str]:
        trainer, overrides = self.resolved.recipe.trainer, list(self.overrides)
        words = ["gentool train", shlex.quote(self.source)]
        if self.cluster.array is not None:
            overrides = [change for change in overrides if not change.startswith("seed=")]
            words.append(f'"seed=$(({self.resolved.recipe.seed} + SLURM_ARRAY_TASK_ID))"')
        words += map(shlex.quote, overrides)
        if trainer.devices == "auto":  # on a node with more devices than the job's it would take them all
            words.append("--devices 1")
        return [*words, '--run-dir "$run"', "--resume auto"]

    def _srun(self, options: str, *words: str) -> str:
        # srun does not take this over from the script since Slurm 22.05
        cpus = "" if self.cluster.cpus is None else f"--cpus-per-task={self.cluster.cpus}"
        return " ".join(word for word in ("srun", cpus, options, *words) if word)


_TRAIN = """
limit=no
trap 'limit=yes; kill -USR1 "$work"' USR1  # the time limit is near
trap : TERM  # preempted or cancelled: Slurm has told the processes, and this shell waits for their checkpoint
WORK &
work=$!
wait "$work"
while kill -0 "$work" 2>/dev/null; do wait "$work"; done  # a signal ends a wait early
wait "$work"
code=$?
case $limit$code in
    yes75 | yes138) scontrol requeue "$SLURM_JOB_ID" ;;  # 138: the signal came before the training had begun
esac
exit "$code"
"""
"""Every process ends with 75 once the state is saved. `--wait`: where one is lost, the others would wait for ever; not
`--kill-on-bad-exit`, which would take the 75 of the first to end for a failure."""


def _submission(name: str, options: str, job: str) -> list[str]:
    """Shell lines that submit a job and keep its number; clusters in a federation add their name to it."""
    return [
        f"{name}=$(sbatch --parsable {options}<<'JOB'",
        job.rstrip("\n"),
        "JOB",
        ")",
        f"{name}=${{{name}%%;*}}",
    ]


def _quoted(text: str) -> str:
    return f'"{text}"'
