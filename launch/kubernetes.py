"""python -m launch.kubernetes --workers=4 --gpus=8 --image=IMAGE --volume_claim=CLAIM -- ...

Prints what Kubernetes 1.31 or later starts the workers by: an Indexed Job and a headless Service,
or a JobSet. No worker can train by itself: when one ends, the others end within 30 seconds, and all
are started again. That counts as a restart of the whole, unless they wrote a checkpoint (status
75) or the cluster took the pod away; the user's mistake (status 2) ends the Job.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml
from absl import flags

from launch import arguments
from trainer.errors import Preempted, UserError, require

_IMAGE = flags.DEFINE_string("image", "", "The container image; its ENTRYPOINT is not used.")
_VOLUME_CLAIM = flags.DEFINE_string(
    "volume_claim", "", "The PersistentVolumeClaim that holds the workdir."
)
_MOUNT = flags.DEFINE_string("mount", "/runs", "Where it is mounted; the workdir lies under it.")
_NAME = flags.DEFINE_string("name", "", "Of the Job; by default the last part of the workdir.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Pods that train together.", lower_bound=1)
_GPUS = flags.DEFINE_integer("gpus", 1, "NVIDIA GPUs of each; 0: trains on CPUs.", lower_bound=0)
_CPUS = flags.DEFINE_integer("cpus", 0, "CPUs of each; 0: not said.", lower_bound=0)
_MEMORY_GIB = flags.DEFINE_integer("memory_gib", 0, "Of each; 0: not said.", lower_bound=0)
_SHM_GIB = flags.DEFINE_integer(
    "shm_gib", 8, "The most that /dev/shm takes of that memory; NCCL uses it.", lower_bound=1
)
_RUNTIME_CLASS = flags.DEFINE_string(
    "runtime_class", "", "The RuntimeClass of the pods, where NVIDIA's is not the default: nvidia."
)
_ENV = flags.DEFINE_multi_string("env", [], "NAME=VALUE in the environment; may be repeated.")
_PORT = flags.DEFINE_integer(
    "port", 2222, "On which the workers talk.", lower_bound=1024, upper_bound=65535
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 3, "Of all workers together, after crashes.", lower_bound=0
)
_GRACE_SECONDS = flags.DEFINE_integer(
    "grace_seconds", 120, "From SIGTERM to SIGKILL, for a checkpoint.", lower_bound=1
)
_JOBSET = flags.DEFINE_bool("jobset", False, "A JobSet instead of a Job.")
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "TensorBoard too, on the same volume.")
_APPLY = flags.DEFINE_bool("apply", False, "Hands it to kubectl instead of printing it.")

_LONGEST_LABEL = 63  # of a name in DNS
_TRAINER = "trainer"
_REPLICATED_JOB = "worker"  # in a JobSet
_CUDA_CACHE = "/cache/cuda"
_TENSORBOARD_PORT = 6006

_Object = dict[str, Any]  # as it stands in the YAML


def main(trainer_flags: list[str]) -> int:
    """Prints the manifest or applies it; returns the exit status."""
    manifest = yaml.dump_all(_objects(trainer_flags), Dumper=_Dumper, sort_keys=False)
    if _APPLY.value:
        return _apply(manifest)
    print(manifest, end="")
    return 0


def _objects(trainer_flags: list[str]) -> Iterator[_Object]:
    require(bool(_IMAGE.value), "--image=... is missing")
    require(
        bool(_VOLUME_CLAIM.value), "--volume_claim=... is missing; a pod's own disk goes with it"
    )
    workdir = _workdir(trainer_flags)
    name = _name(workdir)
    if _JOBSET.value:
        yield _jobset(name, trainer_flags)
    else:
        if _WORKERS.value > 1:
            yield _headless_service(name)
        yield _job(name, trainer_flags)
    if _TENSORBOARD.value:
        yield _tensorboard(name, workdir.parent)
        yield _tensorboard_service(name)


def _workdir(trainer_flags: list[str]) -> PurePosixPath:
    mount = PurePosixPath(_MOUNT.value)
    require(
        mount.is_absolute() and ".." not in mount.parts and len(mount.parts) > 1,
        f"--mount={mount} is not allowed; it must be an absolute path below /",
    )
    workdir = PurePosixPath(arguments.flag_value(trainer_flags, "workdir") or "")
    require(
        mount in workdir.parents and ".." not in workdir.parts,
        f"--workdir={workdir} is not allowed; it must lie under --mount={mount}, "
        "since all else goes with the pod",
    )
    return workdir


def _name(workdir: PurePosixPath) -> str:
    name = _NAME.value or re.sub("[^a-z0-9]+", "-", workdir.name.lower()).strip("-")
    endings = [f"-{_WORKERS.value - 1}", "-tensorboard" if _TENSORBOARD.value else ""]
    if _JOBSET.value:
        endings.append(f"-{_REPLICATED_JOB}-0-{_WORKERS.value - 1}-12345")  # of its pods
    longest = _LONGEST_LABEL - max(map(len, endings))
    require(
        bool(re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)) and len(name) <= longest,
        f"--name={name} is not allowed; it must be at most {longest} lower-case letters, digits "
        "and hyphens, the first a letter, the last no hyphen",
    )
    return name


def _headless_service(name: str) -> _Object:
    """Gives each pod its name in DNS, even before it is ready: that is when they meet."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": _labels(name, _TRAINER),
        "ports": [{"port": _PORT.value}],
    }
    return _object("v1", "Service", name, _labels(name, _TRAINER), spec)


