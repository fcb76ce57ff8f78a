"""Marks of single cases of a test."""

import pytest


def slow(*values):
    """Marks a case that only `make test-slow` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)
