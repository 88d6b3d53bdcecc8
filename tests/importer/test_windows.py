"""Windows of sound and sensors, forecasts, classifiers of several heads, and what an input itself says."""

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imported_nets import save

import edgekit
from edgekit.cli.main import main
from edgekit.core.errors import BundleError, UsageError
from edgekit.core.spec import Quantization
from edgekit.importer.decide import conclude
from edgekit.importer.flags import checked_flags
from edgekit.importer.importing import import_model
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.trial import image_size

FRAMES, BANDS = 49, 40


def declared(shape, output, *, quantization=None, datatype="FP32", answers=None, **facts):
    outputs = {"o": output} if isinstance(output, tuple) else output
    return ModelFile(
        path=Path("m.tflite"),
        format="tflite",
        inputs=(FileTensor("i", datatype, shape, quantization),),
        outputs=tuple(FileTensor(name, "FP32", size) for name, size in outputs.items()),
        tried={name: (np.asarray(array, np.float32),) for name, array in (answers or {}).items()},
        **facts,
    )


def concluded(file, **flags):
    conclusion = conclude(replace(file, flags=checked_flags(flags)))
    return {row.key: row.value for row in conclusion.findings}, conclusion


def asked(file, **flags):
    with pytest.raises(BundleError, match="only you know") as caught:
        concluded(file, **flags)
    return [reason.split(":")[0].removeprefix("--").removesuffix("=VALUE") for reason in caught.value.reasons]


# -- windows


def keyword_net(path):
    """Hears whether the low or the high half of the bands is louder."""
    halves = np.zeros((FRAMES * BANDS, 2), np.float32)
    halves.reshape(FRAMES, BANDS, 2)[:, :20, 0] = halves.reshape(FRAMES, BANDS, 2)[:, 20:, 1] = 1e-3
    return save(
        path,
        [
            ("Flatten", ["features"], ["flat"], {}),
            ("MatMul", ["flat", "halves"], ["logits"], {}),
            ("Softmax", ["logits"], ["scores"], {"axis": 1}),
        ],
        [("features", [1, FRAMES, BANDS, 1])],
        [("scores", [1, 2])],
        {"halves": halves},
    )


def test_a_model_of_features_is_imported_and_hears_what_a_sound_is(tmp_path):
    flags = {
        "decoder": "classify",
        "front_end": "micro-speech",
        "window": 16_000,
        "rate_hz": 16_000,
        "labels": ["low", "high"],
    }
    made = import_model(keyword_net(tmp_path / "m.onnx"), tmp_path / "bundle", flags=flags)
    assert (made.manifest.task, made.manifest.pre.front_end.kind) == ("audio", "micro")
    assert (made.manifest.pre.hop, made.manifest.pre.std) == (8_000, (25.6,))
    assert len(made.manifest.golden) == 2
    at = np.arange(16_000) / 16_000
    with edgekit.load(made.path) as model:
        for hz, label in ((300, "low"), (5000, "high")):
            tone = (0.3 * np.sin(2 * np.pi * hz * at)).astype(np.float32)
            assert model.predict(tone).best.label == label


def test_what_no_window_says_is_asked_for():
    features = declared((1, 49, 40, 1), (1, 4))
    assert asked(features, decoder="classify", front_end="micro-speech") == ["window", "rate_hz", "labels"]
    motion = declared((1, 128, 9), (1, 6))
    assert asked(motion) == ["decoder"]
    assert asked(motion, decoder="sensor") == ["mean", "std", "labels"]
    assert asked(declared((1, 64, 1), (1, 64, 1)), decoder="anomaly") == ["mean", "std", "threshold"]


def test_the_longer_axis_is_time_and_the_user_may_say_otherwise():
    given = {"decoder": "sensor", "mean": 0, "std": 1, "labels": list("abcdef")}
    for shape in ((1, 128, 9), (1, 9, 128)):
        values, conclusion = concluded(declared(shape, (1, 6)), **given)
        assert (values["window"], conclusion.inputs["window"].shape) == (128, (1, 128, 9))
    values, conclusion = concluded(declared((1, 99), (1, 6)), window=33, **given)
    assert conclusion.inputs["window"].shape == (1, 33, 3)


def test_a_forecast_has_a_number_for_each_step():
    file = declared((1, 96, 7), (1, 24, 7))
    values, conclusion = concluded(file, decoder="regress", mean=0, std=1)
    assert (values["task"], conclusion.outputs["values"].shape) == ("regress", (1, 24, 7))


def test_an_unknown_front_end_is_a_usage_error_that_names_the_known_ones():
    with pytest.raises(UsageError, match="micro-speech, yamnet"):
        checked_flags({"front_end": "mine"})


# -- several heads


def test_a_classifier_of_several_outputs_is_asked_for_its_heads_and_answers_all(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        [
            ("GlobalAveragePool", ["images"], ["mean"], {}),
            ("Flatten", ["mean"], ["flat"], {}),
            ("MatMul", ["flat", "turn"], ["colour"], {}),
            ("MatMul", ["flat", "light"], ["light_or_dark"], {}),
        ],
        [("images", [1, 3, 32, 32])],
        [("colour", [1, 3]), ("light_or_dark", [1, 2])],
        {"turn": np.eye(3, dtype=np.float32) * 9, "light": np.float32([[5, -5]] * 3)},
    )
    flags = {"decoder": "classify", "mean": 0, "std": 255, "activation": "softmax", "temperature": 2.0}
    with pytest.raises(BundleError, match="heads"):
        import_model(path, tmp_path / "none", flags=flags)
    heads = [
        {"output": "colour", "labels": ["red", "green", "blue"]},
        {"output": "light_or_dark", "labels": ["light", "dark"], "activation": "sigmoid"},
    ]
    made = import_model(path, tmp_path / "bundle", flags={**flags, "heads": heads, "score_threshold": 0.6})
    with edgekit.load(made.path) as model:
        items = model.predict(np.full((40, 40, 3), (0, 250, 0), np.uint8)).items
    assert [item.label for item in items] == ["colour: green", "light_or_dark: light"]


