"""Silero's voice activity detector, versions 4 and 5 and later, at 16 kHz.

Source: silero-vad 6.2.3, ``OnnxWrapper``: windows of 512 samples after the last 64 of the window before
(version 4 has no such context), state carried from window to window.
"""

from __future__ import annotations

from edgekit.core.spec import Finding, State
from edgekit.importer.findings import Conclusion, Input, Output
from edgekit.importer.model_file import ModelFile

_WINDOW, _CONTEXT, _RATE_HZ = 512, 64, 16_000
_STATES = {
    ("input", "sr", "state"): ({"state": "stateN"}, (2, 1, 128), _CONTEXT),
    ("c", "h", "input", "sr"): ({"h": "hn", "c": "cn"}, (2, 1, 64), 0),
}
"""By the inputs' names: state and its output, the state's shape, samples of context."""


def recognise(file: ModelFile) -> Conclusion | None:
    """Return the conclusion for a file with the inputs and outputs of Silero's detector."""
    names = tuple(sorted(tensor.name for tensor in file.inputs))
    if names not in _STATES:
        return None
    pairs, shape, context = _STATES[names]
    outputs = {tensor.name for tensor in file.outputs}
    if not {"output", *pairs.values()} <= outputs:
        return None
    why = "Silero's own, at 16 kHz"
    return Conclusion(
        family="silero",
        findings=(
            Finding("task", "voice", "signature", f"inputs {', '.join(names)}"),
            Finding("decoder", "vad", "signature", "output and state"),
            Finding("resize", "none", "signature", "a window of sound"),
            Finding("window", _WINDOW, "assumed", why),
            Finding("hop", _WINDOW, "assumed", why),
            Finding("context", context, "assumed", why),
            Finding("rate_hz", _RATE_HZ, "assumed", why),
        ),
        inputs={
            "input": Input("input", shape=(1, context + _WINDOW)),
            **{name: Input(name, shape=shape) for name in pairs},
            "sr": Input("sr"),
        },
        outputs={
            "probability": Output("output", (1, 1)),
            **{after: Output(after, shape) for after in pairs.values()},
        },
        state=tuple(State(input=name, output=after) for name, after in pairs.items()),
        constants={"sr": (_RATE_HZ,)},
        shapes={"input": (1, context + _WINDOW), **dict.fromkeys(pairs, shape)},
    )
