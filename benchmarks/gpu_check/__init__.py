"""Checks a machine with GPUs: one command, ten minutes, one Markdown file (`make gpu-check`)."""
