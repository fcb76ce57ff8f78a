"""What a launcher refuses: one line that names it, status 2, and nothing is started."""

import pytest

from tests.launched import run_launcher

CONFIG, WORKDIR = "--config=c.py", "--workdir=/runs/conv"
RUN = ("--", CONFIG, WORKDIR)
POD = ("--image=i", "--volume_claim=c")
MISTAKES = [
    ("local", ["--workers=0", *RUN], "--workers=0"),
    ("local", ["--workers=2"], "--config=... is missing"),
    ("local", ["--", WORKDIR], "--config=... is missing"),
    ("local", ["--", CONFIG], "--workdir=... is missing"),
    ("local", ["--config=x", *RUN], "'config'"),
    ("local", ["x", *RUN], "'x' is not a flag"),
    ("sweep", RUN, "--grid=config.KEY=VALUE,VALUE,... is missing"),
    ("sweep", ["--grid=config.seed=1", "--parallel=2", *RUN], "parallel=2"),
    (
        "sweep",
        ["--grid=config.seed=1", *RUN, "--config.seed=64"],
        "config.seed is in --grid, and 64 after --",
    ),
    ("slurm", ["--time=tomorrow", *RUN], "--time='tomorrow'"),
    ("slurm", ["--time=1:2:3:4", *RUN], "--time='1:2:3:4'"),
    ("slurm", ["--time=4:59", *RUN], "--time='4:59'"),
    ("slurm", ["--time=0:02:00", *RUN], "at least 5 minutes"),
    ("slurm", ["--sbatch=--array=0-3", *RUN], "--sbatch='--array=0-3'"),
    ("slurm", ["--name=a\n#SBATCH --x", *RUN], "--name='a\\n#SBATCH --x'"),
    ("slurm", ["--sbatch=exclusive", *RUN], "--sbatch='exclusive'"),
    ("slurm", ["--sbatch=--x\necho y", *RUN], "--sbatch='--x\\necho y'"),
    ("slurm", ["--python=", *RUN], "--python="),
    ("slurm", ["--submit", "--output=none/job.sh", *RUN], "--output=none/job.sh"),
    ("slurm", ["--submit=3", *RUN], "--submit=3 is not allowed; it takes true or false"),
    ("slurm", ["--submit", *RUN], "there is no sbatch here"),
    ("kubernetes", [*POD[1:], *RUN], "--image=... is missing"),
    ("kubernetes", [*POD[:1], *RUN], "--volume_claim=... is missing"),
    ("kubernetes", [*POD, "--mount=runs", *RUN], "--mount=runs"),
    ("kubernetes", [*POD, "--mount=/", *RUN], "--mount=/"),
    ("kubernetes", [*POD, *RUN, "--workdir=/runs/../conv"], "--workdir=/runs/../conv"),
    ("kubernetes", [*POD, *RUN, "--workdir=/runs"], "--workdir=/runs"),
    ("kubernetes", [*POD, *RUN, "--workdir=/runs/7"], "--name=7"),
    ("kubernetes", [*POD, "--workers=11", f"--name={'c' * 61}", *RUN], " 60 "),
    ("kubernetes", [*POD, "--workers=11", f"--name={'c' * 46}", "--jobset", *RUN], " 45 "),
    ("kubernetes", [*POD, "--env=a-b=1", *RUN], "--env=a-b=1"),
    ("kubernetes", [*POD, "--env=TF_CONFIG={}", *RUN], "--env=TF_CONFIG={}"),
    ("kubernetes", [*POD, "--memory_gib=4", "--shm_gib=4", *RUN], "--shm_gib=4"),
    ("kubernetes", [*POD, "--apply", *RUN], "kubectl"),
]


@pytest.mark.parametrize(("launcher", "arguments", "named"), MISTAKES)
def test_a_mistake_gets_one_line_and_status_2(launcher, arguments, named, tmp_path):
    result = run_launcher(
        launcher, *arguments, cwd=tmp_path, PATH=str(tmp_path), CUDA_VISIBLE_DEVICES="0,1,2"
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
