"""The compression kit: from one trained float model to the fastest variant for each board.

Runs on a workstation, never on a device. In: a trained model (ONNX, TensorFlow Lite, OpenVINO, Keras or
torch), sample data and the boards' profiles. Out: a bundle with the best variants and golden samples,
and a report on every candidate. ``readers`` convert the model to every format, ``makers`` build
candidates, ``run`` searches, ``shrink`` trains smaller networks, ``zoo`` builds the model zoo.

From a shell: ``edgekit optimize model.onnx --data pictures/ --targets rpi5 -o model.ekb``. From Python::

    from edgekit_optimize.run.request import Request
    from edgekit_optimize.run.run import optimize

    outcome = optimize(Request(model="model.onnx", data="pictures/", out=Path("model.ekb")))
    print(outcome.bundle, outcome.report)
"""

import os

# read when ONNX Runtime is first imported, which several makers do by way of its tools
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
