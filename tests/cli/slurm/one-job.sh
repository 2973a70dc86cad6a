#!/bin/bash
#SBATCH --job-name=quickstart
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue  # after preemption or the loss of a node
#SBATCH --signal=B:USR1@120  # seconds before the time limit: save, and queue again
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1  # a process for each device

run=runs/quickstart/slurm-"$SLURM_JOB_ID"

limit=no
trap 'limit=yes; kill -USR1 "$work"' USR1  # the time limit is near
trap : TERM  # preempted or cancelled: Slurm has told the processes, and this shell waits for their checkpoint
srun --wait=60 --kill-on-bad-exit=0 gentool train quickstart trainer.accelerator=cpu --devices 1 --run-dir "$run" --resume auto &
work=$!
wait "$work"
while kill -0 "$work" 2>/dev/null; do wait "$work"; done  # a signal ends a wait early
wait "$work"
code=$?
case $limit$code in
    yes75 | yes138) scontrol requeue "$SLURM_JOB_ID" ;;  # 138: the signal came before the training had begun
esac
exit "$code"
