#!/usr/bin/env bash
# HyperPrompt on a TPU slice of a GKE cluster, as a JobSet. docs/launch.md has more.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=launch/verbs.sh
source "$ROOT/launch/verbs.sh"

USAGE='usage: launch/gke.sh VERB --name=NAME --cluster=CLUSTER --location=PLACE [flags]
         [-- flags of hyperprompt train]

  create    make a node pool for the slice, and wait for it; one that failed is made again
  install   build the wheel and put it in the cluster; hosts install it as they start
  start     start hyperprompt train on all hosts, as a JobSet that is started again
  status    the state of the node pool, and of training
  logs      follow the log of the first host; with --output, copy those of all
  stop      stop training, which saves a checkpoint; the node pool stays
  run       create, install, start and watch
  delete    delete training and node pool, after asking; logs are copied first

  --name=NAME           of node pool, JobSet and ConfigMap
  --cluster=CLUSTER     an existing cluster with the JobSet controller
  --location=PLACE      its region or zone
  --project=PROJECT     otherwise that of gcloud config
  --machine_type=TYPE   such as ct4p-hightpu-4t; ends with the chips of a host (create, start, run)
  --topology=TOPOLOGY   such as 2x2x2 (create, start, run)
  --accelerator=LABEL   such as tpu-v4-podslice (start, run)
  --image=IMAGE         with Python 3.11 or newer; otherwise python:3.12-slim
  --spot                spot hosts: cheap, and preempted at any time
  --env=NAME=VALUE      set for training; may be given several times; never printed
  --output=FOLDER       where logs are copied to; otherwise launch_logs
  --no-logs             stop and delete do not copy logs
  --poll_seconds=N      between two looks at the state; otherwise 60
  --yes                 delete does not ask
  --dry-run             print the commands, run none'
VALUES=(name cluster location project machine_type topology accelerator image output poll_seconds)
SWITCHES=(spot no_logs yes dry_run)

check_flags() {
  require name cluster location
  if among "$VERB" create start run; then check_slice; fi
  if among "$VERB" start run; then require accelerator; fi
  check_common_flags
  NAME=${FLAG[name]}
  PLACE=(--location="${FLAG[location]}")
  if [[ -n ${FLAG[project]:-} ]]; then PLACE+=(--project="${FLAG[project]}"); fi
  SPOT=()
  if [[ -n ${FLAG[spot]:-} ]]; then SPOT=(--spot); fi
}

# Sets CHIPS, CHIPS_PER_HOST and HOSTS.
check_slice() {
  local sides
  require machine_type topology
  [[ ${FLAG[machine_type]} =~ -([1-9])t$ ]] ||
    mistake "--machine_type=$(quoted "${FLAG[machine_type]}") must end with the chips of a" \
      "host, such as -4t"
  CHIPS_PER_HOST=${BASH_REMATCH[1]}
  [[ ${FLAG[topology]} =~ ^[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}$ ]] ||
    mistake "--topology=$(quoted "${FLAG[topology]}") must be two or three numbers," \
      "such as 4x4 or 2x2x4"
  sides=${FLAG[topology]}
  CHIPS=$((${sides//x/*}))
  ((CHIPS % CHIPS_PER_HOST == 0)) ||
    mistake "--topology=$sides has $CHIPS chips, which hosts of $CHIPS_PER_HOST do not divide"
  HOSTS=$((CHIPS / CHIPS_PER_HOST))
}

# kubectl must address the cluster that was named, whatever it did last, and leave the user's
# own settings alone.
connect() {
  export KUBECONFIG=$SCRATCH/kubeconfig
  run gcloud container clusters get-credentials "${FLAG[cluster]}" "${PLACE[@]}" --quiet
}

# To get machines in another way, replace this. The rest needs nodes with the label
# cloud.google.com/gke-nodepool=NAME.
provision() {
  local state topology=()
  case $1 in
    state)
      # Not `describe`, which fails alike where there is none and where it cannot tell.
      state=$(attempt gcloud container node-pools list --cluster="${FLAG[cluster]}" \
        "${PLACE[@]}" --filter="name~^$NAME\$" --format='value(status)') || return
      case $state in
        '') echo absent ;;
        # GKE makes the nodes of a spot slice again by itself.
        RUNNING | RUNNING_WITH_ERROR | RECONCILING) echo ready ;;
        ERROR) echo failed ;;
        *) echo waiting ;;
      esac
      ;;
    make)
      # The topology of a single host follows from its machine type.
      if ((HOSTS > 1)); then topology=(--tpu-topology="${FLAG[topology]}"); fi
      # Without the scope, MODEL_DIR on Cloud Storage can be read alone.
      run gcloud container node-pools create "$NAME" --cluster="${FLAG[cluster]}" "${PLACE[@]}" \
        --machine-type="${FLAG[machine_type]}" --num-nodes="$HOSTS" "${topology[@]}" \
        --scopes=storage-full,gke-default "${SPOT[@]}"
      ;;
    delete)
      run gcloud container node-pools delete "$NAME" --cluster="${FLAG[cluster]}" \
        "${PLACE[@]}" --quiet
      ;;
  esac
}

