"""Uses of a trained run: codes, samples, exports."""
