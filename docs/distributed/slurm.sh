#!/bin/sh
# A training on four nodes under Slurm, one worker each: sbatch slurm.sh
#SBATCH --job-name=gluon-compress
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=TERM@60
#SBATCH --requeue

RECIPE=${RECIPE:-recipe.json} # on a file system that all nodes share, like OUT
OUT=${OUT:-runs/slurm}

# The node of rank 0. Ports of jobs that share a node must differ.
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
export MASTER_ADDR MASTER_PORT OMP_NUM_THREADS

# --resume, so that a job that Slurm requeues goes on where it was.
exec srun --kill-on-bad-exit=0 gluon-compress launch --from-environment --restarts 3 -- \
    run --recipe "$RECIPE" --out "$OUT" --resume --quiet
