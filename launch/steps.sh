# shellcheck shell=bash
# shellcheck disable=SC2034 # constants of the scripts that source this
# What the scripts of launch/ share; they source it. Not to be run.

# The exit code of experiments.main where it was asked to stop, and has saved.
readonly PREEMPTED=75

dry_run=false

# fail MESSAGE...: ends with one line on stderr, and the exit code of a wrong command line.
fail() {
    echo "${0##*/}: error: $*" >&2
    exit 2
}

# say MESSAGE...: one line about what happens, on stderr, beside the run's own output.
say() {
    echo "${0##*/}: $*" >&2
}

# need TOOL HINT: ends unless the tool is there; a dry run needs none.
need() {
    "$dry_run" || command -v "$1" >/dev/null || fail "$1 is not on PATH: $2"
}

# run COMMAND...: runs it, or prints it in a dry run, quoted for a shell.
run() {
    if "$dry_run"; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

# check OPTION VALUE PATTERN MEANING: ends unless the value matches the whole pattern.
check() {
    [[ $2 =~ ^($3)$ ]] || fail "$1=$2: $4"
}

# Fits what all of SLURM, Kubernetes and Google Cloud take for a name.
readonly ID='[a-z]([-a-z0-9]{0,38}[a-z0-9])?'
readonly ID_MEANING='lower-case letters, digits and hyphens, a letter first, at most 40'

# new_id ARGUMENTS...: a name for a run, of its config and the time; the same one goes on.
new_id() {
    local argument config=run
    for argument in "$@"; do
        case $argument in
            --config=*)
                config=${argument#--config=}
                config=${config%%:*}
                config=${config##*/}
                config=${config%.py}
                ;;
        esac
    done
    config=$(tr '[:upper:]_.' '[:lower:]--' <<<"${config:0:20}")
    echo "${config%-}-$(date -u +%Y%m%d-%H%M%S)"
}

# no_workdir ARGUMENTS...: ends where the arguments of experiments.main have what the scripts add.
no_workdir() {
    local argument
    for argument in "$@"; do
        case $argument in
            --workdir* | --coordinator* | --num_processes* | --process_id*)
                fail "$argument: follows from --run and is added here; leave it out"
                ;;
        esac
    done
}

# has_config ARGUMENTS...: ends where no recipe is named.
has_config() {
    local argument
    for argument in "$@"; do
        [[ $argument == --config=* ]] && return
    done
    fail "no --config=FILE after --: the arguments of experiments.main go there"
}
