"""The console script `trainer`: `trainer encode ...` is `python -m trainer.encode ...`."""

import importlib.util
import runpy
import sys


def main() -> None:
    """Runs the command named first, or a training if a flag comes first."""
    sys.path.insert(0, "")  # as python -m does: packages of one's own are found
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    is_command = name.isidentifier() and importlib.util.find_spec(f"trainer.{name}") is not None
    if is_command:
        del sys.argv[1]
    runpy.run_module(
        f"trainer.{name}" if is_command else "trainer", run_name="__main__", alter_sys=True
    )
