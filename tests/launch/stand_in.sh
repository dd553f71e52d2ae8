#!/usr/bin/env bash
# Stands in for gcloud, kubectl and the hosts behind them; links with those names lead here.
#
# The world is a folder, $WORLD:
#   calls      the commands that were run here
#   machines   the state of the slice or node pool; no file, no machines
#   hosts/N    a host's home folder; unit has its service's ActiveState and ExecMainStatus
#   jobset.yaml, train.sh, condition   the objects in the cluster
#   processes  if it is there, the words of all processes of this machine at each command
#   events     the events at the next looks at the machines' state, one a line
#   broken     words: a command that has one fails; after `once:` only the first time. After
#              `hang:` it does not end, and after `garbage:` it prints nonsense and succeeds
set -euo pipefail
NAME=${0##*/}
printf '%s\0' "$NAME" "$@" $'\1' >>"$WORLD/calls"
if [[ -e $WORLD/processes ]]; then cat /proc/[0-9]*/cmdline >>"$WORLD/processes" 2>/dev/null || true; fi

end() {
  echo "$NAME: $*" >&2
  exit 1
}

mapfile -t broken <"$WORLD/broken"
for line in "${broken[@]}"; do
  word=${line#*:}
  if [[ -z $word || "$*" != *"$word"* ]]; then continue; fi
  # shellcheck disable=SC2016
  case $line in
    once:*) : >"$WORLD/broken" && end broken ;;
    hang:*) exec sleep 60 ;;
    garbage:*) printf '<html>\na[$(touch evil)] 502 \e[31m\n' && exit 0 ;;
    *) end broken ;;
  esac
done

every_host() {
  local host
  for host in "$WORLD"/hosts/*; do printf '%s\n' "$1" >"$host/unit"; done
  printf '%s' "$2" >"$WORLD/condition"
}

happen() {
  case $1 in
    '') ;;
    preempt) echo SUSPENDED >"$WORLD/machines" && rm -r "$WORLD/hosts" ;;
    gone) rm "$WORLD/machines" ;;
    offline) end 'no connection' ;;
    machines=*) echo "${1#*=}" >"$WORLD/machines" ;;
    end) every_host 'inactive 0' Completed ;;
    mistake) every_host 'failed 2' Failed ;;
    crash) every_host 'activating 1' '' ;;
    crashes) every_host 'failed 1' Failed ;;
    stop) every_host 'failed 143' '' && rm -f "$WORLD/jobset.yaml" "$WORLD"/hosts/*/enabled ;;
    lose_unit) rm "$WORLD/hosts/1/hyperprompt.service" ;;
  esac
}

# Machines that were asked for are there at the look after the next.
look() {
  local events state=''
  mapfile -t events <"$WORLD/events"
  if ((${#events[@]})); then
    printf '%s\n' "${events[@]:1}" >"$WORLD/events"
    if ((${#events[@]} == 1)); then : >"$WORLD/events"; fi
    happen "${events[0]}"
  fi
  if [[ -e $WORLD/machines ]]; then state=$(<"$WORLD/machines"); fi
  echo "$state"
  if [[ $state == PROVISIONING ]]; then echo "$1" >"$WORLD/machines"; fi
}

make() {
  [[ ! -e $WORLD/machines ]] || end ALREADY_EXISTS
  echo PROVISIONING >"$WORLD/machines"
  mkdir -p "$WORLD/hosts/0" "$WORLD/hosts/1"
}

delete() {
  [[ -e $WORLD/machines ]] || end NOT_FOUND
  rm -rf "$WORLD/machines" "$WORLD/hosts"
}

# The value of --worker, --command and the like; `files` are the arguments that are no flags.
read_flags() {
  local word
  files=()
  for word; do
    case $word in
      --*=*) printf -v "flag_$(tr - _ <<<"${word%%=*}" | cut -c3-)" '%s' "${word#*=}" ;;
      --*) ;;
      *) files+=("$word") ;;
    esac
  done
}

ssh_to_hosts() {
  local host status=0
  [[ $(<"$WORLD/machines") == ACTIVE ]] || end 'no answer'
  for host in "$WORLD"/hosts/*; do
    [[ ${flag_worker:?} == all || $flag_worker == "${host##*/}" ]] || continue
    # As sshd does: a shell is handed one string.
    HOME=$host bash -c "${flag_command:?}" || status=$?
  done
  exit $status
}

scp_to_hosts() {
  local host target=${files[-1]}
  if [[ ${files[0]} == slice:* ]]; then
    cp "$WORLD/hosts/${flag_worker:?}/${files[0]#slice:}" "$target"
  else
    for host in "$WORLD"/hosts/*; do
      [[ ${flag_worker:?} == all || $flag_worker == "${host##*/}" ]] || continue
      cp -p "${files[@]::${#files[@]}-1}" "$host/${target#slice:}"
    done
  fi
}

gcloud() {
  case "$*" in
    'compute tpus queued-resources list '*) look ACTIVE ;;
    'container node-pools list '*) look RUNNING ;;
    'compute tpus queued-resources create slice '* | 'container node-pools create slice '*) make ;;
    'compute tpus queued-resources delete slice '*' --force --quiet') delete ;;
    'container node-pools delete slice '*' --quiet') delete ;;
    'compute tpus tpu-vm describe slice '*) echo 2 ;;
    'compute tpus tpu-vm ssh slice '*) read_flags "$@" && ssh_to_hosts ;;
    'compute tpus tpu-vm scp '*) read_flags "${@:5}" && scp_to_hosts ;;
    'container clusters get-credentials '*) : >"$KUBECONFIG" ;;
    'config get-value project') echo default-project ;;
    *) end "there is no $*" ;;
  esac
}

