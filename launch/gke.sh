#!/usr/bin/env bash
# HyperPrompt on a TPU slice of a GKE cluster, as a JobSet. docs/how_to/launch.md has more.
set -euo pipefail
# shellcheck source=launch/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=launch/verbs.sh
source "$ROOT/launch/verbs.sh"

USAGE='usage: launch/gke.sh VERB --name=NAME --cluster=CLUSTER --location=PLACE [flags]
         [-- flags of hyperprompt train]

  create    make a node pool for the slice and wait for it; a failed one is made again
  install   build the wheel and put it into the cluster; hosts install it as they start
  start     start hyperprompt train on all hosts, as a JobSet that restarts
  status    show the state of the node pool, and of training
  logs      follow the log of the first host; with --output, copy those of all
  stop      stop training, which saves a checkpoint; the node pool stays
  run       create, install, start and watch
  delete    copy the logs and delete training and node pool, after a question

  --name=NAME           the name of the node pool and of all objects in the cluster
  --cluster=CLUSTER     an existing cluster with the JobSet controller
  --location=PLACE      its region or zone
  --project=PROJECT     its project; otherwise that of gcloud config
  --machine_type=TYPE   such as ct4p-hightpu-4t; ends with the chips of a host (create,
                        start, run)
  --topology=TOPOLOGY   such as 2x2x2 (create, start, run)
  --accelerator=LABEL   such as tpu-v4-podslice (start, run)
  --image=IMAGE         an image with Python 3.11 or newer; otherwise python:3.12-slim
  --spot                get spot hosts, which are cheap and may be preempted
  --env=NAME            set a variable for training; its value is read from the
                        environment here and never printed; may be repeated
  --output=FOLDER       the folder for copies of logs; otherwise launch_logs
  --no-logs             let stop and delete copy no logs
  --poll_seconds=N      the time between two looks at the state; otherwise 60
  --patience=N          the number of looks in a row that may find an unclear state
                        before create or run gives up; otherwise 60
  --answer_seconds=N    the time that one question or one copy may take; a deletion
                        may take ten times as long; otherwise 300
  --delete-at-end       let run delete everything once training has ended or failed,
                        or could not be set up
  --yes                 delete without a question
  --dry-run             print the commands and run none

exit status: 0 success; 1 a failure, after which the same command may succeed;
  2 a mistake in the flags, or in those of training: do not repeat it unchanged;
  129, 130 or 143 after a hangup, Ctrl-C or SIGTERM'
VALUES=(
  name cluster location project machine_type topology accelerator image output poll_seconds
  patience answer_seconds
)
SWITCHES=(spot no_logs delete_at_end yes dry_run)
# The virtual environment in a pod; jobset.yaml names it too.
VENV=/hyperprompt/venv

check_flags() {
  require name cluster location
  if among "$VERB" create start run; then check_slice; fi
  if among "$VERB" start run; then check_pod; fi
  check_common_flags
  NAME=${FLAG[name]}
  PLACE=(--location="${FLAG[location]}")
  if [[ -n ${FLAG[project]:-} ]]; then PLACE+=(--project="${FLAG[project]}"); fi
  SPOT=()
  if [[ -n ${FLAG[spot]:-} ]]; then SPOT=(--spot); fi
}

# Both stand in jobset.yaml as they are.
check_pod() {
  require accelerator
  [[ ${FLAG[accelerator]} =~ ^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$ ]] ||
    mistake "--accelerator=$(quoted "${FLAG[accelerator]}") must be a label of GKE, such as" \
      "tpu-v4-podslice"
  [[ ${FLAG[image]:=python:3.12-slim} =~ ^[A-Za-z0-9][-A-Za-z0-9._/:@]{0,511}$ ]] ||
    mistake "--image=$(quoted "${FLAG[image]}") must be the name of an image, such as" \
      "python:3.12-slim"
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

# kubectl must address the cluster that was named, whatever it addressed before, and the user's
# own settings stay as they are.
connect() {
  export KUBECONFIG=$SCRATCH/kubeconfig
  # shellcheck disable=SC2034
  CONNECTED=
  ask gcloud container clusters get-credentials "${FLAG[cluster]}" "${PLACE[@]}" --quiet &&
    CONNECTED=yes
}

# To get machines in another way, replace this and `deletions`. The rest needs nodes with the
# label cloud.google.com/gke-nodepool=NAME.
provision() {
  local state kind topology=()
  case $1 in
    state)
      # `describe` would fail alike where there is no pool and where there is no answer.
      state=$(ask gcloud container node-pools list --cluster="${FLAG[cluster]}" \
        "${PLACE[@]}" --filter="name~^$NAME\$" --format='value(status)') || return
      case $state in
        '') kind=absent state=none ;;
        # GKE makes the nodes of a spot slice again by itself.
        RUNNING | RUNNING_WITH_ERROR | RECONCILING) kind=ready ;;
        ERROR) kind=failed ;;
        PROVISIONING) kind=queued ;;
        STOPPING) kind=changing ;;
        *) kind=unknown ;;
      esac
      echo "$kind $(excerpt "$state")"
      ;;
    make)
      # The topology of a single host follows from its machine type.
      if ((HOSTS > 1)); then topology=(--tpu-topology="${FLAG[topology]}"); fi
      # Without the scope, the hosts could only read MODEL_DIR on Cloud Storage.
      run gcloud container node-pools create "$NAME" --cluster="${FLAG[cluster]}" "${PLACE[@]}" \
        --machine-type="${FLAG[machine_type]}" --num-nodes="$HOSTS" "${topology[@]}" \
        --scopes=storage-full,gke-default "${SPOT[@]}"
      ;;
  esac
}

