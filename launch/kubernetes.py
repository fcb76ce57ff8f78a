"""Trains on Kubernetes 1.31 or later: prints or applies the manifests of launch/templates.

    python -m launch.kubernetes --workers=4 --gpus=8 --image=IMAGE --volume_claim=CLAIM -- ...

The workers are the pods of an Indexed Job with a headless Service, or of a JobSet. No worker can
train alone: when one ends, the others end within 30 seconds, and all are restarted. All of them
together count as one restart, and as none if they wrote a checkpoint (status 75), if other pods did
not start in time (76) or if the cluster took the pod away. A mistake of the user (status 2) fails
the Job.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import yaml
from absl import flags

from launch import arguments
from trainer.errors import UserError, require

_IMAGE = flags.DEFINE_string("image", "", "Container image. Its ENTRYPOINT is not used.")
_VOLUME_CLAIM = flags.DEFINE_string(
    "volume_claim", "", "PersistentVolumeClaim that holds the workdir."
)
_MOUNT = flags.DEFINE_string(
    "mount", "/runs", "Path to mount the volume at; the workdir must lie under it."
)
_NAME = flags.DEFINE_string("name", "", "Name of the Job. Default: the workdir's name.")
_WORKERS = flags.DEFINE_integer(
    "workers", 1, "Number of pods, each of which runs one worker.", lower_bound=1
)
_GPUS = flags.DEFINE_integer("gpus", 1, "NVIDIA GPUs of each pod; 0: train on CPUs.", lower_bound=0)
_CPUS = flags.DEFINE_integer(
    "cpus", 0, "CPUs to request for each pod; 0: no request.", lower_bound=0
)
_MEMORY_GIB = flags.DEFINE_integer(
    "memory_gib", 0, "GiB of memory to request for each pod; 0: no request.", lower_bound=0
)
_SHM_GIB = flags.DEFINE_integer(
    "shm_gib",
    None,
    "Size limit of /dev/shm, which NCCL uses, in GiB; it is part of the memory. Default: 8, or "
    "half of --memory_gib if that is less.",
    lower_bound=1,
)
_RUNTIME_CLASS = flags.DEFINE_string(
    "runtime_class",
    "",
    "RuntimeClass of the pods; nvidia, if that is not the cluster's default runtime.",
)
_ENV = flags.DEFINE_multi_string("env", [], "Environment variable of the pods, NAME=VALUE")
_PORT = flags.DEFINE_integer(
    "port", 2222, "TCP port on which the workers connect.", lower_bound=1024, upper_bound=65535
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 3, "How often all workers are restarted after crashes.", lower_bound=0
)
_GRACE_SECONDS = flags.DEFINE_integer(
    "grace_seconds",
    120,
    "Seconds that a pod has after SIGTERM to write a checkpoint.",
    lower_bound=1,
)
_JOBSET = flags.DEFINE_bool("jobset", False, "Make a JobSet instead of a Job.")
_TENSORBOARD = flags.DEFINE_bool("tensorboard", False, "Start TensorBoard, on the same volume.")
_APPLY = flags.DEFINE_bool(
    "apply", False, "Hand the manifests to kubectl instead of printing them."
)

_MAX_SHM_GIB = 8  # by default
_MAX_LABEL = 63  # characters of a name in DNS
_CUDA_CACHE = "/cache/cuda"


def main(trainer_flags: list[str]) -> int:
    """Prints or applies the manifests; returns the exit status."""
    manifests = render(trainer_flags)
    if _APPLY.value:
        return _apply(manifests)
    print(manifests, end="")
    return 0


def render(trainer_flags: list[str]) -> str:
    """Returns the manifests as YAML documents.

    Raises:
      UserError: a flag is missing or not allowed.
    """
    require(bool(_IMAGE.value), "--image=... is missing")
    require(
        bool(_VOLUME_CLAIM.value),
        "--volume_claim=... is missing; a pod's own disk is lost with the pod",
    )
    values = _values(trainer_flags)
    (job,) = _fill("job.yaml", values)
    objects = [job]
    if _JOBSET.value:
        objects = list(_fill("jobset.yaml", {**values, "job_spec": job["spec"]}))
    elif _WORKERS.value > 1:
        objects = [*_fill("service.yaml", values), job]
    if _TENSORBOARD.value:
        objects += _fill("tensorboard.yaml", values)
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False)


def _values(trainer_flags: list[str]) -> dict[str, Any]:
    """Returns the values of the placeholders and conditions of the templates."""
    workdir = _workdir(trainer_flags)
    name = _name(workdir)
    host = f"{name}-worker-0" if _JOBSET.value else name
    addresses = [f"{host}-{index}.{name}:{_PORT.value}" for index in range(_WORKERS.value)]
    return {
        **{
            flag.name: flag.value
            for flag in (
                *(_IMAGE, _VOLUME_CLAIM, _WORKERS, _GPUS),
                *(_RUNTIME_CLASS, _PORT, _MAX_RESTARTS, _GRACE_SECONDS),
            )
        },
        "shm_gib": _shm_gib(),
        "jobset": _JOBSET.value,
        "job": not _JOBSET.value,
        "several": _WORKERS.value > 1,
        "single": _WORKERS.value == 1,
        "name": name,
        "addresses": json.dumps(addresses),
        "mount": str(PurePosixPath(_MOUNT.value)),
        "logdir": _escape(str(workdir.parent)),
        "cuda_cache": _CUDA_CACHE,
        "args": [_escape(flag) for flag in trainer_flags],
        "env": [{"name": key, "value": _escape(value)} for key, value in _environment().items()],
        "resources": _resources(),
    }


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
        "since other files are lost with the pod",
    )
    return workdir


def _name(workdir: PurePosixPath) -> str:
    """Returns the Job's name, from which the names of the pods and services are made."""
    name = _NAME.value or re.sub("[^a-z0-9]+", "-", workdir.name.lower()).strip("-")
    endings = [f"-{_WORKERS.value - 1}", "-tensorboard" if _TENSORBOARD.value else ""]
    if _JOBSET.value:
        endings.append(f"-worker-0-{_WORKERS.value - 1}-12345")  # of its pods
    longest = _MAX_LABEL - max(map(len, endings))
    require(
        bool(re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)) and len(name) <= longest,
        f"--name={name} is not allowed; it must be at most {longest} lower-case letters, digits "
        "and hyphens, the first a letter, the last no hyphen",
    )
    return name


