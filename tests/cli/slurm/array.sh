#!/bin/bash
# Submits the training of quickstart, then evaluate; prints the numbers of the jobs.
# A job starts when the one before it has ended well, and is dropped when that cannot happen any more.
# Run it with: bash FILE, or: gentool slurm ... | bash
set -e

train=$(sbatch --parsable <<'JOB'
#!/bin/bash
#SBATCH --job-name=quickstart
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue  # after preemption or the loss of a node
#SBATCH --signal=B:USR1@120  # seconds before the time limit: save, and queue again
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1  # a process for each device
#SBATCH --gpus-per-node=1

run=seeds/run"-$SLURM_ARRAY_TASK_ID"

limit=no
trap 'limit=yes; kill -USR1 "$work"' USR1  # the time limit is near
trap : TERM  # preempted or cancelled: Slurm has told the processes, and this shell waits for their checkpoint
srun --wait=60 --kill-on-bad-exit=0 gentool train quickstart "seed=$((7 + SLURM_ARRAY_TASK_ID))" --devices 1 --run-dir "$run" --resume auto &
work=$!
wait "$work"
while kill -0 "$work" 2>/dev/null; do wait "$work"; done  # a signal ends a wait early
wait "$work"
code=$?
case $limit$code in
    yes75 | yes138) scontrol requeue "$SLURM_JOB_ID" ;;  # 138: the signal came before the training had begun
esac
exit "$code"
JOB
)
train=${train%%;*}
export TRAIN=$train  # names the run folder for the jobs that follow

evaluate=$(sbatch --parsable --dependency="aftercorr:$train" --kill-on-invalid-dep=yes <<'JOB'
#!/bin/bash
#SBATCH --job-name=quickstart-evaluate
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1  # a process for each device
#SBATCH --gpus-per-node=1

run=seeds/run"-$SLURM_ARRAY_TASK_ID"

srun --wait=0 gentool evaluate "$run"
JOB
)
evaluate=${evaluate%%;*}

echo $train $evaluate
