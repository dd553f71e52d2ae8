#!/usr/bin/env bash
# HyperPrompt on a Cloud TPU slice of TPU VMs, as a queued resource. docs/launch.md has more.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=launch/verbs.sh
source "$ROOT/launch/verbs.sh"

USAGE='usage: launch/tpu_vm.sh VERB --name=NAME --zone=ZONE [flags]
         [-- flags of hyperprompt train]

  create    get the slice, and wait for it; one that was preempted or failed is made again
  install   build the wheel and install it on all hosts
  start     start hyperprompt train on all hosts, as a service that is started again
  status    the state of the slice, and of training on each host
  logs      follow the log of the first host; with --output, copy those of all
  stop      stop training, which saves a checkpoint; the slice stays
  run       create, install, start and watch; after a preemption all over again
  delete    delete the slice, after asking; logs are copied first

  --name=NAME              of the slice
  --zone=ZONE              such as us-central2-b
  --project=PROJECT        otherwise that of gcloud config
  --accelerator_type=TYPE  such as v4-16 (create, run)
  --runtime_version=NAME   such as tpu-ubuntu2204-base (create, run)
  --spot                   a spot slice: cheap, and preempted at any time
  --env=NAME=VALUE         set for training; may be given several times; never printed
  --output=FOLDER          where logs are copied to; otherwise launch_logs
  --no-logs                stop and delete do not copy logs
  --poll_seconds=N         between two looks at the state; otherwise 60
  --yes                    delete does not ask
  --dry-run                print the commands, run none'
VALUES=(name zone project accelerator_type runtime_version output poll_seconds)
SWITCHES=(spot no_logs yes dry_run)

# What runs on the hosts. Nothing of the user's is in these texts: flags and environment
# travel in a file, train.sh.

# TPU VMs come with Python 3.10; uv brings its own.
# shellcheck disable=SC2016
INSTALL='set -e
cd ~/hyperprompt
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user "uv>=0.8"
python3 -m uv venv --quiet --allow-existing --python=3.11 venv
python3 -m uv pip install --quiet --python=venv/bin/python --constraints=constraints.txt \
  --reinstall-package=hyperprompt-jax "$(echo ./hyperprompt_jax-*.whl)[tpu]"'

# shellcheck disable=SC2016
START='set -e
cd ~/hyperprompt
test -x venv/bin/hyperprompt || { echo "nothing is installed: install comes first" >&2; exit 1; }
touch train.log
sed "s|@USER@|$(id -un)|; s|@HOME@|$HOME|" hyperprompt.service |
  sudo tee /etc/systemd/system/hyperprompt.service >/dev/null
sudo systemctl daemon-reload
sudo systemctl enable --quiet --now hyperprompt'

# A service that was stopped is disabled, one that has ended is not.
# shellcheck disable=SC2016
STATE='eval "$(systemctl show hyperprompt --property=LoadState,ActiveState,ExecMainStatus)"
case "$LoadState $ActiveState $ExecMainStatus" in
  not-found*) state=absent ;;
  *" active "* | *" activating "* | *" deactivating "*) state=running ;;
  *" failed 2") state=failed ;;
  *" inactive 0") state=ended ;;
  *) state=stopped ;;
esac
if [[ $state == ended ]] && ! systemctl is-enabled --quiet hyperprompt; then state=stopped; fi
echo "$(hostname) $state"'

check_flags() {
  require name zone
  if among "$VERB" create run; then require accelerator_type runtime_version; fi
  check_common_flags
  NAME=${FLAG[name]}
  PLACE=(--zone="${FLAG[zone]}")
  if [[ -n ${FLAG[project]:-} ]]; then PLACE+=(--project="${FLAG[project]}"); fi
}

connect() { :; }

