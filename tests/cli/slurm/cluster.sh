#!/bin/bash
#SBATCH --job-name=edm-digits-small
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append  # a requeued job goes on in the same log
#SBATCH --requeue  # after preemption or the loss of a node
#SBATCH --signal=B:USR1@300  # seconds before the time limit: save, and queue again
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4  # a process for each device
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=1-12:00:00
#SBATCH --partition=gpu
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --exclusive

module load cuda
source .venv/bin/activate
run='my run'

limit=no
trap 'limit=yes; kill -USR1 "$work"' USR1  # the time limit is near
trap : TERM  # preempted or cancelled: Slurm has told the processes, and this shell waits for their checkpoint
srun --cpus-per-task=8 --wait=60 --kill-on-bad-exit=0 gentool train edm/digits-small optimizer.lr=1e-4 'description=two words' trainer.devices=4 trainer.nodes=2 --run-dir "$run" --resume auto &
work=$!
wait "$work"
while kill -0 "$work" 2>/dev/null; do wait "$work"; done  # a signal ends a wait early
wait "$work"
code=$?
case $limit$code in
    yes75 | yes138) scontrol requeue "$SLURM_JOB_ID" ;;  # 138: the signal came before the training had begun
esac
exit "$code"
