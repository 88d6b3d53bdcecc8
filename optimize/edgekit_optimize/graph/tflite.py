"""TensorFlow Lite files: from a network, float or int8, and back to a network."""

from edgekit_optimize.graph.tflite_read import read_tflite
from edgekit_optimize.graph.tflite_write import write_tflite

__all__ = ["read_tflite", "write_tflite"]
