"""No secret is in what a launcher writes or a mistake says; tests/test_docs.py looks at runs."""

from pathlib import Path

import pytest

from tests.runs import files_in
from tests.typed import outcomes

ROOT = Path(__file__).parent.parent
PLANTED = "hunter2-0f3c9a7d41"
SECRETS = dict.fromkeys(
    ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "PASSWORD", "HTTPS_PROXY", "LD_NOTHING"),
    f"https://me:{PLANTED}@proxy",
)
TRAINER = ["--", "--config=c.py", "--workdir=/runs/w"]
JOBS = [
    ["launch.slurm", "--nodes=2", "--output=job.sh"],
    ["launch.kubernetes", "--image=i", "--volume_claim=c", "--workers=2", "--tensorboard"],
]
UNKNOWN = [  # a flag that is not known, and its value
    ["trainer", f"--api_token={PLANTED}", f"--config={ROOT}/configs/dense.py", "--workdir=w"],
    ["launch.local", f"--api_token={PLANTED}", *TRAINER],
]


@pytest.mark.parametrize(
    ("commands", "ends", "files"),
    [([job + TRAINER for job in JOBS], (0, "/runs/w"), 1), (UNKNOWN, (2, "api_token"), 0)],
)
def test_no_secret_is_in_what_a_launcher_writes_or_an_unknown_flag_says(
    commands, ends, files, tmp_path
):
    done = outcomes("light", [["-m", *words] for words in commands], tmp_path, **SECRETS)
    found = files_in(tmp_path)
    assert len(found) == files
    for status, output in done:
        assert status == ends[0], output
        assert any(ends[1] in text for text in (output, *map(bytes.decode, found.values())))
        assert not any(PLANTED in text for text in (output, *map(bytes.decode, found.values())))
