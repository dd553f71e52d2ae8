#!/usr/bin/env bash
# HyperPrompt on a Cloud TPU slice of TPU VMs, as a queued resource. docs/how_to/launch.md has more.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=launch/verbs.sh
source "$ROOT/launch/verbs.sh"

USAGE='usage: launch/tpu_vm.sh VERB --name=NAME --zone=ZONE [flags]
         [-- flags of hyperprompt train]

  create    get the slice and wait for it; a preempted or failed one is made again
  install   build the wheel and install it on all hosts
  start     start hyperprompt train on all hosts, as a service that restarts
  status    show the state of the slice, and of training on each host
  logs      follow the log of the first host; with --output, copy those of all
  stop      stop training, which saves a checkpoint; the slice stays
  run       create, install, start and watch; after a preemption, begin again
  delete    copy the logs and delete the slice, after a question

  --name=NAME              the name of the slice
  --zone=ZONE              its zone, such as us-central2-b
  --project=PROJECT        its project; otherwise that of gcloud config
  --accelerator_type=TYPE  such as v4-16 (create, run)
  --runtime_version=NAME   such as tpu-ubuntu2204-base (create, run)
  --spot                   get a spot slice, which is cheap and may be preempted
  --env=NAME               set a variable for training; its value is read from the
                           environment here and never printed; may be repeated
  --output=FOLDER          the folder for copies of logs; otherwise launch_logs
  --no-logs                let stop and delete copy no logs
  --poll_seconds=N         the time between two looks at the state; otherwise 60
  --patience=N             the number of looks in a row that may find an unclear
                           state before create or run gives up; otherwise 60
  --answer_seconds=N       the time that one question or one copy may take; a
                           deletion may take ten times as long; otherwise 300
  --delete-at-end          let run delete the slice once training has ended or
                           failed, or could not be set up
  --yes                    delete without a question
  --dry-run                print the commands and run none

exit status: 0 success; 1 a failure, after which the same command may succeed;
  2 a mistake in the flags, or in those of training: do not repeat it unchanged;
  129, 130 or 143 after a hangup, Ctrl-C or SIGTERM'
VALUES=(
  name zone project accelerator_type runtime_version output poll_seconds patience
  answer_seconds
)
SWITCHES=(spot no_logs delete_at_end yes dry_run)

# The next three texts run on the hosts. They hold no text of the user: flags and environment
# travel in a file, train.sh.

# TPU VMs have Python 3.10; uv brings a newer one.
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
# Forgets earlier starts, of which the service counts 100.
sudo systemctl reset-failed hyperprompt 2>/dev/null || true
sudo systemctl enable --quiet --now hyperprompt'

# `stop` disables the service. One that is enabled and yet failed will not be started again:
# it ended with status 2, or was started too often. 130 and 143 come from a signal, as that of
# `systemctl stop`.
# shellcheck disable=SC2016
STATE='eval "$(systemctl show hyperprompt --property=LoadState,ActiveState,ExecMainStatus)"
enabled=no
if systemctl is-enabled --quiet hyperprompt; then enabled=yes; fi
case "$LoadState $ActiveState $ExecMainStatus $enabled" in
  not-found*) state=absent ;;
  *" active "* | *" activating "* | *" deactivating "*) state=running ;;
  *" failed 130 "* | *" failed 143 "*) state=stopped ;;
  *" failed 2 "* | *" failed "*" yes") state=failed ;;
  *" inactive 0 yes") state=ended ;;
  *) state=stopped ;;
esac
echo "$(hostname) $state"'

check_flags() {
  require name zone
  if among "$VERB" create run; then require accelerator_type runtime_version; fi
  check_common_flags
  NAME=${FLAG[name]}
  PLACE=(--zone="${FLAG[zone]}")
  if [[ -n ${FLAG[project]:-} ]]; then PLACE+=(--project="${FLAG[project]}"); fi
}

connect() { CONNECTED=yes; }

