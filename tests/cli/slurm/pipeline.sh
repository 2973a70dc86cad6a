#!/bin/bash
# Submits the training of quickstart, then sample, evaluate; prints the numbers of the jobs.
# A job starts when the one before it has ended well, and is dropped when that cannot happen any more.
# Run it with: bash FILE, or: gentool slurm ... | bash
set -e

train=$(sbatch --parsable <<'JOB'
#!/bin/bash
#SBATCH --job-name=quickstart
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue  # after preemption or the loss of a node
#SBATCH --signal=B:USR1@120  # seconds before the time limit: save, and queue again
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2  # a process for each device
#SBATCH --gpus-per-node=2

run=runs/quickstart/slurm-"$SLURM_JOB_ID"

limit=no
trap 'limit=yes; kill -USR1 "$work"' USR1  # the time limit is near
trap : TERM  # preempted or cancelled: Slurm has told the processes, and this shell waits for their checkpoint
srun --wait=60 --kill-on-bad-exit=0 gentool train quickstart trainer.devices=2 --run-dir "$run" --resume auto &
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

sample=$(sbatch --parsable --dependency="afterok:$train" --kill-on-invalid-dep=yes <<'JOB'
#!/bin/bash
#SBATCH --job-name=quickstart-sample
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2  # a process for each device
#SBATCH --gpus-per-node=2

run=runs/quickstart/slurm-"$TRAIN"

srun --wait=0 gentool sample "$run"
JOB
)
sample=${sample%%;*}

evaluate=$(sbatch --parsable --dependency="afterok:$sample" --kill-on-invalid-dep=yes <<'JOB'
#!/bin/bash
#SBATCH --job-name=quickstart-evaluate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2  # a process for each device
#SBATCH --gpus-per-node=2

run=runs/quickstart/slurm-"$TRAIN"

srun --wait=0 gentool evaluate "$run"
JOB
)
evaluate=${evaluate%%;*}

echo $train $sample $evaluate
