"""What is printed for Kubernetes: its schemas take it, and its pods start the trainer."""

import functools
import json
import os
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from tests.launched import ROOT, run_launcher
from trainer.distribution.cluster import Cluster, from_tf_config

NEEDED = ("--image=registry/trainer:1", "--volume_claim=runs")
TRAINER = ("--config=configs/conv.py", "--workdir=/runs/conv")
WORKERS = ("--workers=3", "--gpus=8", "--cpus=16", "--memory_gib=64", "--max_restarts=5")
JOBSET = (*WORKERS, "--jobset")
AWKWARD = ["two  words", "it's", '"so"', "$HOME $(HOME) $$(HOME) $$", "`id`; a\\b*", "ü\nline", ""]
ECHO = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getpid()]))"


@functools.cache
def printed(*flags, trainer=TRAINER):
    """The objects that are printed."""
    result = run_launcher("kubernetes", *NEEDED, *flags, "--", *trainer)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def job_spec(*flags, trainer=TRAINER):
    """The trainer's Job, which a JobSet holds in itself."""
    objects = {item["kind"]: item["spec"] for item in printed(*flags, trainer=trainer)}
    if "JobSet" in objects:
        return objects["JobSet"]["replicatedJobs"][0]["template"]["spec"]
    return objects["Job"]


def expanded(text, variables):
    """As Kubernetes reads a command, its arguments and the values of its environment."""

    def value(found):
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


@pytest.fixture
def start(tmp_path):
    """Starts a pod's container as Kubernetes would; its `python` prints what it is given.

    Returns its process number, and its arguments, environment and process number as printed.
    """
    (tmp_path / "python").write_text(f"#!{sys.executable}\n{ECHO}")
    (tmp_path / "python").chmod(0o755)

    def start_container(pod, index=0):
        (container,) = pod["containers"]
        environment = {"PATH": f"{tmp_path}:{os.defpath}", "JOB_COMPLETION_INDEX": str(index)}
        for entry in container["env"]:
            environment[entry["name"]] = expanded(entry["value"], environment)
        command = [expanded(part, environment) for part in container["command"] + container["args"]]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        return process.pid, *json.loads(process.communicate()[0])

    return start_container


@pytest.mark.parametrize(
    "flags",
    [("--gpus=0", "--tensorboard"), (*WORKERS, "--runtime_class=nvidia"), JOBSET],
    ids=" ".join,
)
def test_the_schemas_of_kubernetes_take_it(flags):
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": job_spec(*flags)}
    for item in [job, *printed(*flags)]:
        if item["kind"] != "JobSet":  # no part of Kubernetes; the Job in it is
            for version in ("1.31", kubernetes_validate.latest_version()):
                kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize(
    ("flags", "host"),
    [(WORKERS, "conv-{}.conv"), (JOBSET, "conv-worker-0-{}.conv")],
    ids=["job", "jobset"],
)
def test_each_pod_knows_its_number_and_the_names_of_all(flags, host, start, monkeypatch):
    for index in range(3):
        pod = job_spec(*flags, "--port=3333")["template"]["spec"]
        _, _, environment, _ = start(pod, index)
        monkeypatch.setenv("TF_CONFIG", environment["TF_CONFIG"])
        addresses = tuple(f"{host.format(number)}:3333" for number in range(3))
        assert from_tf_config() == Cluster(addresses, index)


