#!/usr/bin/env bash
# Runs a recipe as a SLURM job, one process a node, and goes on when it was preempted.
#
#     launch/slurm.sh start [--run=ID] [--nodes=1] [--gpus=N] [--cpus=N] [--partition=NAME] \
#         [--account=NAME] [--time=24:00:00] [--restarts=100] [--runs=runs] [--dry-run] \
#         -- --config=configs/fashion_resnet18.py
#     launch/slurm.sh logs --run=ID
#     launch/slurm.sh stop --run=ID
#
# Everything of a run is in RUNS/ID, which all nodes must see; `start` with the same ID goes on
# there. The job (launch/slurm.sbatch) gets SIGTERM two minutes before its time is over, or from
# whoever preempts it; it saves, ends with 75 and puts itself into the queue again under the same
# number, as SLURM does after the loss of a node. Any other exit code ends it. `start` prints the
# log until the job ends; Ctrl-C leaves the job alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/steps.sh
source "$here/steps.sh"

usage="start, logs or stop; read the top of launch/slurm.sh"
(($#)) || fail "no command: $usage"
command=$1
shift

id='' nodes=1 gpus='' cpus='' partition='' account='' limit=24:00:00 restarts=100 runs=runs
while (($#)); do
    case $1 in
        --run=*) id=${1#*=} ;;
        --nodes=*) nodes=${1#*=} ;;
        --gpus=*) gpus=${1#*=} ;;
        --cpus=*) cpus=${1#*=} ;;
        --partition=*) partition=${1#*=} ;;
        --account=*) account=${1#*=} ;;
        --time=*) limit=${1#*=} ;;
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
    check --nodes "$nodes" '[1-9][0-9]*' 'a number, at least 1'
    check --gpus "$gpus" '[0-9]*' 'a number of GPUs of each node'
    check --cpus "$cpus" '[0-9]*' 'a number of cores of each node'
    check --restarts "$restarts" '[0-9]+' 'a number'
    check --time "$limit" '([0-9]+-)?[0-9:]+' 'as SLURM has it, such as 24:00:00 or 2-00:00:00'
    has_config "$@"
    no_workdir "$@"
    need sbatch "run this on a login node of a SLURM cluster"
    cd "$here/.."
    local log=$runs/$id/launch.log job
    local line=(sbatch --parsable "--job-name=$id" "--nodes=$nodes" --ntasks-per-node=1
        "--time=$limit" --requeue --open-mode=append --signal=TERM@120
        "--output=$log" "--export=ALL,SLIM_RESTARTS=$restarts")
    [[ -n $gpus ]] && line+=("--gpus-per-node=$gpus")
    [[ -n $cpus ]] && line+=("--cpus-per-task=$cpus")
    [[ -n $partition ]] && line+=("--partition=$partition")
    [[ -n $account ]] && line+=("--account=$account")
    line+=(launch/slurm.sbatch "$@" "--workdir=$runs/$id")
    say "run $id: $runs/$id; go on with --run=$id"
    if "$dry_run"; then
        run "${line[@]}"
        return
    fi
    mkdir -p "$runs/$id"
    job=$("${line[@]}")
    job=${job%%;*} # of several clusters, the name of this one follows
    echo "$job" >"$runs/$id/slurm.job"
    say "run $id: job $job"
    follow "$job" "$log"
}

# follow JOB LOG: prints the log until the job has ended, and ends with its exit code.
follow() {
    local job=$1 log=$2 tail state code
    touch "$log"
    tail -n +1 -F "$log" 2>/dev/null &
    tail=$!
    trap 'kill "$tail" 2>/dev/null || true' EXIT
    while [[ -n $(squeue --noheader --job "$job" 2>/dev/null) ]]; do
        sleep "${SLIM_POLL_SECONDS:-10}"
    done
    sleep 1 # for the last lines
    IFS='|' read -r state code < <(
        sacct --noheader --parsable2 --allocations --jobs "$job" --format=State,ExitCode
    ) || fail "job $job: sacct does not know how it ended; read $log"
    say "job $job: $state, exit code $code"
    code=${code%%:*}
    [[ $state == COMPLETED* ]] || ((code != 0)) || code=1
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
            exit
        fi
        need scancel "run this on a login node of a SLURM cluster"
        [[ -f $runs/$id/slurm.job ]] || fail "no job of run $id is known under $runs"
        run scancel "$(<"$runs/$id/slurm.job")"
        ;;
    *) fail "unknown command $command: $usage" ;;
esac