install() {
  build_wheel
  run kubectl delete configmap "$NAME" --ignore-not-found
  run kubectl create configmap "$NAME" --from-file="$WHEEL" --from-file="$ROOT/constraints.txt"
}

# JAX sees one device to a chip of these; of others it may see two.
device_count() {
  case ${FLAG[accelerator]} in tpu-v[456]*) echo "--device_count=$CHIPS" ;; esac
}

start() {
  run kubectl get configmap "$NAME" --output=name
  # One that has ended would be in the way.
  run kubectl delete jobset "$NAME" --ignore-not-found
  # The environment may hold secrets, and other users see the arguments of a program.
  # shellcheck disable=SC2046
  (
    umask 077
    printf '%s\0' "${ENVIRONMENT[@]}" | python3 "$ROOT/launch/jobset.py" --name="$NAME" \
      --hosts="$HOSTS" --chips_per_host="$CHIPS_PER_HOST" --topology="${FLAG[topology]}" \
      --accelerator="${FLAG[accelerator]}" --image="${FLAG[image]:-python:3.12-slim}" \
      "${SPOT[@]}" -- --meet_seconds="$MEET_SECONDS" $(device_count) "${ARGUMENTS[@]}" \
      >"$SCRATCH/jobset.json"
  ) || fail 'could not write the JobSet'
  show "$SCRATCH/jobset.json"
  run kubectl create --filename="$SCRATCH/jobset.json"
}

training() {
  local state
  state=$(attempt kubectl get jobset "$NAME" --ignore-not-found \
    --output='jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}') || return
  case $state in
    '') echo absent ;;
    *' Completed'*) echo ended ;;
    *' Failed'*) echo failed ;;
    *) echo running ;;
  esac
}

show_training() { run kubectl get jobset,pods --selector="hyperprompt=$NAME" --output=wide; }

stop() { run kubectl delete jobset "$NAME" --ignore-not-found; }

stream_logs() {
  run kubectl logs --follow --tail=100 --container=hyperprompt \
    --selector="hyperprompt=$NAME,batch.kubernetes.io/job-completion-index=0"
}

fetch_logs() {
  local selector="hyperprompt=$NAME" pods pod status=0
  if [[ ${2:-} == first ]]; then selector+=,batch.kubernetes.io/job-completion-index=0; fi
  pods=$(attempt kubectl get pods --selector="$selector" --output=name) || return
  if dry; then attempt kubectl logs POD --container=hyperprompt; fi
  for pod in $pods; do
    kubectl logs "$pod" --container=hyperprompt >"$1/${pod#pod/}.log" || status=1
  done
  return $status
}

forget() {
  attempt kubectl delete jobset,configmap "$NAME" --ignore-not-found
}

main "$@"
