"""Readers of data files, which training and serving share."""
