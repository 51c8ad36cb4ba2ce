#!/bin/bash
#SBATCH --job-name=postern-paper
#SBATCH --array=1-4
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=02:00:00
# The figures of the paper as a Slurm job array, one share of them a task. From the top of a checkout that all
# nodes see:
#
#     sbatch eval/experiments/slurm.sh [FLAGS of cargo paper run]
#     cargo paper merge results/all results/share-*
#
# Every node needs what the README says under "Both need".
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this is a script for sbatch}"
number=$SLURM_ARRAY_TASK_ID of=$SLURM_ARRAY_TASK_COUNT
# Nodes that share a home would build in the same place.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${TMPDIR:-/tmp}/postern-target}"
exec cargo paper run --shard "$number/$of" --out "results/share-$number-of-$of" "$@"
