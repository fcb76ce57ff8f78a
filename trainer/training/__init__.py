"""Parts of the training loop: resuming, logging, steps per call, signals, loss spikes."""