# -- what an input says


def test_one_channel_is_grey_whatever_the_family_assumes():
    values, _ = concluded(
        declared((1, 28, 28, 1), (1, 10)), decoder="classify", mean=0, std=255, labels=list("0123456789")
    )
    assert values["color"] == "GRAY"


@pytest.mark.parametrize(
    ("datatype", "scale", "zero", "mean", "std"),
    [
        ("UINT8", 1 / 255, 0, 0, 255),
        ("UINT8", 1 / 128, 128, 127.5, 127.5),
        ("INT8", 1 / 255, -128, 0, 255),
        ("INT8", 1 / 127.5, -1, 127.5, 127.5),
    ],
)
def test_integers_that_are_the_pixels_say_how_they_are_normalised(datatype, scale, zero, mean, std):
    held = Quantization(scale=scale, zero_point=zero)
    file = declared((1, 224, 224, 3), (1, 5), quantization=held, datatype=datatype)
    values, _ = concluded(file, decoder="classify", labels=list("abcde"))
    assert (values["mean"], values["std"]) == (mean, std)


def test_another_quantisation_says_nothing_and_metadata_do():
    held = Quantization(scale=0.0187, zero_point=-14)
    file = declared((1, 224, 224, 3), (1, 5), quantization=held, datatype="INT8")
    assert asked(file, decoder="embed") == ["mean", "std"]
    stated = replace(file, metadata={"mean": (127.5,), "std": (128.0,)}, metadata_from="TFLite Metadata")
    values, _ = concluded(stated, decoder="embed")
    assert (values["mean"], values["std"]) == ([127.5], [128.0])


def test_a_classifiers_free_size_is_asked_for_and_a_side_that_is_fixed_stays():
    free = declared((1, -1, -1, 3), (1, 5))
    assert asked(free, decoder="embed", mean=0, std=255) == ["size"]
    line = declared((1, 48, -1, 3), (1, 40, 97))
    assert image_size(line) == ((48, 640), "assumed")
    assert image_size(replace(line, flags={"size": [48, 320]})) == ((48, 320), "flag")


def test_a_pictures_size_is_a_constant_of_paddles_detectors():
    rows = FileTensor("boxes", "FP32", (300, 6))
    file = ModelFile(
        path=Path("m.onnx"),
        format="onnx",
        inputs=(
            FileTensor("im_shape", "FP32", (-1, 2)),
            FileTensor("image", "FP32", (1, 3, 320, 640)),
            FileTensor("scale_factor", "FP32", (-1, 2)),
        ),
        outputs=(rows, FileTensor("count", "INT32", (1,))),
        flags=checked_flags({"mean": 0, "std": 255, "labels": "coco80"}),
    )
    conclusion = conclude(file)
    assert conclusion.constants == {"scale_factor": (1.0,), "im_shape": (320.0, 640.0)}
    assert conclusion.shapes == {"im_shape": (1, 2), "scale_factor": (1, 2)}


# -- from a file to what a recording holds


def siren_net(path):
    """A network of YAMNet's tensors that hears a siren in whatever is loud, and silence in what is not."""
    slope, offset = np.zeros((1, 521), np.float32), np.full((1, 521), -10, np.float32)
    slope[0, [0, 7]], offset[0, 0] = (-200, 200), 3
    nodes = [
        ("Abs", ["waveform"], ["size"], {}),
        ("ReduceMean", ["size"], ["loud"], {"axes": [0], "keepdims": 0}),
        ("Mul", ["loud", "slope"], ["steep"], {}),
        ("Add", ["steep", "offset"], ["logits"], {}),
        ("Sigmoid", ["logits"], ["scores"], {}),
    ]
    constants = {"slope": slope, "offset": offset}
    return save(path, nodes, [("waveform", [15_600])], [("scores", [1, 521])], constants)


def test_two_commands_lead_from_a_yamnet_to_the_labels_of_a_recording(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("".join(f"sound {n}\n" if n != 7 else "siren\n" for n in range(521)))
    model, bundle, seen = siren_net(tmp_path / "m.onnx"), tmp_path / "b", tmp_path / "seen.jsonl"
    assert main(["import", str(model), "-o", str(bundle), "--labels", str(tmp_path / "names.txt")]) == 0
    assert f"next: edgekit run {bundle} --source FILE.wav --sink jsonl" in capsys.readouterr().out
    seconds = np.arange(4 * 44_100) / 44_100  # resampled to the model's 16 kHz
    samples = 20_000 * np.sin(2 * np.pi * 440 * seconds) * (seconds >= 2)
    with wave.open(str(tmp_path / "r.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(44_100)
        file.writeframes(samples.astype("<i2").tobytes())
    words = ["run", str(bundle), "--source", str(tmp_path / "r.wav"), "--sink", f"jsonl:{seen}"]
    assert main(words) == 0
    rows = [json.loads(line) for line in seen.read_text().splitlines()]
    labels = [row["items"][0]["label"] for row in rows]
    assert labels[:3] == ["sound 0"] * 3
    assert labels[-3:] == ["siren"] * 3
    assert len(labels) == (4 * 16_000 - 15_600) // 7_800 + 1
