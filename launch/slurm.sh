#!/usr/bin/env bash
# HyperPrompt on a Slurm cluster with GPUs: a batch script to start from. docs/how_to/launch.md has more.
#
# Change these lines to those of the cluster. Each GPU has a process of its own; do not bind GPUs
# to processes (--gpus-per-task), as JAX gives each process the GPU of its SLURM_LOCALID.
#SBATCH --job-name=hyperprompt
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
# Each start of the job appends to the same log.
#SBATCH --output=hyperprompt-%j.log
#SBATCH --open-mode=append
# SIGTERM to all processes, five minutes before the time limit: a checkpoint is saved.
#SBATCH --signal=TERM@300
set -euo pipefail

USAGE='usage: sbatch [flags of sbatch] launch/slurm.sh flags of hyperprompt train

Activate the environment in which hyperprompt is installed before you submit the job.

exit status: that of training. After 0 and 2 (a mistake in its flags) the job ends; after
  any other it is put into the queue again, at most 20 times'
MAX_RESTARTS=20

if [[ ${1:-} == --help ]]; then
  printf '%s\n' "$USAGE"
  exit
fi
if ((!$#)) || [[ -z ${SLURM_JOB_ID:-} ]]; then
  printf '%s\n' "$USAGE" >&2
  exit 2
fi

# Processes that miss another one end by themselves. If Slurm killed them instead, their status
# would hide that of the first: srun returns the highest.
status=0
srun --kill-on-bad-exit=0 hyperprompt train --meet_seconds=600 "$@" || status=$?
case $status in
  0) exit 0 ;;
  2)
    echo 'slurm.sh: a mistake that would happen again: the job ends' >&2
    exit 2
    ;;
esac

# A job that was cancelled is not running any more, and stays cancelled.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) || state='an unknown state'
if [[ $state != RUNNING ]]; then
  echo "slurm.sh: status $status; the job is in $state, and ends" >&2
elif ((${SLURM_RESTART_COUNT:-0} >= MAX_RESTARTS)); then
  echo "slurm.sh: status $status after $MAX_RESTARTS restarts: the job ends" >&2
else
  echo "slurm.sh: status $status: the job is put into the queue again" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
