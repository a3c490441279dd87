#!/usr/bin/env bash
# What launch/tpu_pod.sh does on each worker of a slice, in the project's directory.
#
#     launch/tpu_worker.sh setup BUCKET
#     launch/tpu_worker.sh run ARGUMENTS-OF-EXPERIMENTS.MAIN...
set -euo pipefail

setup() {
    local bucket=$1 python
    if ! command -v gcsfuse >/dev/null; then
        local release
        release=gcsfuse-$(lsb_release -c -s)
        curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg |
            sudo tee /usr/share/keyrings/gcsfuse.asc >/dev/null
        echo "deb [signed-by=/usr/share/keyrings/gcsfuse.asc] \
https://packages.cloud.google.com/apt $release main" |
            sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
        sudo apt-get -qq update
        sudo apt-get -qq install -y gcsfuse
    fi
    mkdir -p ../bucket
    mountpoint -q ../bucket || gcsfuse --implicit-dirs "$bucket" ../bucket
    if ! python=$(command -v python3.13 || command -v python3.12 || command -v python3.11); then
        sudo apt-get -qq update
        sudo apt-get -qq install -y python3.11 python3.11-venv
        python=python3.11
    fi
    "$python" -m venv .venv
    .venv/bin/pip install -q -r requirements.txt 'jax[tpu]'
}

run() {
    # What a broken connection left would hold the chips.
    pkill -TERM -f 'experiments[.]main' && sleep 30
    local code=0
    .venv/bin/python -m experiments.main "$@" || code=$?
    echo "slim worker ended with $code"
}

case ${1:-} in
    setup | run) "$@" ;;
    *)
        echo "tpu_worker.sh: error: setup BUCKET, or run ARGUMENTS" >&2
        exit 2
        ;;
esac
