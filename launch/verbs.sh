# shellcheck shell=bash
# The verbs of tpu_vm.sh and gke.sh.
#
# A script sets VALUES and SWITCHES (its flags) and USAGE, and defines
#   check_flags              ends with a mistake if its flags do not do for the verb
#   provision state|make|delete
#                            the only function that knows how machines are got; `state` prints
#                            absent, waiting, ready, lost (preempted) or failed
#   install, start, stop     on all hosts of the slice
#   training                 prints absent, running, ended, failed (it will not be started
#                            again), stopped or mixed
#   show_training            the same for people, host by host
#   stream_logs
#   fetch_logs FOLDER [first]  of all hosts, or of the first alone
#   forget                   what there is beside the machines

# The state of the machines; with --dry-run, which asks nobody, what is given.
machines() {
  local state
  state=$(provision state) || fail "could not ask for the state of ${FLAG[name]}"
  if dry; then state=$1; fi
  echo "$state"
}

verb_create() {
  local state failures=0
  while true; do
    state=$(machines absent) || exit
    case $state in
      ready) say "${FLAG[name]} is ready" && return ;;
      waiting) say "${FLAG[name]} is not ready yet" ;;
      absent) provision make ;;
      lost | failed)
        [[ $state == lost ]] || ((++failures <= 3)) ||
          fail "${FLAG[name]} failed three times; \`gcloud\` or the console says why"
        say "${FLAG[name]} is $state: it is deleted and made again"
        provision delete
        provision make
        ;;
    esac
    if dry; then return; fi
    sleep "${FLAG[poll_seconds]}"
  done
}

verb_install() { install; }

verb_start() {
  local state
  state=$(training) || fail 'could not ask whether training runs'
  case $state in
    running) say 'training runs already; nothing was changed' ;;
    mixed) fail 'training runs on some hosts only: stop it, then start it' ;;
    *) start ;;
  esac
}

verb_status() {
  local state
  state=$(machines ready) || exit
  echo "machines: $state"
  if [[ $state == ready ]]; then show_training; fi
}

verb_logs() { if [[ -n ${FLAG[output]:-} ]]; then keep_logs; else stream_logs; fi; }

verb_stop() {
  if [[ -z ${FLAG[no_logs]:-} ]]; then keep_logs; fi
  stop
}

verb_delete() {
  local state
  state=$(machines ready) || exit
  confirm "Delete ${FLAG[name]} and all that is on it?"
  if [[ -z ${FLAG[no_logs]:-} && $state == ready ]]; then keep_logs; fi
  # Machines cost money: they are deleted even where the rest could not be.
  forget || say 'what belongs to the training could not be deleted'
  if [[ $state == absent ]]; then say "${FLAG[name]} is not there"; else provision delete; fi
}

# From anything to training; where it runs already, nothing but `create` is done.
launch() {
  local state
  verb_create
  state=$(training) || fail 'could not ask whether training runs'
  among "$state" running mixed && return
  install
  start
}

# Machines may be preempted while they are set up. Whatever else fails is for the user.
launch_in_spite_of_preemption() {
  until (launch); do
    among "$(provision state)" lost waiting || exit 1
    say 'preempted while being set up: once more'
  done
}

verb_run() {
  local state folder
  launch_in_spite_of_preemption
  if dry; then return; fi
  folder=$(log_folder) || fail 'could not make a folder for logs'
  say "training; the first host's log is copied to $folder"
  while true; do
    sleep "${FLAG[poll_seconds]}"
    # Whatever could not be asked is asked again: a connection may be down for hours.
    state=$(provision state) || state=unknown
    case $state in
      lost | failed)
        say 'preempted'
        launch_in_spite_of_preemption
        folder=$(log_folder) || fail 'could not make a folder for logs'
        continue
        ;;
      absent) fail "${FLAG[name]} was deleted" ;;
      ready) ;;
      *) continue ;;
    esac
    fetch_logs "$folder" first || true
    state=$(training) || state=unknown
    among "$state" ended failed stopped absent || continue
    fetch_logs "$folder" || true
    [[ $state != ended ]] || { say "training has ended; logs are in $folder" && return; }
    [[ $state != failed ]] || stop
    fail "training is $state; logs are in $folder"
  done
}

main() {
  parse "$@"
  check_flags
  # What a dry run prints may end up in a bug report: it never sees the values.
  if dry; then ENVIRONMENT=("${ENVIRONMENT[@]/=*/=...}"); fi
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  connect
  "verb_$VERB"
}
