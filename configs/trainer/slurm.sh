#!/bin/bash
# sbatch configs/trainer/slurm.sh RECIPE.yaml [OPTION...]: two nodes of four GPUs; see docs/cluster.md
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
set -euo pipefail
recipe=$1
shift
# SIGTERM lets the fit write a checkpoint and stop; the job goes back into the queue even where that takes too long
trap 'scancel --signal=TERM "$SLURM_JOB_ID" || true; sleep 240 & wait -n || true; scontrol requeue "$SLURM_JOB_ID"' USR1
srun python train.py fit --config "$recipe" --trainer configs/trainer/slurm.yaml \
    --version "job_$SLURM_JOB_ID" --ckpt_path last "$@" &
wait $!
