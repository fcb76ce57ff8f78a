"""Starts the trainer in many places: processes of one machine, Slurm, Kubernetes."""
