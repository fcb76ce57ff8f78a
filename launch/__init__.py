"""Launchers: several processes of one machine, sweeps, Slurm, Kubernetes."""
