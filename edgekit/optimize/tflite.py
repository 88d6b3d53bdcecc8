"""TensorFlow Lite files: from a network, float or int8, and back to a network."""

from edgekit.optimize.tflite_read import read_tflite
from edgekit.optimize.tflite_write import write_tflite

__all__ = ["read_tflite", "write_tflite"]
