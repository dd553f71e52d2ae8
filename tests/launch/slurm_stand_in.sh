#!/usr/bin/env bash
# Stands in for srun, squeue and scontrol; links with those names lead here.
#
#   TASKS         the number of processes that srun starts, with the variables that Slurm sets
#   STATE         the state of the job, as squeue prints it
#   calls         a file beside the links: the commands that were run
set -euo pipefail
NAME=${0##*/}
echo "$NAME $*" >>"$(dirname "$0")/calls"
case $NAME in
  squeue) echo "$STATE" ;;
  scontrol) ;;
  srun)
    [[ $1 == --kill-on-bad-exit=0 ]]
    shift
    export SLURM_NTASKS=$TASKS SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1
    started=() highest=0
    for ((task = 0; task < TASKS; task++)); do
      SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
      started+=($!)
    done
    for process in "${started[@]}"; do
      status=0
      wait "$process" || status=$?
      if ((status > highest)); then highest=$status; fi
    done
    exit "$highest"
    ;;
esac