# shellcheck disable=SC2034
deletions() {
  MACHINES="the node pool $NAME"
  THINGS="the node pool $NAME, and the JobSet, the ConfigMap and the Secret $NAME"
  WHERE="cluster ${FLAG[cluster]}, location ${FLAG[location]}"
  DELETE_MACHINES=(
    gcloud container node-pools delete "$NAME" --cluster="${FLAG[cluster]}" "${PLACE[@]}" --quiet
  )
  REACH=(gcloud container clusters get-credentials "${FLAG[cluster]}" "${PLACE[@]}")
  DELETE_TRAINING=(
    kubectl delete 'jobset,configmap,secret' "$NAME" --ignore-not-found --wait=false
  )
}

install() {
  build_wheel
  run kubectl delete configmap "$NAME" --ignore-not-found
  run kubectl create configmap "$NAME" --from-file="$WHEEL" --from-file="$ROOT/constraints.txt"
}

# On these generations JAX sees one device for each chip; on others it may see two.
device_count() {
  case ${FLAG[accelerator]} in tpu-v[456]*) echo "--device_count=$CHIPS" ;; esac
}

start() {
  local name template
  run kubectl get configmap "$NAME" --output=name
  # An old JobSet that has ended has the same name.
  run kubectl delete jobset,secret "$NAME" --ignore-not-found
  # shellcheck disable=SC2046
  write_train_script "$VENV/bin/hyperprompt" \
    --meet_seconds="$MEET_SECONDS" $(device_count)
  run kubectl create secret generic "$NAME" --from-file="$SCRATCH/train.sh"
  template=$(<"$ROOT/launch/jobset.yaml")
  template=${template//@NAME@/"$NAME"}
  template=${template//@HOSTS@/"$HOSTS"}
  template=${template//@CHIPS_PER_HOST@/"$CHIPS_PER_HOST"}
  for name in topology accelerator image; do
    template=${template//"@${name^^}@"/"${FLAG[$name]}"}
  done
  printf '%s\n' "$template" >"$SCRATCH/jobset.yaml"
  show "$SCRATCH/jobset.yaml"
  run kubectl create --filename="$SCRATCH/jobset.yaml"
}

training() {
  local state
  state=$(ask kubectl get jobset "$NAME" --ignore-not-found \
    --output='jsonpath={.metadata.name} {.status.conditions[?(@.status=="True")].type}') || return
  case $state in
    '') echo absent ;;
    "$NAME "*Completed*) echo ended ;;
    "$NAME "*Failed*) echo failed ;;
    "$NAME "*) echo running ;;
    *) echo "unknown $(excerpt "$state")" ;;
  esac
}

show_training() { run kubectl get jobset,pods --selector="hyperprompt=$NAME" --output=wide; }

stop() { run kubectl delete jobset,secret "$NAME" --ignore-not-found; }

stream_logs() {
  attempt kubectl logs --follow --tail=100 --container=hyperprompt \
    --selector="hyperprompt=$NAME,batch.kubernetes.io/job-completion-index=0"
}

fetch_logs() {
  local selector="hyperprompt=$NAME" pods pod status=0 last
  if [[ ${2:-} == first ]]; then selector+=,batch.kubernetes.io/job-completion-index=0; fi
  pods=$(ask kubectl get pods --selector="$selector" --output=name) || return
  if dry; then attempt kubectl logs POD --container=hyperprompt; fi
  while read -r pod; do
    [[ $pod =~ ^pod/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$ ]] || continue
    last=0
    ask kubectl logs "$pod" --container=hyperprompt >"$1/${pod#pod/}.log" || last=$?
    if ((last)); then status=1; fi
    # The other pods would hardly answer either, and machines cost money meanwhile.
    if no_answer "$last"; then break; fi
  done <<<"$pods"
  return "$status"
}

main "$@"
