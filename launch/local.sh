#!/usr/bin/env bash
# Runs a recipe on this machine, in one process or several, and goes on when it was preempted.
#
#     launch/local.sh start [--run=ID] [--processes=1] [--cpu-devices=N] [--restarts=100] \
#         [--runs=runs] [--dry-run] -- --config=configs/quickstart.py
#     launch/local.sh logs --run=ID
#     launch/local.sh stop --run=ID
#
# Everything of a run is in RUNS/ID; `start` with the same ID goes on there. SIGTERM to the script
# reaches the processes, which save and end, and ends it with 75. When they end with 75 without
# that, they are started again; any other exit code ends the script.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/steps.sh
source "$here/steps.sh"

usage="start, logs or stop; read the top of launch/local.sh"
(($#)) || fail "no command: $usage"
command=$1
shift

id='' processes=1 devices='' restarts=100 runs=runs
while (($#)); do
    case $1 in
        --run=*) id=${1#*=} ;;
        --processes=*) processes=${1#*=} ;;
        --cpu-devices=*) devices=${1#*=} ;;
        --restarts=*) restarts=${1#*=} ;;
        --runs=*) runs=${1#*=} ;;
        --dry-run) dry_run=true ;;
        --)
            shift
            break
            ;;
        *) fail "unknown option $1: $usage" ;;
    esac
    shift
done

start() {
    check --processes "$processes" '[1-9][0-9]*' 'a number, at least 1'
    check --restarts "$restarts" '[0-9]+' 'a number'
    has_config "$@"
    no_workdir "$@"
    local python=${PYTHON:-python} code=0 tries=0 line
    need "$python" "name one by PYTHON=..."
    line=("$python" "$here/local.py" "--processes=$processes")
    [[ -n $devices ]] && line+=("--cpu_devices=$devices")
    line+=(-- "$@" "--workdir=$runs/$id")
    cd "$here/.."
    say "run $id: $runs/$id; go on with --run=$id"
    if "$dry_run"; then
        run "${line[@]}"
        return
    fi
    mkdir -p "$runs/$id"
    echo "$$" >"$runs/$id/launcher.pid"
    trap 'rm -f "$runs/$id/launcher.pid"' EXIT
    while true; do
        # A background job, so that the trap runs while it does.
        "${line[@]}" > >(tee -a "$runs/$id/launch.log") 2>&1 &
        local child=$! asked=false woken=true
        trap 'asked=true woken=true; kill -TERM "$child" 2>/dev/null || true' TERM INT
        while "$woken"; do # a signal ends the wait, not the child
            woken=false code=0
            wait "$child" || code=$?
        done
        if ((code != PREEMPTED)) || "$asked"; then
            break
        fi
        ((++tries <= restarts)) || fail "run $id: preempted more than --restarts=$restarts times"
        say "run $id: preempted; going on ($tries)"
    done
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
        cd "$here/.."
        if [[ $command == logs ]]; then
            run tail -n +1 -F "$runs/$id/launch.log"
        else
            [[ -f $runs/$id/launcher.pid ]] || fail "run $id is not running under $runs"
            run kill -TERM "$(<"$runs/$id/launcher.pid")"
        fi
        ;;
    *) fail "unknown command $command: $usage" ;;
esac
