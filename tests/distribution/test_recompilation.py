"""Calls of the training function share one compilation."""

import json
import subprocess
import sys

import pytest

from tests.launched import ROOT


@pytest.mark.slow
def test_xla_compiles_no_kind_anew_at_another_step_and_with_other_weights(tmp_path):
    command = [sys.executable, "-m", "tests.distribution.recompiled", f"--folder={tmp_path}"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert json.loads(output.splitlines()[-1]) == []
