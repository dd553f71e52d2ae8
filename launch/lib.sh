# shellcheck shell=bash
# Functions that tpu_vm.sh and gke.sh share: flags, commands, train.sh, the wheel and logs.
# The verbs are in verbs.sh.

if ((BASH_VERSINFO[0] < 5)); then
  echo "${0##*/}: needs bash 5 or newer; on macOS: brew install bash" >&2
  exit 2
fi
if ! command -v timeout >/dev/null; then
  echo "${0##*/}: needs the command timeout; on macOS: brew install coreutils" >&2
  exit 2
fi
# With CDPATH, `cd` may enter another folder, and prints its name.
unset CDPATH
# The environment of the caller, before this script assigns variables of the same names.
declare -A CALLER=()
while IFS= read -r -d '' entry; do
  CALLER["${entry%%=*}"]=${entry#*=}
done < <(env -0)

VERBS=(create install start status logs stop run delete)
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Hosts start minutes apart, and a lost host is started again.
# shellcheck disable=SC2034
MEET_SECONDS=600
declare -A FLAG=()
ENVIRONMENT=()
ARGUMENTS=()
# Messages about things that may still exist and cost money, with the command that deletes
# them; see at_exit.
LEFT_MACHINES=
LEFT_TRAINING=
# shellcheck disable=SC2034
{
  # The commands that a script sets in `deletions`, and whether `connect` succeeded.
  DELETE_TRAINING=()
  REACH=()
  CONNECTED=
}
LAST_MESSAGE=
# A dry run prints commands here, also from within $(…).
exec 3>&1

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# Repeats no message: a loop calls it at every look.
say_once() {
  if [[ $* != "$LAST_MESSAGE" ]]; then say "$@"; fi
  LAST_MESSAGE=$*
}

# Exit status 1: the same command may succeed later.
fail() {
  say "$@"
  exit 1
}

# Exit status 2: the same command will fail again.
mistake() {
  say "$@"
  exit 2
}

among() {
  local word=$1 other
  shift
  for other; do [[ $word == "$other" ]] && return; done
  return 1
}

quoted() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

dry() { [[ -n ${FLAG[dry_run]:-} ]]; }

# Runs a command. With --dry-run, prints the command and has no output.
attempt() {
  if dry; then
    printf '%s\n' "$(quoted "$@")" >&3
  else
    "$@"
  fi
}

# Ends this shell on a signal, after the commands in $1.
on_signals() {
  # shellcheck disable=SC2064
  {
    trap "$1 exit 129" HUP
    trap "$1 exit 130" INT
    trap "$1 exit 143" TERM
  }
}

# Runs a command that must end within $1 seconds. It gets no input: nothing may wait for a
# person. It runs in the background, as a signal would else have to wait for its end.
limited() {
  local seconds=$1 status=0 child
  shift
  if dry; then
    attempt "$@"
    return
  fi
  timeout --kill-after=10 "$seconds" "$@" </dev/null &
  child=$!
  on_signals "kill $child 2>/dev/null || true;"
  wait "$child" || status=$?
  on_signals ''
  if no_answer "$status"; then
    say "no answer within $seconds seconds: $(quoted "${@:1:6}")"
  fi
  return "$status"
}

# Whether a status of `limited` says that the time was over.
no_answer() { (($1 == 124 || $1 == 137)); }

# Runs a command that answers a question or copies a file.
ask() { limited "${FLAG[answer_seconds]}" "$@"; }

# Runs a command that changes something, which takes longer. Ends the script if it fails.
run() {
  limited $((10 * FLAG[answer_seconds])) "$@" || fail "this command failed: $(quoted "$@")"
}

# Text from another program, fit for one line of a message.
excerpt() { quoted "${1:0:60}"; }

# With --dry-run, prints the content of a file that a printed command uses.
show() { if dry; then sed 's/^/    /' "$1" >&3; fi; }

# Sets VERB, FLAG, ENVIRONMENT and ARGUMENTS. Hyphens may replace the underscores of a flag,
# as gcloud's own flags have hyphens.
parse() {
  local word name
  among "${1:-}" --help help && usage
  (($#)) || mistake "name a verb: ${VERBS[*]}; --help says more"
  among "$1" "${VERBS[@]}" || mistake "there is no verb $(quoted "$1"); there are ${VERBS[*]}"
  VERB=$1
  shift
  while (($#)); do
    word=$1
    shift
    name=${word%%=*} name=${name#--} name=${name//-/_}
    if [[ $word == -- ]]; then
      ARGUMENTS=("$@")
      break
    elif [[ $word == --help ]]; then
      usage
    elif [[ $word != --* ]]; then
      mistake "$(quoted "$word") is no flag: write --name=VALUE," \
        "and the flags of hyperprompt train after --"
    elif among "$name" "${SWITCHES[@]}"; then
      [[ $word != *=* ]] || mistake "--$name takes no value: leave out =…"
      FLAG[$name]=yes
    elif ! among "$name" "${VALUES[@]}" env; then
      mistake "there is no flag $(quoted "${word%%=*}"); --help lists those of this script"
    elif [[ $word != *=?* ]]; then
      mistake "--$name needs a value: write --$name=VALUE"
    elif [[ $name == env ]]; then
      add_environment "${word#*=}"
    else
      FLAG[$name]=${word#*=}
    fi
  done
}

# Other users of this machine see the arguments of this script, so they hold no value.
add_environment() {
  local name=${1%%=*}
  [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
    mistake '--env needs the name of a variable that is exported here: --env=NAME'
  [[ $1 != *=* ]] ||
    mistake "--env=$name=… would show the value to every user of this machine: export" \
      "$name, and write --env=$name"
  [[ -v CALLER["$name"] ]] ||
    mistake "--env=$name: there is no such variable here: export $name first"
  ENVIRONMENT+=("$name=${CALLER["$name"]}")
}

usage() {
  printf '%s\n' "$USAGE"
  exit 0
}

require() {
  local name
  for name; do
    [[ -n ${FLAG[$name]:-} ]] || mistake "$VERB needs --$name=VALUE; --help says what it is"
  done
}

# Gives a flag its default value, and checks it.
check_number() {
  local value=${FLAG[$1]:=$2}
  [[ $value =~ $3 ]] ||
    mistake "--$1=$(quoted "$value") must be a whole number of at most five digits," \
      "such as $2"
}

check_common_flags() {
  [[ ${FLAG[name]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    mistake "--name=$(quoted "${FLAG[name]}") must be lower-case letters, digits and hyphens," \
      "at most 40, with a letter first and no hyphen last"
  check_number poll_seconds 60 '^[0-9]{1,5}$'
  check_number answer_seconds 300 '^[1-9][0-9]{0,4}$'
  check_number patience 60 '^[1-9][0-9]{0,4}$'
  if among "$VERB" start run; then
    ((${#ARGUMENTS[@]})) || mistake "$VERB needs the arguments of hyperprompt train after --"
    [[ ${ARGUMENTS[0]} == -* ]] ||
      mistake "after -- come the flags of hyperprompt train, without $(quoted "${ARGUMENTS[0]}")"
  else
    ((!${#ARGUMENTS[@]})) ||
      mistake "$VERB takes no arguments of hyperprompt: leave out -- and what follows"
  fi
}

confirm() {
  local answer
  if dry; then return; fi
  if [[ -n ${FLAG[yes]:-} ]]; then
    say "$1 Yes, as --yes was given"
    return
  fi
  [[ -t 0 ]] || fail "$1 There is no terminal to ask on: add --yes"
  read -r -p "$1 [y/N] " answer || true
  among "$answer" y yes || fail 'nothing was deleted'
}

# Prints words as a POSIX shell reads them, with a space before each.
literal() {
  local word
  for word; do printf " '%s'" "${word//\'/\'\\\'\'}"; done
}

# Writes the script that a host runs; $1 is its `hyperprompt` command, and the rest are
# arguments before the user's. It holds the environment, which may be secret: only its owner
# may read it.
write_train_script() {
  local entry
  (
    umask 077
    {
      echo '#!/bin/sh'
      for entry in PYTHONUNBUFFERED=1 "${ENVIRONMENT[@]}"; do
        printf 'export%s\n' "$(literal "$entry")"
      done
      printf 'exec %s train%s\n' "$1" "$(literal "${@:2}" "${ARGUMENTS[@]}")"
    } >"$SCRATCH/train.sh"
  ) || fail 'could not write train.sh'
  show "$SCRATCH/train.sh"
}

# Sets WHEEL. It is built from a copy, as a checkout may hold an old build/, which would be
# packed too.
build_wheel() {
  local parts=(setup.py pyproject.toml README.md LICENSE hyperprompt_jax tasks gin)
  mkdir -p "$SCRATCH/source"
  run cp -R "${parts[@]/#/$ROOT/}" "$SCRATCH/source/"
  run python3 -m pip wheel --quiet --no-deps --wheel-dir="$SCRATCH" "$SCRATCH/source"
  # shellcheck disable=SC2034
  WHEEL=$(printf '%s\n' "$SCRATCH"/hyperprompt_jax-*.whl)
}

# Makes a new folder for each life of the machines, so that no log replaces another.
log_folder() {
  local parent=${FLAG[output]:-launch_logs}
  if dry; then
    printf '%s\n' "$parent/${FLAG[name]}"
    return
  fi
  mkdir -p -- "$parent" || return
  # gcloud takes the text before a colon for a host, except in absolute paths.
  mktemp -d "$(cd -- "$parent" && pwd)/${FLAG[name]}-$(date +%Y%m%d-%H%M%S)-XXXX"
}

keep_logs() {
  local folder
  folder=$(log_folder) || fail 'could not make a folder for logs'
  fetch_logs "$folder" || say 'some logs could not be fetched'
  say "logs are in $folder"
}

# Says which things may still exist and cost money, whatever ended the script.
at_exit() {
  local status=$? message
  trap '' INT TERM HUP
  for message in "$LEFT_TRAINING" "$LEFT_MACHINES"; do
    if [[ -n $message ]]; then say "$message"; fi
  done
  rm -rf "$SCRATCH"
  exit "$status"
}
