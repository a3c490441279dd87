#!/usr/bin/env bash
# Runs a recipe on a slice of a Cloud TPU pod, and goes on when it was preempted or lost.
#
#     launch/tpu_pod.sh start [--run=ID] --type=v5p-128 --zone=us-east5-a --bucket=NAME \
#         [--project=NAME] [--runtime=v2-alpha-tpuv5] [--spot] [--restarts=100] [--keep] \
#         [--runs=runs] [--dry-run] -- --config=configs/fashion_resnet18.py
#     launch/tpu_pod.sh logs --run=ID [--runs=runs]
#     launch/tpu_pod.sh stop --run=ID --zone=us-east5-a [--project=NAME]
#
# Needs gcloud, logged in, and a bucket with a hierarchical namespace (renames of checkpoints are
# then atomic), which every worker mounts. Everything of a run is in BUCKET/runs/ID; `start` with
# the same ID goes on there, on the slice of that name if it still is. The output comes here, and
# to RUNS/ID/launch.log. When all workers saved and ended with 75, they are started again; a slice
# that was taken away is asked for again; any other exit code ends the run. In the end the slice
# is deleted, unless --keep. A connection that breaks ends the run too: start this inside tmux.
# What is installed is the tree here, as git knows it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/steps.sh
source "$here/steps.sh"

usage="start, logs or stop; read the top of launch/tpu_pod.sh"
(($#)) || fail "no command: $usage"
command=$1
shift

id='' type='' zone='' project='' runtime='' bucket='' restarts=100 runs=runs keep=false spot=false
while (($#)); do
    case $1 in
        --run=*) id=${1#*=} ;;
        --type=*) type=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --project=*) project=${1#*=} ;;
        --runtime=*) runtime=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
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
poll=${SLIM_POLL_SECONDS:-15}

# tpus COMMAND...: gcloud compute tpus COMMAND..., in the zone and project.
tpus() {
    run gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"}
}

# state: of the request for the slice; nothing where there is none.
state() {
    tpus queued-resources describe "$id" '--format=value(state.state)' 2>/dev/null || true
}

create() {
    local line=(queued-resources create "$id" "--node-id=$id" "--accelerator-type=$type"
        "--runtime-version=$runtime")
    "$spot" && line+=(--spot)
    tpus "${line[@]}" || fail "run $id: gcloud could not ask for $type in $zone; see above"
}

delete() {
    tpus queued-resources delete "$id" --force --quiet
}

# provide: asks for the slice unless it is there, waits for it and installs the tree.
provide() {
    if "$dry_run"; then
        create
    else
        case $(state) in
            ACTIVE | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES | CREATING) ;;
            '') create ;;
            *) # FAILED, SUSPENDED, SUSPENDING: it will not come back
                delete
                create
                ;;
        esac
        local now
        while now=$(state) && [[ $now != ACTIVE ]]; do
            case $now in
                '' | FAILED | SUSPENDED | SUSPENDING)
                    say "run $id: the request for $type is ${now:-gone}"
                    return 1
                    ;;
            esac
            sleep "$poll"
        done
    fi
    tpus tpu-vm scp "$archive" "$id:slim.tar.gz" --worker=all
    tpus tpu-vm ssh "$id" --worker=all "--command=$setup"
}

# attempt ARGUMENTS...: one start of all workers; its exit code, 255 if the slice was lost.
attempt() {
    local addresses=COORDINATOR codes line output
    "$dry_run" ||
        addresses=$(tpus tpu-vm describe "$id" \
            '--format=value[delimiter=" "](networkEndpoints.ipAddress)') ||
        return 255
    line=$(printf '%q ' bash launch/tpu_worker.sh run "$@" "--coordinator=${addresses%% *}:$PORT")
    if "$dry_run"; then
        tpus tpu-vm ssh "$id" --worker=all "--command=cd slim && $line"
        return
    fi
    output=$(mktemp)
    tpus tpu-vm ssh "$id" --worker=all "--command=cd slim && $line" 2>&1 |
        tee -a "$runs/$id/launch.log" "$output" || true
    codes=$(sed -n 's/.*slim worker ended with \([0-9]*\).*/\1/p' "$output")
    rm -f "$output"
    if [[ $(state) != ACTIVE || $(wc -w <<<"$codes") -lt $(wc -w <<<"$addresses") ]]; then
        return 255
    fi
    local code worst=0
    for code in $codes; do
        # What is wrong comes before what goes on.
        if ((code != 0 && (worst == 0 || worst == PREEMPTED))); then
            worst=$code
        fi
    done
    return "$worst"
}

start() {
    check --type "$type" 'v[0-9]+[a-z]*-[0-9]+' 'a type of slice, such as v5p-128 or v5litepod-8'
    check --zone "$zone" '[a-z]+-[a-z]+[0-9]+-[a-z]' 'a zone, such as us-east5-a'
    check --bucket "$bucket" '[a-z0-9][-_.a-z0-9]+' 'the name of a bucket, without gs://'
    check --restarts "$restarts" '[0-9]+' 'a number'
    if [[ -z $runtime ]]; then
        case $type in
            v5p-*) runtime=v2-alpha-tpuv5 ;;
            v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
            v6e-*) runtime=v2-alpha-tpuv6e ;;
            *) fail "--runtime=VERSION is missing for $type" ;;
        esac
    fi
    has_config "$@"
    no_workdir "$@"
    need gcloud "install Google Cloud's command line, and gcloud auth login"
    need git "it says which files belong to the project"
    cd "$here/.."
    say "run $id: gs://$bucket/runs/$id; go on with --run=$id"
    local code tries=0 archive=slim.tar.gz setup directory
    setup="mkdir -p slim && tar -xzf slim.tar.gz -C slim && cd slim && "
    setup+="bash launch/tpu_worker.sh setup $bucket"
    if "$dry_run"; then
        run git ls-files -z
        provide
        attempt "$@" "--workdir=../bucket/runs/$id"
        "$keep" || delete
        return
    fi
    mkdir -p "$runs/$id"
    directory=$(mktemp -d)
    trap 'rm -rf "$directory"' EXIT
    trap 'say "run $id: the slice may still be there; launch/tpu_pod.sh stop --run=$id"; exit 130' \
        INT TERM
    archive=$directory/slim.tar.gz
    git ls-files -z | tar --null --files-from=- -czf "$archive"
    while true; do
        code=0
        if provide; then
            attempt "$@" "--workdir=../bucket/runs/$id" || code=$?
        else
            code=255
        fi
        ((code == PREEMPTED || code == 255)) || break
        if ((++tries > restarts)); then
            say "run $id: preempted more than --restarts=$restarts times"
            break
        fi
        if ((code == PREEMPTED)); then
            say "run $id: preempted; going on ($tries)"
        else
            say "run $id: the slice was lost; going on with another ($tries)"
        fi
    done
    "$keep" || delete
    say "run $id: exit code $code"
    exit "$code"
}

case $command in
    start)
        id=${id:-$(new_id "$@")}
        check --run "$id" "$ID" "$ID_MEANING"
        start "$@"
        ;;
    logs | stop)
        [[ -n $id ]] || fail "--run=ID is missing"
        check --run "$id" "$ID" "$ID_MEANING"
        if [[ $command == logs ]]; then
            cd "$here/.."
            run tail -n +1 -F "$runs/$id/launch.log"
            exit
        fi
        [[ -n $zone ]] || fail "--zone=ZONE is missing"
        need gcloud "install Google Cloud's command line, and gcloud auth login"
        delete
        ;;
    *) fail "unknown command $command: $usage" ;;
esac
