"""The lab notebook, a file a run: source, command, measured result. `base.py` has the defaults."""
