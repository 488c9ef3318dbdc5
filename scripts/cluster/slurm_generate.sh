#!/bin/sh
# One run of `uvit generate` as a Slurm array job: every task draws a shard, and may be requeued.
#
#   sbatch --array=0-15 scripts/cluster/slurm_generate.sh MODEL OUT OPTION...
#
# Task I of N writes OUT/part-I.npz. OUT is shared by the nodes.
#SBATCH --job-name=uvit
#SBATCH --requeue
set -eu
model=$1 out=$2
shift 2
mkdir -p "$out"
exec uvit generate "$model" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --out-npz "$out/part-$SLURM_ARRAY_TASK_ID.npz" "$@"
