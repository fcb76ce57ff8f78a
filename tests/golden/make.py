"""python -m tests.golden.make: trains the golden run anew, after a change of a run's files."""

import shutil
from pathlib import Path

from configs import base
from trainer.training.train import train

GOLDEN = Path(__file__).parent / "run"
LAST_STEP = 10


def golden_config(last_step=LAST_STEP):
    """Returns the config of a run of so many steps on the embedded digits, of 8x8 pixels."""
    config = base.get_config("dense")
    config.data.image_size = 8
    config.model.update({"hidden_units": (8,), "code_size": 2})
    config.optimizer.schedule = "constant"
    config.update({"batch_size": 64, "num_epochs": last_step * 64 / 1366, "execution": "graph"})
    config.update({"log_every_steps": 5, "figures": False, "quiet": True})
    return config


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    train(golden_config(), str(GOLDEN))
    for path in GOLDEN.iterdir():  # event files and times differ each time
        if path.name not in ("config.json", "checkpoints", "metrics.jsonl"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
    shutil.rmtree(GOLDEN / "checkpoints" / "step-0000000000")
