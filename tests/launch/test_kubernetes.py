"""What is printed for Kubernetes: its schemas take it, and its pods start the trainer."""

import functools
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from trainer.distribution.cluster import from_tf_config

ROOT = Path(__file__).parents[2]
NEEDED = ("--image=registry/trainer:1", "--volume_claim=runs")
TRAINER = ("--config=configs/conv.py", "--workdir=/runs/conv")
WORKERS = ("--workers=3", "--gpus=8", "--cpus=16", "--memory_gib=64")
LAUNCHES = [
    ("--gpus=0",),
    ("--tensorboard", "--runtime_class=nvidia"),
    WORKERS,
    (*WORKERS, "--jobset", "--tensorboard"),
]
AWKWARD = ["two  words", "it's", '"so"', "$HOME $(HOME) $$(HOME) $$", "`id`; a\\b*", "ü\nline", ""]
TELLS = """import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ), os.getpid()]))
"""


def launch(*flags, trainer=TRAINER, **environment):
    return subprocess.run(
        [sys.executable, "-m", "launch.kubernetes", *flags, "--", *trainer],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def printed(*flags, trainer=TRAINER):
    """The objects that are printed."""
    result = launch(*NEEDED, *flags, trainer=trainer)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def one(objects, kind):
    """The only one of a kind."""
    (found,) = (item for item in objects if item["kind"] == kind)
    return found


def job_spec(objects):
    """The trainer's Job, which a JobSet holds in itself."""
    if objects[0]["kind"] == "JobSet":
        return objects[0]["spec"]["replicatedJobs"][0]["template"]["spec"]
    return one(objects, "Job")["spec"]


def trainer_pod(*flags, trainer=TRAINER):
    return job_spec(printed(*flags, trainer=trainer))["template"]["spec"]


def expanded(text, variables):
    """As Kubernetes reads a command, its arguments and the values of its environment."""

    def value(found):
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def started(pod, path, index=0):
    """The process of a pod's container, as Kubernetes would start it, with such a PATH."""
    (container,) = pod["containers"]
    environment = {"PATH": path, "HOME": "/nonexistent", "JOB_COMPLETION_INDEX": str(index)}
    for entry in container["env"]:
        environment[entry["name"]] = expanded(entry["value"], environment)
    command = [expanded(part, environment) for part in container["command"] + container["args"]]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def tools(tmp_path):
    """Writes programs in Python; returns the PATH on which they are found before all others."""

    def write(**programs):
        for name, source in programs.items():
            program = tmp_path / name
            program.write_text(f"#!{sys.executable}\n{source}")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return f"{tmp_path}:{os.defpath}"

    return write


@pytest.fixture
def python_that_tells(tools):
    """A PATH whose `python` tells its arguments, environment and process instead of training."""
    return tools(python=TELLS)


@pytest.mark.parametrize("flags", LAUNCHES, ids=" ".join)
def test_the_schemas_of_kubernetes_take_it(flags):
    objects = printed(*flags)
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": job_spec(objects)}
    for item in [job, *objects]:
        if item["kind"] != "JobSet":  # no part of Kubernetes; the Job in it is
            for version in ("1.31", kubernetes_validate.latest_version()):
                kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("flags", [WORKERS, (*WORKERS, "--jobset")], ids=["job", "jobset"])
def test_each_pod_knows_its_number_and_the_names_of_all(flags, python_that_tells, monkeypatch):
    host = "conv-worker-0-{}.conv" if "--jobset" in flags else "conv-{}.conv"
    pod = trainer_pod(*flags, "--port=3333")
    for index in range(3):
        told = started(pod, python_that_tells, index).communicate()[0]
        monkeypatch.setenv("TF_CONFIG", json.loads(told)[1]["TF_CONFIG"])
        workers = from_tf_config()
        assert workers is not None
        assert workers.index == index
        assert workers.addresses == tuple(f"{host.format(i)}:3333" for i in range(3))


def test_the_names_of_the_pods_are_those_that_the_service_publishes():
    service, job = printed(*WORKERS)
    template = job["spec"]["template"]
    assert template["spec"]["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


@pytest.mark.parametrize("workers", [1, 3])
def test_the_trainer_gets_its_flags_and_environment_to_the_letter_and_sigterm(
    workers, python_that_tells
):
    trainer = (*TRAINER, *(f"--config.data.name={text}" for text in AWKWARD))
    values = {f"V{number}": text for number, text in enumerate(AWKWARD)}
    given = (f"--env={name}={value}" for name, value in values.items())
    pod = trainer_pod(f"--workers={workers}", *given, trainer=trainer)
    process = started(pod, python_that_tells)
    arguments, environment, number = json.loads(process.communicate()[0])
    assert arguments == ["-m", "trainer", *trainer]
    assert number == process.pid  # no shell is left in between
    assert environment.items() >= values.items()
    caches = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert environment["CUDA_CACHE_PATH"] in caches
    assert ("TF_CONFIG" in environment) == (workers > 1)


def verdict(spec, exit_status, *conditions):
    """What a Job's podFailurePolicy says of a pod: the action of the first rule that fits."""
    for rule in spec["podFailurePolicy"]["rules"]:
        codes, wanted = rule.get("onExitCodes"), rule.get("onPodConditions", [])
        fits = codes and (codes["operator"], codes["containerName"]) == ("In", "trainer")
        if (fits and exit_status in codes["values"]) or [
            condition["type"] for condition in wanted if condition["type"] in conditions
        ]:
            return rule["action"]
    return "Count"


@pytest.mark.parametrize("flags", [WORKERS, (*WORKERS, "--jobset")], ids=["job", "jobset"])
def test_a_mistake_ends_the_job_a_preemption_is_free_and_a_crash_counts(flags):
    spec = job_spec(printed(*flags))
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # or there is no such policy
    assert spec["template"]["spec"]["containers"][0]["name"] == "trainer"
    assert verdict(spec, 2) == "FailJob"
    assert verdict(spec, 75) == "Ignore"
    assert verdict(spec, 137, "DisruptionTarget") == "Ignore"
    assert verdict(spec, 1) == verdict(spec, 137) == "Count"


def test_a_job_counts_the_restarts_of_all_workers_together():
    spec = job_spec(printed(*WORKERS, "--max_restarts=5"))
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 3
    # Each worker fails once a restart: the first that has none left ends the Job.
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (5, 0)
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["successPolicy"]["rules"] == [{"succeededIndexes": "0"}]


def test_a_jobset_recreates_its_job_at_the_first_pod_that_fails():
    (jobset,) = printed(*WORKERS, "--jobset", "--max_restarts=5")
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert job_spec([jobset])["backoffLimit"] == 0
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 5
    (rule,) = policy["rules"]  # without which a mistake would be restarted too
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    (job,) = jobset["spec"]["replicatedJobs"]
    assert (job["name"], job["replicas"]) == ("worker", 1)
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": "conv"}


def test_a_pod_asks_for_what_its_worker_needs():
    pod = trainer_pod(*WORKERS, "--shm_gib=4", "--grace_seconds=600", "--runtime_class=other")
    wanted = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert pod["containers"][0]["resources"] == {"requests": wanted, "limits": wanted}
    assert pod["terminationGracePeriodSeconds"] == 600
    assert pod["runtimeClassName"] == "other"
    assert "runtimeClassName" not in trainer_pod(*WORKERS)
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume.pop("name"): volume for volume in map(dict, pod["volumes"])}
    assert volumes[mounts["/runs"]] == {"persistentVolumeClaim": {"claimName": "runs"}}
    assert volumes[mounts["/dev/shm"]] == {"emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}


def test_without_gpus_nothing_mentions_them():
    result = launch(*NEEDED, "--gpus=0")
    assert not re.search("nvidia|cuda", result.stdout, re.IGNORECASE)
    assert [item["kind"] for item in yaml.safe_load_all(result.stdout)] == ["Job"]


def test_no_pod_has_more_rights_than_the_standard_restricted_allows():
    job, deployment, _ = printed("--tensorboard", "--runtime_class=nvidia")
    for item in (job, deployment):
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


def test_tensorboard_shows_the_runs_beside_this_one():
    trainer = ("--config=configs/conv.py", "--workdir=/runs/of$(X)/conv")
    objects = printed("--tensorboard", trainer=trainer)
    template = one(objects, "Deployment")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert "--logdir=/runs/of$(X)" in [expanded(text, {"X": ""}) for text in container["args"]]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/runs"]
    assert one(objects, "Service")["metadata"]["name"] == "conv-tensorboard"
    service = one(objects, "Service")["spec"]
    assert service["selector"] == template["metadata"]["labels"]
    assert service["selector"] != one(objects, "Job")["spec"]["template"]["metadata"]["labels"]
    assert f"--port={service['ports'][0]['port']}" in container["args"]


def test_the_job_is_named_after_the_workdir_unless_a_flag_names_it():
    trainer = ("--config=c.py", "--workdir", "/runs/a/Conv_MNIST.2/")
    assert printed("--gpus=0", trainer=trainer)[0]["metadata"]["name"] == "conv-mnist-2"
    named = printed("--gpus=0", "--name=other", trainer=trainer)
    assert named[0]["metadata"]["name"] == "other"


def test_a_name_may_be_so_long_that_the_last_pod_still_has_one_in_dns():
    name = "c" * 61
    printed("--workers=10", f"--name={name}")
    assert " 60 " in launch(*NEEDED, "--workers=11", f"--name={name}").stderr
    jobset = launch(*NEEDED, "--workers=11", f"--name={name}", "--jobset").stderr
    assert f" {63 - len('-worker-0-10-abcde')} " in jobset


@pytest.mark.parametrize(
    ("flags", "trainer", "named"),
    [
        (NEEDED[1:], TRAINER, "--image=... is missing"),
        (NEEDED[:1], TRAINER, "--volume_claim=... is missing"),
        (NEEDED, TRAINER[1:], "--config=... is missing"),
        (NEEDED, (TRAINER[0], "--workdir=/runs/../conv"), "--workdir=/runs/../conv"),
        (NEEDED, (TRAINER[0], "--workdir=/runs"), "--workdir=/runs"),
        (NEEDED, (TRAINER[0], "--workdir=/runs/7"), "--name=7"),
        ((*NEEDED, "--mount=runs"), TRAINER, "--mount=runs"),
        ((*NEEDED, "--mount=/"), TRAINER, "--mount=/"),
        ((*NEEDED, "--name=conv-"), TRAINER, "--name=conv-"),
        ((*NEEDED, "--env=a-b=1"), TRAINER, "--env=a-b=1"),
        ((*NEEDED, "--env=TF_CONFIG={}"), TRAINER, "--env=TF_CONFIG={}"),
        ((*NEEDED, "--workers=0"), TRAINER, "--workers=0"),
        ((*NEEDED, "--port=80"), TRAINER, "--port=80"),
        ((*NEEDED, "--grace_seconds=0"), TRAINER, "--grace_seconds=0"),
    ],
)
def test_a_wrong_flag_gets_one_line_and_status_2(flags, trainer, named):
    result = launch(*flags, trainer=trainer)
    assert result.returncode == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_apply_hands_the_manifest_to_kubectl_and_its_status_on(tools, tmp_path):
    seen = tmp_path / "seen"
    reads = f"import sys; open({str(seen)!r}, 'w').write(sys.stdin.read())"
    kubectl = f"{reads}; sys.exit(7 if sys.argv[1:] == ['apply', '-f', '-'] else 1)"
    result = launch(*NEEDED, "--apply", PATH=tools(kubectl=kubectl))
    assert result.returncode == 7
    assert not result.stdout
    assert list(yaml.safe_load_all(seen.read_text())) == printed()


def test_apply_without_kubectl_gets_one_line_and_status_2(tmp_path):
    result = launch(*NEEDED, "--apply", PATH=str(tmp_path))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "kubectl" in result.stderr
