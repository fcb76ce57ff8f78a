"""XLA's GPU compiler in TensorFlow's wheel, built and called; the compiler needs no GPU."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.gpu_compile.devices import describe

HERE = Path(__file__).parent

_NVCC = "nvidia-cuda-nvcc-cu12"
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"  # as TensorFlow sets it with op determinism
_TIMEOUT_SECONDS = 900


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of one program for one device."""

    hlo: str  # after all passes
    thunks: str  # the launches, in order and nested
    ptx: str


class CompilerError(Exception):
    """XLA or ptxas refused a program."""


def missing_tool() -> str | None:
    """Returns a line on a required tool that is missing, or None."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    if _cuda_folder() is None:
        return f"{_NVCC} is not installed; pip install .[gpu_compile] installs it"
    return None


def build(folder: Path) -> Path:
    """Builds the program that calls the compiler, in about a minute, and returns its path."""
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    assert spec.origin is not None
    tensorflow = Path(spec.origin).parent
    include = tensorflow / "include"
    llvm = include / "external" / "llvm-project"
    program = folder / "gpu_compile"
    command = [
        *("g++", "-std=c++17", "-O0", "-w", "-fvisibility-inlines-hidden"),
        *("-D_GLIBCXX_USE_CXX11_ABI=1", "-DEIGEN_MAX_ALIGN_BYTES=64"),
        *(f"-I{HERE}", f"-I{include}", f"-I{include}/external/highwayhash"),
        *(f"-I{llvm}/llvm/include", f"-I{llvm}/mlir/include"),
        *(str(HERE / "gpu_compile.cc"), "-o", str(program)),
        *("-Wl,--no-as-needed", f"-L{tensorflow}", f"-Wl,-rpath,{tensorflow}"),
        *("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"),
    ]
    subprocess.run(command, check=True, timeout=_TIMEOUT_SECONDS)
    return program


def compile_module(program: Path, module: Path, device: str, flags: str, folder: Path) -> Compiled:
    """Compiles an HLO module for a device under XLA's flags, and assembles the PTX by ptxas.

    Raises:
      CompilerError: the module does not compile, or its PTX does not assemble.
    """
    cuda = _cuda_folder()
    assert cuda is not None
    folder.mkdir(parents=True)
    optimized = folder / "optimized.txt"
    all_flags = [
        *(flags, _DETERMINISTIC, f"--xla_gpu_cuda_data_dir={cuda}"),
        *(f"--xla_dump_to={folder}", "--xla_dump_hlo_as_text"),
    ]
    environment = os.environ | {"XLA_FLAGS": " ".join(all_flags), "TF_CPP_MIN_LOG_LEVEL": "2"}
    described = folder / "device.txtpb"
    described.write_text(describe(device))
    run([str(program), str(module), str(described), str(optimized)], environment)
    # XLA writes the sequence after its passes only where a pass has changed it.
    thunks = _only(folder, "*.thunk_sequence_after_thunk_passes.txt") or _only(
        folder, "*.thunk_sequence.txt"
    )
    ptx = _only(folder, "*.ptx")
    assert thunks is not None
    assert ptx is not None
    text = ptx.read_text()
    target = re.search(r"^\.target (\w+)", text, re.MULTILINE)
    assert target is not None
    assembled = str(folder / "assembled.cubin")
    run([str(cuda / "bin" / "ptxas"), f"-arch={target[1]}", "-o", assembled, str(ptx)])
    compiled = Compiled(optimized.read_text(), thunks.read_text(), text)
    shutil.rmtree(folder)  # tens of megabytes each
    return compiled


def _cuda_folder() -> Path | None:
    """Returns the folder of ptxas and libdevice in NVIDIA's package."""
    try:
        found = importlib.metadata.distribution(_NVCC).locate_file("nvidia/cuda_nvcc")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found))


def _only(folder: Path, pattern: str) -> Path | None:
    paths = list(folder.glob(pattern))
    assert len(paths) < 2, f"{len(paths)} programs in {folder}"
    return paths[0] if paths else None


def run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a command in the project; raises CompilerError with its line of error if it fails."""
    done = subprocess.run(
        command,
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        errors = [line for line in lines if "error" in line.lower()]
        raise CompilerError((errors or lines)[-1])
