"""Preempted runs go on with the same arguments; runs that are wrong do not."""

import os
import signal
import subprocess

import pytest

from tests.launch.fakes import ROOT, Fakes

CONFIG = "--config=configs/fashion_resnet18.py"

LOCAL = {"python": 'echo "step"; exit "$(next codes)"'}


@pytest.mark.parametrize(
    ("codes", "starts", "code"), [((75, 75, 0), 3, 0), ((75, 3, 0), 2, 3), ((75, 75, 75), 3, 2)]
)
def test_local(tmp_path, codes, starts, code):
    fakes = Fakes(tmp_path, LOCAL)
    fakes.write("codes", *map(str, codes))
    runs = tmp_path / "runs"
    line = ("local.sh", "start", "--run=ab", f"--runs={runs}", "--restarts=2", "--", CONFIG)
    done = fakes.run(*line)
    assert done.returncode == code, done.stderr
    calls = fakes.calls("python")
    assert len(calls) == starts
    assert set(calls) == {
        f"python {ROOT}/launch/local.py --processes=1 -- {CONFIG} --workdir={runs}/ab"
    }
    assert (runs / "ab" / "launch.log").read_text() == "step\n" * starts
    assert not (runs / "ab" / "launcher.pid").exists()


def test_local_that_is_asked_to_stop_saves_and_does_not_go_on(tmp_path):
    body = "trap 'echo saved; exit 75' TERM; echo begun; while true; do sleep 0.05; done"
    fakes = Fakes(tmp_path, {"python": body})
    runs = tmp_path / "runs"
    line = ["launch/local.sh", "start", "--run=ab", f"--runs={runs}", "--", CONFIG]
    running = subprocess.Popen(line, env=fakes.env, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        assert fakes.run("local.sh", "stop", "--run=ab", f"--runs={runs}").returncode == 0
        assert running.wait(60) == 75
        assert running.stdout.read() == "saved\n"
    finally:
        running.kill()
        running.stdout.close()
    assert len(fakes.calls("python")) == 1


SLURM = {
    # Runs the job at once, again for as long as it asks for that.
    "sbatch": f"""
for word in "$@"; do
    case $word in
        --output=*) output=${{word#*=}} ;;
        --export=ALL,*) export "${{word#*,}}" ;;
    esac
done
while [[ $1 != launch/slurm.sbatch ]]; do shift; done
shift
touch running
(
    cd {ROOT}
    export SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST='n[1-2]'
    export SLURM_RESTART_COUNT=0
    while true; do
        code=0
        rm -f "$OLDPWD/requeued"
        bash launch/slurm.sbatch "$@" >>"$output" 2>&1 || code=$?
        [[ -f $OLDPWD/requeued ]] || break
        ((++SLURM_RESTART_COUNT))
    done
    echo "$code" >"$OLDPWD/ended"
    rm "$OLDPWD/running"
) >/dev/null 2>&1 &
echo 7
""",
    "scontrol": """
case $1 in
    show) printf 'n1\\nn2\\n' ;;
    requeue) touch requeued ;;
esac
""",
    "srun": 'exit "$(next codes)"',
    "squeue": "[[ ! -f running ]] || echo 7 ab R",
    "sacct": """
code=$(<ended)
((code == 0)) && echo "COMPLETED|0:0" || echo "FAILED|$code:0"
""",
    "scancel": "",
}


@pytest.mark.parametrize(("codes", "requeued", "code"), [((75, 75, 0), 2, 0), ((75, 3), 1, 3)])
def test_slurm(tmp_path, codes, requeued, code):
    fakes = Fakes(tmp_path, SLURM)
    fakes.write("codes", *map(str, codes))
    runs = tmp_path / "runs"
    done = fakes.run("slurm.sh", "start", "--run=ab", "--nodes=2", f"--runs={runs}", "--", CONFIG)
    assert done.returncode == code, done.stderr
    assert f"slurm: job 7 ended with {code}" in done.stdout
    assert fakes.calls("scontrol requeue 7") == ["scontrol requeue 7"] * requeued
    starts = fakes.calls("srun")
    assert len(starts) == len(codes)
    assert len(set(starts)) == 1
    assert starts[0].endswith(
        f"main {CONFIG} --workdir={runs}/ab --coordinator=n1:20007 --num_processes=2"
    )
    assert fakes.run("slurm.sh", "stop", "--run=ab", f"--runs={runs}").returncode == 0
    assert fakes.calls("scancel") == ["scancel 7"]


def test_slurm_stops_asking_for_more(tmp_path):
    fakes = Fakes(tmp_path, SLURM)
    fakes.write("codes", "75", "75", "0")
    line = ("slurm.sh", "start", "--run=ab", f"--runs={tmp_path}/runs", "--restarts=1")
    assert fakes.run(*line, "--", CONFIG).returncode == 75
    assert len(fakes.calls("srun")) == 2


POD = {
    # A slice of two workers; a word of `plan` for each start: the two exit codes, or lost.
    "gcloud": """
case "$3 $4" in
    'queued-resources create') echo ACTIVE >state ;;
    'queued-resources delete') rm state ;;
    'queued-resources describe') cat state ;;
    'tpu-vm describe') echo '10.0.0.2 10.0.0.3' ;;
    'tpu-vm ssh')
        [[ $* == *' run '* ]] || exit 0
        echo "step"
        IFS=, read -r first second <<<"$(next plan)"
        if [[ $first == lost ]]; then
            echo "slim worker ended with 134"
            echo SUSPENDED >state
            exit 1
        fi
        echo "slim worker ended with $first"
        echo "slim worker ended with $second"
        ;;
esac
"""
}


@pytest.mark.parametrize(
    ("plan", "slices", "code"),
    [(("75,75", "lost", "0,0"), 2, 0), (("75,75", "134,1"), 1, 134), (("75,3", "0,0"), 1, 3)],
)
def test_tpu_pod(tmp_path, plan, slices, code):
    fakes = Fakes(tmp_path, POD)
    fakes.write("plan", *plan)
    runs = tmp_path / "runs"
    done = fakes.run(
        "tpu_pod.sh", "start", "--run=ab", "--type=v5p-16", "--zone=us-east5-a", "--bucket=bk",
        f"--runs={runs}", "--", CONFIG,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    begun = [line for line in plan if not (tmp_path / "plan").read_text().count(line)]
    starts = fakes.calls("ssh", "tpu_worker.sh run")
    assert len(starts) == len(begun)
    assert len(set(starts)) == 1
    assert "--workdir=../bucket/runs/ab --coordinator=10.0.0.2:8476" in starts[0]
    assert len(fakes.calls("queued-resources create ab")) == slices
    assert len(fakes.calls("queued-resources delete ab")) == slices
    assert len(fakes.calls("ssh", "tpu_worker.sh setup bk")) == len(begun)
    assert (runs / "ab" / "launch.log").read_text().count("step") == len(begun)


CLUSTER = {
    # A JobSet whose pods are started as often as `pods` has lines, and ends as `state` says.
    "kubectl": """
case "$*" in
    *apply*) cat >applied.yaml ;;
    *terminalState*) [[ -s pods ]] || cat state ;;
    *status.restarts*) echo "$((2 - $(wc -l <pods)))" ;;
    *logs*) next pods ;;
esac
"""
}


@pytest.mark.parametrize(("state", "code"), [("Completed", 0), ("Failed", 1)])
def test_gke(tmp_path, state, code):
    fakes = Fakes(tmp_path, CLUSTER)
    fakes.write("pods", "first pod", "second pod")
    fakes.write("state", state)
    runs = tmp_path / "runs"
    done = fakes.run(
        "gke.sh", "start", "--run=ab", "--image=i", "--accelerator=tpu-v5p-slice",
        "--topology=2x2x2", "--bucket=bk", f"--runs={runs}", "--", CONFIG,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stdout == "first pod\nsecond pod\n"
    assert "name: ab" in (tmp_path / "applied.yaml").read_text()
    assert len(fakes.calls("apply")) == 1
    assert fakes.calls()[-1] == "kubectl --namespace=default delete jobset ab"
    assert "a node was lost; going on (1)" in done.stderr
    assert f"run ab: {state}" in done.stderr
    assert (runs / "ab" / "launch.log").read_text() == done.stdout


def test_a_slurm_job_waits_for_its_processes_to_save(tmp_path):
    body = "trap 'sleep 0.3; echo saved; exit 75' TERM; echo begun; while true; do sleep 0.05; done"
    fakes = Fakes(tmp_path, {**SLURM, "srun": body})
    env = {**fakes.env, "SLURM_JOB_ID": "7", "SLIM_RESTARTS": "0"}
    line = ["bash", "launch/slurm.sbatch", CONFIG]
    job = subprocess.Popen(
        line, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(60) == 75
        assert "saved\nslurm: job 7 ended with 75\n" in job.stdout.read()
    finally:
        job.kill()
        job.stdout.close()
