"""What a person watches: TensorBoard, figures, progress, goodput, profiles."""
