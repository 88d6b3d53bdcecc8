"""Checks any server of the Open Inference Protocol v2 over HTTP: what it must answer and must refuse.

    pip install edgekit-conformance
    pytest --oip-url http://127.0.0.1:8000

It needs pytest alone, and a loaded model of one FP32 input. Extensions that it does not list are skipped.
"""
