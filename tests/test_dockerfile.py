"""The images, as far as the Dockerfile tells; `make test-docker` builds one and runs it."""

import fnmatch
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = ["configs", "launch", "trainer"]


def stages():
    """Each stage's instructions as (keyword, rest), after those of the stages it builds on."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    for line in text.splitlines():
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            below, _, name = rest.partition(" AS ")
            found[name] = list(found.get(below, []))
        elif keyword.isupper() and found:
            found[name].append((keyword, rest.strip()))
    return found


def copied(stage):
    """The paths that a stage copies from the context."""
    rests = (rest for keyword, rest in stages()[stage] if keyword == "COPY")
    return {path for rest in rests if "--from" not in rest for path in rest.split()[:-1]}


def is_ignored(path):
    """Whether .dockerignore keeps a path of the repository out; the last pattern decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        # Two forms are in use: `**/name` at any depth, and a pattern at the top.
        name = path.name if pattern.startswith("**/") else path.parts[0]
        if fnmatch.fnmatchcase(name, pattern.removeprefix("**/")):
            ignored = not line.startswith("!")
    return ignored


def package_files(folder):
    """The modules of a package, and the templates that launchers fill in."""
    paths = (path for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".sh"))
    return {str(path.relative_to(folder)) for path in paths}


def test_the_context_is_all_of_the_package_and_what_is_copied_and_little_else(tmp_path):
    def ignore(folder, names):
        return [name for name in names if is_ignored(Path(folder, name).relative_to(ROOT))]

    context = shutil.copytree(ROOT, tmp_path / "context", ignore=ignore)
    assert all((context / path).exists() for stage in stages() for path in copied(stage))
    build = ["setup.py", "--quiet", "build", f"--build-lib={tmp_path / 'built'}"]
    subprocess.run([sys.executable, *build], cwd=context, check=True)
    expected = {f"{name}/{path}" for name in PACKAGES for path in package_files(ROOT / name)}
    assert package_files(tmp_path / "built") == expected
    assert {path.name for path in context.iterdir() if path.is_dir()} <= {*PACKAGES, "build"}


def test_a_change_of_the_code_reinstalls_no_dependency_and_the_last_stage_is_for_gpus():
    dependencies = copied("dependencies") | copied("cuda-dependencies")
    assert dependencies == {"constraints.txt", "setup.py"}
    assert list(stages())[-1] == "cuda"
    for_gpus = [any("[cuda]" in rest for _, rest in stages()[stage]) for stage in ("cpu", "cuda")]
    assert for_gpus == [False, True]


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_a_run_is_python_itself_is_not_root_and_keeps_its_caches_in_volumes(stage):
    last = dict(stages()[stage])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert json.loads(last["ENTRYPOINT"]) == ["python", "-m", "trainer"]  # gets signals
    variables = dict(pair.split("=", 1) for pair in last["ENV"].split())
    caches = {variables[name] for name in ("TFDS_DATA_DIR", "CUDA_CACHE_PATH")}
    assert caches <= set(json.loads(last["VOLUME"]))


def requirements(name, extras):
    """The requirements of a package on this platform, with those of its extras."""
    for requirement in map(Requirement, importlib.metadata.requires(name) or []):
        marker = requirement.marker
        if not marker or any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            yield requirement


def test_each_package_of_the_images_is_pinned_to_a_version_that_fits():
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    waiting = [*requirements("autoencoder-trainer", {"cuda"})]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pins.get(name, "")), requirement
        # CUDA's wheels are on no machine without a GPU, and require one another alone.
        if str(requirement) not in seen and not name.startswith("nvidia-"):
            waiting += requirements(name, requirement.extras)
        seen.add(str(requirement))
    assert any(requirement.startswith("nvidia-") for requirement in seen)
