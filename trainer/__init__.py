"""Train, measure and keep autoencoders."""
