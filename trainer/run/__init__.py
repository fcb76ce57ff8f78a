"""A run is its workdir: config, checkpoints, metrics."""
