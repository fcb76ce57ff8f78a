"""A trained run for others: codes, samples, exports."""
