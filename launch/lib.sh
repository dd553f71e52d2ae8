# shellcheck shell=bash
# What tpu_vm.sh and gke.sh share: flags, running or printing commands, wheel, logs; the verbs
# are in verbs.sh.

if ((BASH_VERSINFO[0] < 5)); then
  echo "${0##*/}: needs bash 5 or newer; on macOS: brew install bash" >&2
  exit 2
fi

VERBS=(create install start status logs stop run delete)
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Hosts come minutes apart, and one that is lost is started again.
# shellcheck disable=SC2034
MEET_SECONDS=600
declare -A FLAG=()
ENVIRONMENT=()
ARGUMENTS=()
# Commands are printed here, also from within $(…).
exec 3>&1

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

fail() {
  say "$@"
  exit 1
}

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

# Runs a command; with --dry-run prints it, and has no output.
attempt() {
  if dry; then
    printf '%s\n' "$(quoted "$@")" >&3
  else
    "$@"
  fi
}

# Ends the script where the command fails.
run() { attempt "$@" || fail "this command failed: $(quoted "$@")"; }

# With --dry-run, the content of a file that a printed command uses.
show() { if dry; then sed 's/^/    /' "$1" >&3; fi; }

# Sets VERB, FLAG, ENVIRONMENT and ARGUMENTS. A hyphen in a flag's name does for an
# underscore, so that gcloud's own names may be used.
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
        "and what is for hyperprompt after --"
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

add_environment() {
  [[ $1 =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] ||
    mistake '--env needs a name and a value: --env=NAME=VALUE'
  ENVIRONMENT+=("$1")
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

check_common_flags() {
  [[ ${FLAG[name]} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    mistake "--name=$(quoted "${FLAG[name]}") must be lower-case letters, digits and hyphens," \
      "40 at most, a letter first and no hyphen last"
  [[ ${FLAG[poll_seconds]:=60} =~ ^[0-9]{1,5}$ ]] ||
    mistake "--poll_seconds=$(quoted "${FLAG[poll_seconds]}") must be a whole number"
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
  if dry || [[ -n ${FLAG[yes]:-} ]]; then return; fi
  [[ -t 0 ]] || fail "$1 There is no terminal to ask on: add --yes"
  read -r -p "$1 [y/N] " answer || true
  among "$answer" y yes || fail 'nothing was deleted'
}

# Sets WHEEL. Built from a copy: a checkout may hold a build/ of other days, which would be
# packed, too.
build_wheel() {
  local parts=(setup.py pyproject.toml README.md hyperprompt_jax tasks gin)
  mkdir -p "$SCRATCH/source"
  run cp -R "${parts[@]/#/$ROOT/}" "$SCRATCH/source/"
  run python3 -m pip wheel --quiet --no-deps --wheel-dir="$SCRATCH" "$SCRATCH/source"
  # shellcheck disable=SC2034
  WHEEL=$(printf '%s\n' "$SCRATCH"/hyperprompt_jax-*.whl)
}

# A new folder for each life of the machines, so that no log replaces another.
log_folder() {
  local parent=${FLAG[output]:-launch_logs}
  if dry; then
    printf '%s\n' "$parent/${FLAG[name]}"
    return
  fi
  mkdir -p -- "$parent"
  # gcloud takes what stands before a colon for a host, except in absolute paths.
  mktemp -d "$(cd -- "$parent" && pwd)/${FLAG[name]}-$(date +%Y%m%d-%H%M%S)-XXXX"
}

keep_logs() {
  local folder
  folder=$(log_folder) || fail 'could not make a folder for logs'
  fetch_logs "$folder" || say 'some logs could not be fetched'
  say "logs are in $folder"
}