def _job(name: str, trainer_flags: list[str]) -> _Object:
    # All workers fail together, so each index counts the restarts of the whole. A backoffLimit
    # counts pods, and the delay before the next start would double with each of them.
    restarts = {"backoffLimitPerIndex": _MAX_RESTARTS.value, "maxFailedIndexes": 0}
    spec = _job_spec(name, trainer_flags, restarts)
    spec["template"]["spec"]["subdomain"] = name
    return _object("batch/v1", "Job", name, _labels(name, _TRAINER), spec)


def _jobset(name: str, trainer_flags: list[str]) -> _Object:
    """For a cluster with JobSet 0.6 or later, which recreates the Job once a pod of it fails."""
    job = {
        "name": _REPLICATED_JOB,
        "replicas": 1,
        "template": {"spec": _job_spec(name, trainer_flags, {"backoffLimit": 0})},
    }
    mistake = {
        "name": "mistake",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    spec = {
        "failurePolicy": {"maxRestarts": _MAX_RESTARTS.value, "rules": [mistake]},
        "network": {"enableDNSHostnames": True, "subdomain": name},
        "replicatedJobs": [job],
    }
    return _object("jobset.x-k8s.io/v1alpha2", "JobSet", name, _labels(name, _TRAINER), spec)


def _job_spec(name: str, trainer_flags: list[str], restarts: _Object) -> _Object:
    mistake, preempted = (
        {"containerName": _TRAINER, "operator": "In", "values": [error.exit_status]}
        for error in (UserError, Preempted)
    )
    taken_away = [{"type": "DisruptionTarget", "status": "True"}]
    return {
        "completionMode": "Indexed",
        "completions": _WORKERS.value,
        "parallelism": _WORKERS.value,
        **restarts,
        "podReplacementPolicy": "Failed",  # never beside a pod that is still writing a checkpoint
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": mistake},
                {"action": "Ignore", "onExitCodes": preempted},
                {"action": "Ignore", "onPodConditions": taken_away},
            ]
        },
        # The chief has written all there is; another that fails as it leaves changes nothing.
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        "template": {
            "metadata": {"labels": _labels(name, _TRAINER)},
            "spec": _trainer_pod(name, trainer_flags),
        },
    }


def _trainer_pod(name: str, trainer_flags: list[str]) -> _Object:
    amounts = {
        "cpu": str(_CPUS.value or ""),
        "memory": f"{_MEMORY_GIB.value}Gi" if _MEMORY_GIB.value else "",
        "nvidia.com/gpu": str(_GPUS.value or ""),
    }
    said = {resource: amount for resource, amount in amounts.items() if amount}
    environment = {"PYTHONUNBUFFERED": "1"}
    shm = {"emptyDir": {"medium": "Memory", "sizeLimit": f"{_SHM_GIB.value}Gi"}}
    volumes = [("shm", "/dev/shm", shm)]  # noqa: S108  # a mount of the pod
    if _GPUS.value:
        environment["CUDA_CACHE_PATH"] = _CUDA_CACHE
        volumes.append(("cuda-cache", _CUDA_CACHE, {"emptyDir": {}}))
    environment |= _users_environment()
    container = {
        "command": _command(name),
        "args": [_unexpanded(flag) for flag in trainer_flags],
        "env": [
            {"name": variable, "value": _unexpanded(value)}
            for variable, value in environment.items()
        ],
        "resources": {kind: said for kind in ("requests", "limits") if said},
    }
    pod = _pod(_TRAINER, container, volumes)
    pod |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": _GRACE_SECONDS.value}
    if _RUNTIME_CLASS.value:
        pod["runtimeClassName"] = _RUNTIME_CLASS.value
    if _GPUS.value:  # nodes with GPUs are often kept free of what asks for none
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    return pod


