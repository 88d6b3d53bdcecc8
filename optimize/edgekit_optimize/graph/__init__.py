"""Neural networks as data: read from a model file, quantised, and written as another format.

In: a float ONNX or TensorFlow Lite file (``onnx_network.read_onnx``, ``tflite.read_tflite``), or layers built
by hand. Out: TensorFlow Lite, ONNX or OpenVINO files, float or int8. In between is a ``Network``: layers in
the order they run, channels-last, which NumPy can execute without any runtime library.

>>> from edgekit_optimize.graph.network import Layer, Network
>>> Network({"x": (1, 2)}, (Layer("relu", ("x",), "y"),), ("y",)).run({"x": [[-1, 3]]})["y"].tolist()
[[0.0, 3.0]]
"""
