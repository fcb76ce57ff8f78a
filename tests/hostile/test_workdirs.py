"""Whatever the files of a workdir hold, they are read, or refused in one line."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import strategies as st

from configs import dense
from tests.hostile.corpus import damages, few_or_many, refused_in_one_line, try_many
from tests.runs import found
from trainer.config import parse
from trainer.monitoring.goodput import FILE as GOODPUT
from trainer.monitoring.goodput import Clock
from trainer.run import workdir
from trainer.run.metrics_log import is_measured, training_seconds
from trainer.storage import atomic

STATE = {"model/kernel": np.ones(3, np.float32)}
NEWEST = f"{workdir.CHECKPOINTS}/step-0000000004"
OF_JSON = (workdir.CONFIG, workdir.METRICS_LOG, workdir.METRICS, GOODPUT)


@pytest.fixture
def run(tmp_path):
    """A workdir as a run leaves it, but for its state."""
    run = workdir.open_run(tmp_path, parse(dense.get_config()), "0123abcd", {"image_shape": [28]})
    run.write()
    for step in (2, 4):
        run.log.append({"step": step, "split": "train", "loss": 0.5, "images_per_second": 1e4})
        run.checkpoints.save(step, STATE, validation_loss=0.5, keep=3)
    atomic.write_json(tmp_path / workdir.METRICS, {"step": 4, "mse": 0.5})
    Clock().write(tmp_path)
    return tmp_path


def look_at(run):
    """Reads what a workdir holds, as the commands do."""
    opened = workdir.open_run(run, parse(dense.get_config()), "0123abcd", {})
    training_seconds(opened.log.rows(), 64)
    is_measured(run)
    workdir.read_metrics(run)
    Clock().resume(run)
    for checkpoint in ("last", "best"):
        assert found(run, checkpoint).state()["model/kernel"].tolist() == [1, 1, 1]
    opened.log.forget_after(2)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def other_meanings(content):
    """JSON, or its last line, in which one of the first keys, or all, is another value."""
    *lines, last = content.decode().splitlines() if b"}\n{" in content else [content.decode()]
    right = json.loads(last)
    keys = st.sampled_from([None, *list(right)[:8]])

    def changed(key, value):
        other = value if key is None else right | {key: value}
        return "\n".join([*lines, json.dumps(other), ""]).encode()

    return st.builds(changed, keys, VALUES)


@pytest.mark.parametrize("name", [*OF_JSON, f"{NEWEST}/manifest.json", f"{NEWEST}/state.npz"])
@few_or_many(600)
def test_a_damaged_or_changed_file_of_a_workdir_is_read_or_refused(run, name, examples):
    path, log = run / name, run / workdir.METRICS_LOG
    content, rows = path.read_bytes(), log.read_bytes()

    def meet(damaged):
        log.write_bytes(rows)
        path.write_bytes(damaged)
        with refused_in_one_line():
            look_at(run)

    try_many(examples, damages(content), meet)
    if name in OF_JSON:
        try_many(examples, other_meanings(content), meet)


def test_no_manifest_leads_out_of_its_folder(run):
    (run / "outside").mkdir()
    own = workdir.read(run)
    steps: list[object] = ["../../outside", "/etc/passwd", -1, 10**12, "4", None, [], 4.5]
    for step in steps:
        digests = {"run_id": own.run_id, "state_sha256": "0" * 64}
        manifest = {"step": step, "validation_loss": 0.1} | digests
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        signed = json.dumps({"manifest": manifest, "manifest_sha256": digest})
        (run / NEWEST / "manifest.json").write_text(signed)
        assert found(run).path == run / workdir.CHECKPOINTS / "step-0000000002"
        own.checkpoints.save(6, STATE, validation_loss=None, keep=3)
        own.checkpoints.set_aside_after(4)
        folders = sorted(path.name for path in run.iterdir() if path.is_dir())
        assert folders == ["checkpoints", "outside"]
