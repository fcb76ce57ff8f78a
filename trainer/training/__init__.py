"""Parts of the training loop: logging, steps per call, signals, loss spikes."""
