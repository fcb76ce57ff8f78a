"""One file a run: what it is, the command, the measured result. Keys: `configs/base.py`."""