def _command(name: str) -> list[str]:
    """Starts the trainer as the container's first process, to which SIGTERM goes."""
    if _WORKERS.value == 1:
        return ["python", "-m", "trainer"]
    stem = f"{name}-{_REPLICATED_JOB}-0" if _JOBSET.value else name
    workers = [f"{stem}-{index}.{name}:{_PORT.value}" for index in range(_WORKERS.value)]
    cluster = json.dumps({"worker": workers})
    own = '{"type": "worker", "index": \'"$JOB_COMPLETION_INDEX"\'}'
    script = f"""export TF_CONFIG='{{"cluster": {cluster}, "task": {own}}}'
exec python -m trainer "$@"
"""
    return ["sh", "-c", script, "sh"]


def _users_environment() -> dict[str, str]:
    given = {}
    for text in _ENV.value:
        variable, equals, value = text.partition("=")
        require(
            bool(equals and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable)),
            f"--env={text} is not allowed; it is written NAME=VALUE",
        )
        require(
            variable not in ("TF_CONFIG", "JOB_COMPLETION_INDEX"),
            f"--env={text} is not allowed; {variable} is what tells the workers apart",
        )
        given[variable] = value
    return given


def _unexpanded(text: str) -> str:
    """Written so that Kubernetes, to which $(NAME) is a variable and $$ a dollar, hands it on."""
    return text.replace("$", "$$")


def _tensorboard(name: str, logdir: PurePosixPath) -> _Object:
    port = _TENSORBOARD_PORT
    options = [f"--logdir={logdir}", f"--port={port}", "--bind_all"]
    container = {
        "command": ["python", "-m", "tensorboard.main"],
        "args": [_unexpanded(option) for option in options],
        "ports": [{"containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/", "port": port}},
    }
    labels = _labels(name, "tensorboard")
    spec = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": _pod("tensorboard", container, [])},
    }
    return _object("apps/v1", "Deployment", f"{name}-tensorboard", labels, spec)


def _tensorboard_service(name: str) -> _Object:
    labels = _labels(name, "tensorboard")
    spec = {"selector": labels, "ports": [{"port": _TENSORBOARD_PORT}]}
    return _object("v1", "Service", f"{name}-tensorboard", labels, spec)


def _pod(name: str, container: _Object, volumes: list[tuple[str, str, _Object]]) -> _Object:
    """A pod of one container, with the workdir's volume and others: name, path, source.

    It may run where Kubernetes' Pod Security Standard is `restricted`.
    """
    claim = {"persistentVolumeClaim": {"claimName": _VOLUME_CLAIM.value}}
    volumes = [("runs", str(PurePosixPath(_MOUNT.value)), claim), *volumes]
    container = {
        "name": name,
        "image": _IMAGE.value,
        **container,
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path, _ in volumes],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",  # not over every file at each start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": volume, **source} for volume, _, source in volumes],
    }


def _object(version: str, kind: str, name: str, labels: _Object, spec: _Object) -> _Object:
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _labels(name: str, component: str) -> dict[str, str]:
    return {"app.kubernetes.io/instance": name, "app.kubernetes.io/component": component}


def _apply(manifest: str) -> int:
    kubectl = ["kubectl", "apply", "-f", "-"]
    try:
        return subprocess.run(kubectl, input=manifest, text=True, check=False).returncode
    except FileNotFoundError as error:
        raise UserError("--apply needs kubectl, which is not on the PATH") from error


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such, and everything in full wherever it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.text)

if __name__ == "__main__":
    arguments.run(main)