def test_the_names_of_the_pods_are_those_that_the_service_publishes():
    service, job = printed(*WORKERS)
    template = job["spec"]["template"]
    assert template["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("workers", [1, 3])
def test_the_trainer_gets_its_flags_and_environment_to_the_letter_and_sigterm(workers, start):
    trainer = (*TRAINER, *(f"--config.data.name={text}" for text in AWKWARD))
    values = {f"V{number}": text for number, text in enumerate(AWKWARD)}
    given = (f"--env={name}={value}" for name, value in values.items())
    pod = job_spec(f"--workers={workers}", *given, trainer=trainer)["template"]["spec"]
    number, arguments, environment, own_number = start(pod)
    assert arguments == ["-m", "trainer", *trainer]
    assert own_number == number  # no shell is left in between
    assert environment.items() >= values.items()
    caches = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert environment["CUDA_CACHE_PATH"] in caches
    assert ("TF_CONFIG" in environment) == (workers > 1)


def verdict(spec, exit_status, *conditions):
    """What a Job's podFailurePolicy says of a pod: the action of the first rule that fits."""
    for rule in spec["podFailurePolicy"]["rules"]:
        codes, types = rule.get("onExitCodes"), rule.get("onPodConditions", [])
        fits = codes and (codes["operator"], codes["containerName"]) == ("In", "trainer")
        if (fits and exit_status in codes["values"]) or any(
            condition["type"] in conditions for condition in types
        ):
            return rule["action"]
    return "Count"


def test_a_mistake_ends_the_job_a_preemption_is_free_and_crashes_of_all_workers_count_as_one():
    spec = job_spec(*WORKERS)
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # or there is no such policy
    assert spec["template"]["spec"]["containers"][0]["name"] == "trainer"
    assert [verdict(spec, status) for status in (2, 75, 76, 1, 137)] == [
        *("FailJob", "Ignore", "Ignore", "Count", "Count")
    ]
    assert verdict(spec, 137, "DisruptionTarget") == "Ignore"
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 3
    # Each worker fails once a restart: the first that has none left ends the Job.
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (5, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["successPolicy"]["rules"] == [{"succeededIndexes": "0"}]


def test_a_jobset_recreates_its_job_at_the_first_pod_that_fails():
    (jobset,) = printed(*JOBSET)
    spec = job_spec(*JOBSET)
    assert spec["backoffLimit"] == 0
    assert [verdict(spec, status) for status in (2, 75, 76, 1)] == [
        *("FailJob", "Ignore", "Ignore", "Count")
    ]
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 5
    (rule,) = policy["rules"]  # without which a mistake would be restarted too
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (job,) = jobset["spec"]["replicatedJobs"]
    assert (job["name"], job["replicas"]) == ("worker", 1)
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "conv"}


def test_a_pod_asks_for_what_its_worker_needs():
    flags = ("--shm_gib=4", "--grace_seconds=600", "--runtime_class=other")
    pod = job_spec(*WORKERS, *flags)["template"]["spec"]
    (container,) = pod["containers"]
    amounts = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    limits = {"memory": "64Gi", "nvidia.com/gpu": "8"}
    assert container["resources"] == {"requests": amounts, "limits": limits}
    assert pod["terminationGracePeriodSeconds"] == 600
    assert pod["runtimeClassName"] == "other"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in map(dict, pod["volumes"])}
    assert volumes[mounts["/runs"]] == {"persistentVolumeClaim": {"claimName": "runs"}}
    assert volumes[mounts["/dev/shm"]] == {"emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}
    for memory, default in ((4, "2Gi"), (64, "8Gi"), (0, "8Gi")):
        volumes = job_spec(f"--memory_gib={memory}")["template"]["spec"]["volumes"]
        (shm,) = (volume["emptyDir"] for volume in volumes if volume["name"] == "shm")
        assert shm["sizeLimit"] == default
    (without,) = printed("--gpus=0")
    assert not re.search("nvidia|cuda|runtimeClass", json.dumps(without), re.IGNORECASE)


def test_no_pod_has_more_rights_than_the_standard_restricted_allows():
    for item in printed("--gpus=0", "--tensorboard")[:2]:
        pod = item["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_tensorboard_shows_the_other_runs_of_the_folder_too():
    trainer = ("--config=configs/conv.py", "--workdir=/runs/of$(X)/conv")
    job, deployment, service = printed("--tensorboard", trainer=trainer)
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert "--logdir=/runs/of$(X)" in [expanded(text, {"X": ""}) for text in container["args"]]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/runs"]
    assert service["metadata"]["name"] == "conv-tensorboard"
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert service["spec"]["selector"] != job["spec"]["template"]["metadata"]["labels"]
    assert f"--port={service['spec']['ports'][0]['port']}" in container["args"]


def test_the_job_is_named_after_the_workdir_unless_a_flag_names_it():
    trainer = ("--config=c.py", "--workdir", "/runs/a/Conv_MNIST.2/")
    assert printed(trainer=trainer)[0]["metadata"]["name"] == "conv-mnist-2"
    longest = "c" * 60  # of which the name of the last of 11 pods has 63 characters
    assert printed("--workers=11", f"--name={longest}")[1]["metadata"]["name"] == longest


def test_apply_hands_the_manifest_to_kubectl_and_its_status_on(tmp_path):
    seen, kubectl = tmp_path / "seen", tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\n/bin/cat > {seen}\n[ "$*" = "apply -f -" ] && exit 7\n')
    kubectl.chmod(0o755)
    result = run_launcher("kubernetes", *NEEDED, "--apply", "--", *TRAINER, PATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (7, "")
    assert list(yaml.safe_load_all(seen.read_text())) == printed()
