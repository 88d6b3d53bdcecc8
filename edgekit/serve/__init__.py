"""Local serving of predictions over the Open Inference Protocol."""