kubectl() {
  [[ -e $KUBECONFIG ]] || end 'no cluster'
  case "$*" in
    'get jobset slice '*) [[ ! -e $WORLD/jobset.yaml ]] || echo "slice $(<"$WORLD/condition")" ;;
    'get pods '*job-completion-index=0*) echo pod/slice-slice-0-0-xyz ;;
    'get pods '*) printf 'pod/slice-slice-0-%s-xyz\n' 0 1 ;;
    'get '*) ;;
    'logs '*) echo 'step 1' ;;
    'create --filename='*) cp "${2#*=}" "$WORLD/jobset.yaml" && : >"$WORLD/condition" ;;
    'create secret generic slice --from-file='*) cp -p "${5#*=}" "$WORLD/train.sh" ;;
    'delete jobset,'*' slice --ignore-not-found'*) rm -f "$WORLD/jobset.yaml" "$WORLD/train.sh" ;;
    'create configmap slice '* | 'delete configmap slice --ignore-not-found') ;;
    *) end "there is no $*" ;;
  esac
}

# From here on HOME is a host's.
systemctl() {
  local unit='inactive 0' loaded=not-found
  case "$*" in
    'show hyperprompt '*)
      if [[ -e ~/unit ]]; then unit=$(<~/unit); fi
      if [[ -e ~/hyperprompt.service ]]; then loaded=loaded; fi
      printf 'ExecMainStatus=%s\nLoadState=%s\nActiveState=%s\n' "${unit#* }" $loaded "${unit% *}"
      ;;
    'is-enabled '*) [[ -e ~/enabled ]] ;;
    'enable --quiet --now hyperprompt')
      echo "started on ${HOME##*/}" >>~/hyperprompt/train.log
      echo 'active 0' >~/unit && touch ~/enabled
      ;;
    'disable --quiet --now hyperprompt') echo 'failed 143' >~/unit && rm ~/enabled ;;
    daemon-reload | 'reset-failed hyperprompt') ;;
    *) end "there is no $*" ;;
  esac
}

sudo() {
  case "$*" in
    'tee /etc/systemd/system/hyperprompt.service') cat >~/hyperprompt.service ;;
    systemctl*) "$@" ;;
    *) end "there is no $*" ;;
  esac
}

python3() {
  case "$*" in
    '-m pip wheel '*)
      read_flags "$@"
      echo 'a wheel' >"${flag_wheel_dir:?}/hyperprompt_jax-0.1.0-py3-none-any.whl"
      ;;
    '-m uv pip install '*)
      # Keeps its arguments, for the tests of quoting.
      mkdir -p venv/bin
      # shellcheck disable=SC2016
      printf '#!/bin/sh\nprintf "%%s\\0" "$VALUE" "$@" >"$HOME/given"\n' >venv/bin/hyperprompt
      chmod +x venv/bin/hyperprompt
      ;;
    '-m '*) ;;
    *) "$PYTHON" -S "$@" ;;
  esac
}

tail() { cat "${@: -1}"; }

"$NAME" "$@"