def _environment() -> dict[str, str]:
    variables = {"PYTHONUNBUFFERED": "1"}
    if _GPUS.value:
        variables["CUDA_CACHE_PATH"] = _CUDA_CACHE
    for text in _ENV.value:
        variable, equals, value = text.partition("=")
        require(
            bool(equals and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable)),
            f"--env={text} is not allowed; it is written NAME=VALUE",
        )
        require(
            variable not in ("TF_CONFIG", "JOB_COMPLETION_INDEX"),
            f"--env={text} is not allowed; the launcher sets {variable}, which names the worker",
        )
        variables[variable] = value
    return variables


def _resources() -> dict[str, dict[str, str]]:
    amounts = {
        "cpu": str(_CPUS.value or ""),
        "memory": f"{_MEMORY_GIB.value}Gi" if _MEMORY_GIB.value else "",
        "nvidia.com/gpu": str(_GPUS.value or ""),
    }
    given = {resource: amount for resource, amount in amounts.items() if amount}
    # A limit of CPU time would stall TensorFlow, which has a thread for each core of the machine.
    limits = {resource: amount for resource, amount in given.items() if resource != "cpu"}
    return {"requests": given, **({"limits": limits} if limits else {})} if given else {}


def _shm_gib() -> int:
    memory, shm = _MEMORY_GIB.value, _SHM_GIB.value
    if shm is None:
        return min(_MAX_SHM_GIB, max(1, memory // 2)) if memory else _MAX_SHM_GIB
    require(
        not memory or shm < memory,
        f"--shm_gib={shm} is not allowed; it is part of --memory_gib={memory}, and must be less",
    )
    return shm


def _escape(text: str) -> str:
    """Doubles each dollar sign, since Kubernetes expands $(NAME) and reads $$ as $."""
    return text.replace("$", "$$")


def _fill(template: str, values: dict[str, Any]) -> Iterator[Any]:
    """Fills in a template: keeps the lines whose condition holds; yields its objects."""
    file = resources.files("launch").joinpath("templates", template)
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        condition = re.search(r" *# if (\w+)$", line)
        if condition is None:
            lines.append(line)
        elif values[condition[1]]:
            lines.append(line[: condition.start()])
    for item in yaml.safe_load_all("\n".join(lines)):
        yield _replace(item, values)


def _replace(node: Any, values: dict[str, Any]) -> Any:
    """Replaces each `${name}` by its value; a text of one placeholder keeps the value's type."""
    if isinstance(node, dict):
        return {key: _replace(child, values) for key, child in node.items()}
    if isinstance(node, list):
        return [_replace(child, values) for child in node]
    if not isinstance(node, str):
        return node
    alone = re.fullmatch(r"\$\{(\w+)\}", node)
    return values[alone[1]] if alone else re.sub(r"\$\{(\w+)\}", lambda m: str(values[m[1]]), node)


def _apply(manifests: str) -> int:
    kubectl = ["kubectl", "apply", "-f", "-"]
    try:
        return subprocess.run(kubectl, input=manifests, text=True, check=False).returncode
    except FileNotFoundError as error:
        raise UserError("--apply needs kubectl, which is not on the PATH") from error


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as a block, and repeats objects instead of using anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.text)

if __name__ == "__main__":
    arguments.run(main)
