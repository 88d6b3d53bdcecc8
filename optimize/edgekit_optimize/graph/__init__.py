"""The network description in NumPy, with its readers and writers for TensorFlow Lite, ONNX and OpenVINO."""
