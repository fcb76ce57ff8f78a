"""The workdir of a run: config (refuses another on a resume), checkpoints, metrics."""
