# shellcheck shell=bash
# The verbs of tpu_vm.sh and gke.sh.
#
# A script sets VALUES and SWITCHES (its flags) and USAGE, and defines
#   check_flags              ends with a mistake if the flags do not suit the verb
#   connect                  makes the machines reachable, and sets CONNECTED
#   provision state|make     the only function that knows how to get machines. `state` prints
#                            one kind and the provider's own word for it:
#                              absent, ready, lost (preempted), failed
#                              queued    it may take hours, and ends without us
#                              changing  it takes minutes, such as a deletion
#                              unknown   a word that this script does not know
#   deletions                sets MACHINES, THINGS and WHERE (words for people), and the
#                            commands DELETE_MACHINES and, where training has objects beside
#                            the machines, REACH and DELETE_TRAINING
#   install, start, stop     on all hosts of the slice
#   training                 prints absent, running, ended, failed (it will not be started
#                            again), stopped, mixed or unknown; details may follow
#   show_training            the same for people, host by host
#   stream_logs
#   fetch_logs FOLDER [first]  of all hosts, or of the first alone

# Prints the state of the machines; with --dry-run, which asks nothing, prints $1.
machines() {
  local state
  state=$(provision state) || return
  if dry; then state=$1; fi
  echo "$state"
}

# How to find out more about machines that do not become ready.
ADVICE='the web console of Google Cloud says why'

verb_create() {
  local state failures=0 looks=0 asked=
  while true; do
    if ! state=$(machines absent); then
      [[ -n $asked ]] || fail "could not ask for the state of ${FLAG[name]}"
      state='unknown no answer'
    fi
    asked=yes
    case $state in
      changing* | unknown*)
        say_once "${FLAG[name]} is in the state ${state#* }: waiting for" \
          "${FLAG[patience]} looks"
        ((++looks <= FLAG[patience])) ||
          fail "${FLAG[name]} is still in the state ${state#* }; $ADVICE"
        ;;
      *) looks=0 ;;
    esac
    case $state in
      ready*) say "${FLAG[name]} is ready" && return ;;
      queued*) say_once "${FLAG[name]} is not ready yet: ${state#* }" ;;
      absent*)
        ((++failures <= 3)) || fail "${FLAG[name]} was made three times and is not there; $ADVICE"
        provision make
        ;;
      lost* | failed*)
        [[ $state == lost* ]] || ((++failures <= 3)) ||
          fail "${FLAG[name]} failed three times; $ADVICE"
        say "${FLAG[name]} is $state: it is deleted and made again"
        deletions
        run "${DELETE_MACHINES[@]}"
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
    running*) say 'training runs already; nothing was changed' ;;
    mixed* | failed*running*)
      fail "training runs on some hosts only ${state#* }: stop it, then start it"
      ;;
    unknown*) fail "the state of training is unclear: ${state#* }" ;;
    *) start ;;
  esac
}

verb_status() {
  local state
  state=$(machines ready) || fail "could not ask for the state of ${FLAG[name]}"
  echo "machines: $state"
  if [[ $state == ready* ]]; then show_training; fi
}

verb_logs() { if [[ -n ${FLAG[output]:-} ]]; then keep_logs; else stream_logs; fi; }

verb_stop() {
  if [[ -z ${FLAG[no_logs]:-} ]]; then (keep_logs) || say 'no logs are kept'; fi
  stop
}

# Names the project for the question, and keeps to it, whatever gcloud's settings become.
settle_project() {
  PROJECT=${FLAG[project]:-}
  if [[ -n $PROJECT ]]; then return; fi
  PROJECT=$(ask gcloud config get-value project) || PROJECT=
  if [[ $PROJECT =~ ^[a-z][-a-z0-9.:]{0,99}$ ]]; then
    PLACE+=(--project="$PROJECT")
  else
    PROJECT='of gcloud config (which could not be read)'
  fi
}

