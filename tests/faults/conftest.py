"""The faults are drawn anew each time; FAULTS_SEED repeats those of a time before."""

import os
import secrets

import numpy as np
import pytest

SEED = int(os.environ.get("FAULTS_SEED") or secrets.randbelow(2**32))


def pytest_report_header():
    return f"FAULTS_SEED={SEED}"


@pytest.fixture
def drawn(request):
    """The generator that a test's faults are drawn from; one that fails shows its seed."""
    print(f"FAULTS_SEED={SEED}")
    return np.random.default_rng([SEED, *request.node.name.encode()])
