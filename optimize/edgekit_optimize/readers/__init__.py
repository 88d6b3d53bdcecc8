"""Readers: bring a trained model of any supported format into every form that makers start from.

In: ONNX, TensorFlow Lite, OpenVINO IR, Keras, a torch program (``.pt2``) or a function that builds a torch
module. Out: a ``Root`` (batch 1, static shapes, a file per form, the reason for each form that is missing)
and its ``Origin``. ``check_root`` then compares every form with the source on real inputs. Example::

    root, origin = read_source("model.onnx", folder)
    root = check_root(root, samples)
"""
