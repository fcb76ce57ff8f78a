"""TensorBoard, figures, progress bar, goodput, profiles."""
