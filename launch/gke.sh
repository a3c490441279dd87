#!/usr/bin/env bash
# Runs a recipe on a slice of TPUs in Google Kubernetes Engine; see launch/gke.yaml.
#
#     launch/gke.sh start [--run=ID] --image=IMAGE --accelerator=tpu-v5p-slice --topology=4x4x4 \
#         --bucket=NAME [--chips-per-host=4] [--service-account=default] [--namespace=default] \
#         [--spot] [--restarts=100] [--keep] [--runs=runs] [--dry-run] \
#         -- --config=configs/fashion_resnet18.py
#     launch/gke.sh logs --run=ID [--namespace=NAME]
#     launch/gke.sh stop --run=ID [--namespace=NAME]
#
# The image is that of launch/Dockerfile. Everything of a run is in gs://NAME/runs/ID, a bucket with
# a hierarchical namespace, which every pod mounts; `start` with the same ID goes on there. The
# cluster starts all pods anew when they were preempted (75) or a node was lost, and ends the run at
# any other exit code. `start` prints the first pod's log, and writes it to RUNS/ID/launch.log,
# until the run ends, and deletes the JobSet then, unless --keep; Ctrl-C leaves the run alone. A dry
# run prints the YAML and the commands.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/steps.sh
source "$here/steps.sh"

usage="start, logs or stop; read the top of launch/gke.sh"
(($#)) || fail "no command: $usage"
command=$1
shift

id='' image='' accelerator='' topology='' bucket='' chips=4 account=default namespace=default
restarts=100 runs=runs keep=false spot=false
while (($#)); do
    case $1 in
        --run=*) id=${1#*=} ;;
        --image=*) image=${1#*=} ;;
        --accelerator=*) accelerator=${1#*=} ;;
        --topology=*) topology=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
        --chips-per-host=*) chips=${1#*=} ;;
        --service-account=*) account=${1#*=} ;;
        --namespace=*) namespace=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --runs=*) runs=${1#*=} ;;
        --spot) spot=true ;;
        --keep) keep=true ;;
        --dry-run) dry_run=true ;;
        --)
            shift
            break
            ;;
        *) fail "unknown option $1: $usage" ;;
    esac
    shift
done

readonly PORT=8476
poll=${SLIM_POLL_SECONDS:-10}

cluster() {
    run kubectl "--namespace=$namespace" "$@"
}

# json_list WORDS...: a JSON array of strings, which is YAML too.
json_list() {
    local word list=''
    for word in "$@"; do
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        list+=", \"$word\""
    done
    echo "[${list#, }]"
}

# manifest HOSTS ARGUMENTS...: launch/gke.yaml, filled in.
manifest() {
    local hosts=$1 text name
    shift
    # What Kubernetes puts in for $(JOB_INDEX) is each pod's own.
    local arguments=("$@" "--workdir=/bucket/runs/$id")
    if ((hosts > 1)); then
        # shellcheck disable=SC2016
        arguments+=("--coordinator=$id-workers-0-0.$id:$PORT" "--num_processes=$hosts"
            '--process_id=$(JOB_INDEX)')
    fi
    local -A values=(
        [RUN]=$id [RESTARTS]=$restarts [HOSTS]=$hosts [CHIPS]=$chips [IMAGE]=$image
        [ACCELERATOR]=$accelerator [TOPOLOGY]=$topology [BUCKET]=$bucket
        [SERVICE_ACCOUNT]=$account [SPOT]=true
    )
    text=$(<"$here/gke.yaml")
    "$spot" || text=$(grep -v 'gke-spot' <<<"$text")
    for name in "${!values[@]}"; do
        text=${text//"__${name}__"/"${values[$name]}"}
    done
    echo "${text//__ARGUMENTS__/"$(json_list "${arguments[@]}")"}"
}

# ended: Completed or Failed, or nothing while the run goes on.
ended() {
    cluster get jobset "$id" -o 'jsonpath={.status.terminalState}'
}

# restarts: how often all pods were started anew.
restarted() {
    cluster get jobset "$id" -o 'jsonpath={.status.restarts}'
}

# follow: prints the first pod's log, over all restarts, until the run has ended.
follow() {
    local seen=0 now
    mkdir -p "$runs/$id"
    while [[ -z $(ended) ]]; do
        # Ends when the pod does, and at once while it waits for its node.
        cluster logs --follow --ignore-errors --tail=-1 --selector \
            "jobset.sigs.k8s.io/jobset-name=$id,batch.kubernetes.io/job-completion-index=0" \
            2>/dev/null | tee -a "$runs/$id/launch.log" || true
        sleep "$poll"
        now=$(restarted)
        if ((${now:-0} > seen)); then
            seen=$now
            say "run $id: preempted, or a node was lost; going on ($seen)"
        fi
    done
}

start() {
    check --image "$image" '[a-zA-Z0-9][-._/:@a-zA-Z0-9]*' 'an image, as kubectl takes it'
    check --accelerator "$accelerator" 'tpu[-a-z0-9]+' 'a label such as tpu-v5p-slice'
    check --topology "$topology" '[1-9][0-9]*(x[1-9][0-9]*){1,2}' 'such as 4x4x4 or 2x4'
    check --bucket "$bucket" '[a-z0-9][-_.a-z0-9]+' 'the name of a bucket, without gs://'
    check --chips-per-host "$chips" '[1-9][0-9]*' 'a number, at least 1'
    check --service-account "$account" '[a-z0-9][-.a-z0-9]*' 'the name of a Kubernetes account'
    check --namespace "$namespace" '[a-z0-9][-a-z0-9]*' 'the name of a namespace'
    check --restarts "$restarts" '[0-9]+' 'a number'
    has_config "$@"
    no_workdir "$@"
    local all=$((${topology//x/*})) hosts text
    ((all % chips == 0 || all < chips)) ||
        fail "--chips-per-host=$chips: does not divide the $all chips of $topology"
    ((all >= chips)) || chips=$all
    hosts=$((all / chips))
    need kubectl "install it, and gcloud container clusters get-credentials"
    text=$(manifest "$hosts" "$@")
    say "run $id: gs://$bucket/runs/$id; go on with --run=$id"
    if "$dry_run"; then
        echo "$text"
        echo '---'
        cluster apply --filename=-
        cluster delete jobset "$id"
        return
    fi
    # What an earlier start of this run left is in the way, not what it saved.
    cluster delete jobset "$id" --ignore-not-found
    cluster apply --filename=- <<<"$text"
    follow
    local state
    state=$(ended)
    say "run $id: $state"
    "$keep" || cluster delete jobset "$id"
    [[ $state == Completed ]]
}

cd "$here/.."
case $command in
    start)
        id=${id:-$(new_id "$@")}
        check --run "$id" "$ID" "$ID_MEANING"
        start "$@"
        ;;
    logs | stop)
        [[ -n $id ]] || fail "--run=ID is missing"
        check --run "$id" "$ID" "$ID_MEANING"
        need kubectl "install it, and gcloud container clusters get-credentials"
        if [[ $command == logs ]]; then
            if "$dry_run"; then
                cluster logs --follow "--selector=jobset.sigs.k8s.io/jobset-name=$id"
            else
                follow
            fi
        else
            cluster delete jobset "$id"
        fi
        ;;
    *) fail "unknown command $command: $usage" ;;
esac