# Tries to delete everything, and each part even where another could not be deleted. The
# objects of training come first, as that takes seconds. $1 is the state of the machines.
delete_all() {
  local done=yes
  if ((${#DELETE_TRAINING[@]})); then
    if { [[ -n $CONNECTED ]] || connect; } && ask "${DELETE_TRAINING[@]}"; then
      LEFT_TRAINING=
    else
      done=
    fi
  fi
  if [[ $1 == absent* ]]; then
    say "${FLAG[name]} is not there"
    LEFT_MACHINES=
  elif (run "${DELETE_MACHINES[@]}"); then
    LEFT_MACHINES=
  else
    done=
  fi
  [[ -n $done ]] || fail 'not everything was deleted'
  dry || say 'everything was deleted'
}

verb_delete() {
  local state
  settle_project
  deletions
  confirm "Delete $THINGS, $WHERE, project $PROJECT?"
  if ! dry; then
    LEFT_MACHINES="not deleted: $MACHINES; this deletes them: $(quoted "${DELETE_MACHINES[@]}")"
    if ((${#DELETE_TRAINING[@]})); then
      LEFT_TRAINING="not deleted: the objects of training; this deletes them:"
      LEFT_TRAINING+=" $(quoted "${REACH[@]}") && $(quoted "${DELETE_TRAINING[@]}")"
    fi
  fi
  connect || say 'the machines cannot be reached; they are deleted all the same'
  state=$(machines ready) || state='unknown no answer'
  if [[ -z ${FLAG[no_logs]:-} && $state == @(ready|unknown)* ]]; then
    (keep_logs) || say 'no logs are kept'
  fi
  delete_all "$state"
}

# Prints the state of training once it is clear: new machines may not answer at once.
clear_training() {
  local state looks=0
  while true; do
    state=$(training) || state='unknown no answer'
    if [[ $state != unknown* ]]; then
      echo "$state"
      return
    fi
    say_once "the state of training is unclear: ${state#* }"
    ((++looks <= FLAG[patience])) || fail "it was so for ${FLAG[patience]} looks"
    [[ $(machines ready) != lost* ]] || fail 'the machines were preempted'
    sleep "${FLAG[poll_seconds]}"
  done
}

# The status of `launch` if training may run.
UNCLEAR=3

# Leads from any state to training. Where training runs already, only `create` is done.
launch() {
  local state
  verb_create
  state=$(clear_training) || exit $UNCLEAR
  among "${state%% *}" running mixed && return
  install
  start
}

# Machines may be preempted while they are set up. Any other failure ends `run`.
set_up() {
  local state status
  while true; do
    status=0
    (launch) || status=$?
    if ((!status)); then return; fi
    state=$(machines ready) || state='unknown no answer'
    if ! among "${state%% *}" lost queued; then
      say "${FLAG[name]} could not be set up; its state is ${state#* }"
      if ((status == UNCLEAR)); then exit 1; fi
      end_run "$status"
    fi
    say 'preempted while being set up: once more'
  done
}

# Ends `run` with status $1, and deletes the machines first where the user asked for it.
end_run() {
  local status=$1
  if [[ -n ${FLAG[delete_at_end]:-} ]]; then
    (delete_all ready) || exit $((status ? status : 1))
    LEFT_MACHINES='' LEFT_TRAINING=''
  fi
  exit "$status"
}

# The command of this script that deletes the machines.
deletion_hint() {
  local name words=("$0" delete)
  for name in name zone cluster location project; do
    if [[ -n ${FLAG[$name]:-} ]]; then words+=("--$name=${FLAG[$name]}"); fi
  done
  quoted "${words[@]}"
}

verb_run() {
  deletions
  if ! dry; then
    LEFT_MACHINES="$MACHINES may be on, and then cost money; this deletes them:"
    LEFT_MACHINES+=" $(deletion_hint)"
  fi
  connect || fail 'the machines cannot be reached'
  set_up
  if ! dry; then watch; fi
}

# Watches until training has ended, and sets the machines up again after a preemption.
watch() {
  local state folder looks=0 failures=0
  folder=$(log_folder) || fail 'could not make a folder for logs'
  say "training; the log of the first host is copied to $folder"
  while true; do
    sleep "${FLAG[poll_seconds]}"
    state=$(machines ready) || state='unknown no answer'
    case $state in
      lost* | failed*)
        [[ $state == lost* ]] || ((++failures <= 3)) ||
          fail "${FLAG[name]} failed three times; $ADVICE"
        say "${FLAG[name]} is $state: it is set up again"
        set_up
        folder=$(log_folder) || fail 'could not make a folder for logs'
        looks=0
        continue
        ;;
      absent*)
        LEFT_MACHINES='' LEFT_TRAINING=''
        fail "${FLAG[name]} was deleted"
        ;;
      ready*)
        fetch_logs "$folder" first || true
        state=$(training) || state='unclear: the hosts do not answer'
        ;;
      *) state="unclear: the state of ${FLAG[name]} is ${state#* }" ;;
    esac
    case $state in
      running*) looks=0 ;;
      ended* | failed* | stopped* | absent*) finish "$state" "$folder" ;;
      *)
        say_once "training is $state; waiting for ${FLAG[patience]} looks"
        ((++looks <= FLAG[patience])) ||
          fail "training is $state, and was for ${FLAG[patience]} looks: status and logs" \
            'say more; after stop, run starts it again'
        ;;
    esac
  done
}

# Ends `run` when training has ended, in whatever way. $1 is the state, $2 the folder of logs.
finish() {
  fetch_logs "$2" || true
  case $1 in
    ended*)
      say "training has ended; logs are in $2"
      end_run 0
      ;;
    failed*)
      # The other hosts would wait for those that failed.
      (stop) || say 'training could not be stopped on all hosts'
      say "training is $1, and fails again if nothing is changed; logs are in $2"
      end_run 2
      ;;
    *)
      say "training is $1; logs are in $2"
      end_run 1
      ;;
  esac
}

main() {
  parse "$@"
  check_flags
  # A bug report may show the output of a dry run, so that it never sees the values.
  if dry; then ENVIRONMENT=("${ENVIRONMENT[@]/=*/=...}"); fi
  # shellcheck disable=SC2034
  SCRATCH=$(mktemp -d)
  trap at_exit EXIT
  on_signals ''
  if ! among "$VERB" delete run; then connect || fail 'the machines cannot be reached'; fi
  "verb_$VERB"
}
