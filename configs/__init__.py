"""One file per recorded run: source, command, measured result. `base.py` has the defaults."""