# To get machines in another way, replace this and `deletions`. The rest needs a TPU VM of the
# same name.
provision() {
  local state kind spot=()
  case $1 in
    state)
      # `describe` would fail alike where there is no slice and where there is no answer.
      state=$(ask gcloud compute tpus queued-resources list "${PLACE[@]}" \
        --filter="name~/$NAME\$" --format='value(state.state)') || return
      case $state in
        '') kind=absent state=none ;;
        ACTIVE) kind=ready ;;
        SUSPENDED) kind=lost ;;
        FAILED) kind=failed ;;
        CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES) kind=queued ;;
        DELETING | SUSPENDING) kind=changing ;;
        *) kind=unknown ;;
      esac
      echo "$kind $(excerpt "$state")"
      ;;
    make)
      if [[ -n ${FLAG[spot]:-} ]]; then spot=(--spot); fi
      run gcloud compute tpus queued-resources create "$NAME" "${PLACE[@]}" --node-id="$NAME" \
        --accelerator-type="${FLAG[accelerator_type]}" \
        --runtime-version="${FLAG[runtime_version]}" "${spot[@]}"
      ;;
  esac
}

# All objects go with the machines, so that DELETE_TRAINING stays empty.
# shellcheck disable=SC2034
deletions() {
  MACHINES="the TPU VMs of slice $NAME"
  THINGS="the queued resource $NAME with its TPU VMs and everything on them"
  WHERE="zone ${FLAG[zone]}"
  DELETE_MACHINES=(
    gcloud compute tpus queued-resources delete "$NAME" "${PLACE[@]}" --force --quiet
  )
}

# $1 runs the command: `run`, `ask` or `attempt`; $2 is `all` or the number of a host.
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

# Prints the number of devices that JAX must see, where the name of the slice tells it. The
# names of v4 and v5p count cores, of which two make one device; the others count devices.
device_count() {
  local type=${FLAG[accelerator_type]:-}
  [[ ${type##*-} =~ ^[1-9][0-9]*$ ]] || return 0
  case $type in
    v2-* | v3-* | v5litepod-* | v6e-*) echo "--device_count=${type##*-}" ;;
    v4-* | v5p-*) echo "--device_count=$((${type##*-} / 2))" ;;
  esac
}

start() {
  # shellcheck disable=SC2046,SC2088
  write_train_script '~/hyperprompt/venv/bin/hyperprompt' \
    --meet_seconds="$MEET_SECONDS" $(device_count)
  # scp keeps the mode of a file.
  to_hosts "$SCRATCH/train.sh"
  on_hosts run all "$START"
}

training() {
  local lines states
  lines=$(on_hosts ask all "$STATE") || return
  if dry; then return; fi
  if grep -qvE '^[^ ]+ (absent|running|ended|failed|stopped)$' <<<"$lines"; then
    echo "unknown $(excerpt "$lines")"
    return
  fi
  states=$(cut -d' ' -f2 <<<"$lines" | sort -u)
  case $states in
    *failed*) echo "failed (${lines//$'\n'/, })" ;;
    *$'\n'*) echo "mixed (${lines//$'\n'/, })" ;;
    *) echo "$states" ;;
  esac
}

show_training() { on_hosts run all "$STATE"; }

stop() { on_hosts run all 'sudo systemctl disable --quiet --now hyperprompt'; }

stream_logs() { on_hosts attempt 0 'tail -n 100 -F ~/hyperprompt/train.log'; }

fetch_logs() {
  local hosts=1 host status=0 last
  if [[ ${2:-} != first ]]; then
    hosts=$(ask gcloud compute tpus tpu-vm describe "$NAME" "${PLACE[@]}" \
      --format='value(networkEndpoints.len())') || hosts='no answer'
    if dry; then hosts=1; fi
    if [[ ! $hosts =~ ^[1-9][0-9]{0,4}$ ]]; then
      say "the number of hosts is unclear ($(excerpt "$hosts")): only the first host's log" \
        'is copied'
      hosts=1 status=1
    fi
  fi
  for ((host = 0; host < hosts; host++)); do
    last=0
    ask gcloud compute tpus tpu-vm scp "$NAME:hyperprompt/train.log" "$1/host-$host.log" \
      "${PLACE[@]}" --worker="$host" || last=$?
    if ((last)); then status=1; fi
    # The other hosts would hardly answer either, and machines cost money meanwhile.
    if no_answer "$last"; then break; fi
  done
  return "$status"
}

main "$@"
