"""Reads and writes networks as TensorFlow Lite files."""

from edgekit_optimize.graph.tflite_read import read_tflite
from edgekit_optimize.graph.tflite_write import write_tflite

__all__ = ["read_tflite", "write_tflite"]