# To get machines in another way, replace this. The rest needs a TPU VM of the same name.
provision() {
  local state spot=()
  case $1 in
    state)
      # Not `describe`, which fails alike where there is none and where it cannot tell.
      state=$(attempt gcloud compute tpus queued-resources list "${PLACE[@]}" \
        --filter="name~/$NAME\$" --format='value(state.state)') || return
      case $state in
        '') echo absent ;;
        ACTIVE) echo ready ;;
        SUSPENDED) echo lost ;;
        FAILED) echo failed ;;
        *) echo waiting ;;
      esac
      ;;
    make)
      if [[ -n ${FLAG[spot]:-} ]]; then spot=(--spot); fi
      run gcloud compute tpus queued-resources create "$NAME" "${PLACE[@]}" --node-id="$NAME" \
        --accelerator-type="${FLAG[accelerator_type]}" \
        --runtime-version="${FLAG[runtime_version]}" "${spot[@]}"
      ;;
    delete)
      run gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
      ;;
  esac
}

# $1 runs it: `run` or `attempt`; $2 is all or the number of a host.
on_hosts() {
  "$1" gcloud compute tpus tpu-vm ssh "$NAME" "${PLACE[@]}" --worker="$2" --command="$3"
}

to_hosts() {
  run gcloud compute tpus tpu-vm scp "$@" "$NAME:hyperprompt/" "${PLACE[@]}" --worker=all
}

install() {
  build_wheel
  on_hosts run all 'mkdir -p ~/hyperprompt && rm -f ~/hyperprompt/*.whl'
  to_hosts "$WHEEL" "$ROOT/constraints.txt" "$ROOT/launch/hyperprompt.service"
  on_hosts run all "$INSTALL"
}

# The devices that JAX must see, where the name of the slice says it: v2 and v3 have two to a
# chip, and of v4 and v5p the name counts cores.
device_count() {
  local type=${FLAG[accelerator_type]:-}
  [[ ${type##*-} =~ ^[1-9][0-9]*$ ]] || return 0
  case $type in
    v2-* | v3-* | v5litepod-* | v6e-*) echo "--device_count=${type##*-}" ;;
    v4-* | v5p-*) echo "--device_count=$((${type##*-} / 2))" ;;
  esac
}

train_script() {
  local entry
  echo '#!/bin/bash'
  for entry in PYTHONUNBUFFERED=1 "${ENVIRONMENT[@]}"; do
    printf 'export %s=%q\n' "${entry%%=*}" "${entry#*=}"
  done
  # shellcheck disable=SC2046
  printf 'exec ~/hyperprompt/venv/bin/hyperprompt train %s\n' \
    "$(quoted --meet_seconds="$MEET_SECONDS" $(device_count) "${ARGUMENTS[@]}")"
}

start() {
  # The environment may hold secrets, and scp keeps a file's mode.
  (umask 077 && train_script >"$SCRATCH/train.sh")
  show "$SCRATCH/train.sh"
  to_hosts "$SCRATCH/train.sh"
  on_hosts run all "$START"
}

training() {
  local lines states
  lines=$(on_hosts attempt all "$STATE") || return
  states=$(cut -d' ' -f2 <<<"$lines" | sort -u)
  case $states in
    *failed*) echo failed ;;
    *$'\n'*) echo mixed ;;
    *) echo "$states" ;;
  esac
}

show_training() { on_hosts run all "$STATE"; }

stop() { on_hosts run all 'sudo systemctl disable --quiet --now hyperprompt'; }

stream_logs() { on_hosts run 0 'tail -n 100 -F ~/hyperprompt/train.log'; }

fetch_logs() {
  local hosts=1 host status=0
  if [[ ${2:-} != first ]]; then
    hosts=$(attempt gcloud compute tpus tpu-vm describe "$NAME" "${PLACE[@]}" \
      --format='value(networkEndpoints.len())') || return
  fi
  for ((host = 0; host < ${hosts:-1}; host++)); do
    attempt gcloud compute tpus tpu-vm scp "$NAME:hyperprompt/train.log" "$1/host-$host.log" \
      "${PLACE[@]}" --worker="$host" || status=1
  done
  return $status
}

# All that there is goes with the machines.
forget() { :; }

main "$@"
