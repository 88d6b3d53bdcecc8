"""A recipe made here, and a registry without a network: real pip, real wheels, made here."""

import hashlib
import zipfile

import pytest

from edgekit_optimize.zoo.fetch import Package

RECIPE = """
model = "tiny"
title = "a made-up classifier"
version = "1.2.3"
created = "2026-11-22T00:00:00Z"
task = "classify"
license = "Apache-2.0"
source = "made here"
[[inputs]]
name = "image"
datatype = "UINT8"
shape = [1, 12, 12, 3]
layout = "NHWC"
[[outputs]]
name = "scores"
datatype = "FP32"
shape = [1, 4]
[pre]
mean = [127.0]
std = [128.0]
[post]
decoder = "classify"
options = { activation = "softmax" }
[guards]
error_ratio = 0.01
[tolerance]
atol = 0.0001
atol_by_precision = { int8 = 0.1 }
[[variant]]
id = "litert-fp32"
backend = "litert"
writer = "tflite"
[[variant]]
id = "onnxruntime-fp32"
backend = "onnxruntime"
writer = "onnx"
layout = "NCHW"
[[variant]]
id = "openvino-fp32"
backend = "openvino"
writer = "openvino"
layout = "NCHW"
[[variant]]
id = "litert-int8"
backend = "litert"
precision = "int8"
writer = "tflite-int8"
[[variant]]
id = "onnxruntime-int8"
backend = "onnxruntime"
precision = "int8"
writer = "onnx-int8"
layout = "NCHW"
[[variant]]
id = "openvino-int8"
backend = "openvino"
precision = "int8"
writer = "onnx-int8"
layout = "NCHW"
"""

BUILD = """
import numpy as np
from edgekit_optimize.graph.network import Layer, Network

def network(_kit):
    rng = np.random.default_rng(1)
    w = lambda *shape: rng.normal(0, 0.3, shape).astype(np.float32)
    return Network({"image": (1, 12, 12, 3)}, (
        Layer("conv", ("image",), "a", weights=w(8, 3, 3, 3), bias=w(8), stride=(2, 2), activation="relu6"),
        Layer("mean", ("a",), "b"),
        Layer("dense", ("b",), "scores", weights=w(4, 8), bias=w(4)),
    ), ("scores",))

def labels(_kit):
    return ["north", "east", "south", "west"]

def images(seed, count):
    rng = np.random.default_rng(seed)
    return [{"image": rng.integers(0, 256, (1, 12, 12, 3), np.uint8)} for _ in range(count)]

def golden(_kit):
    return images(1, 2)

def calibration(_kit):
    return [*images(2, 30), *images(3, 40)[:2]]

def evaluation(_kit):
    return images(3, 40), [n % 4 for n in range(40)]
"""


class LocalRegistry:
    """A folder of wheels that pip takes for everything it knows."""

    def __init__(self, folder):
        self.folder = folder

    def publish(self, name, member, data, version="1.0"):
        """Put a wheel with one file there; return the pin for that file."""
        module = name.replace("-", "_")
        path = self.folder / f"{module}-{version}-py3-none-any.whl"
        info = f"{module}-{version}.dist-info"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(member, data)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        return Package(
            registry="pypi",
            name=name,
            version=version,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            member=member,
            member_sha256=hashlib.sha256(data).hexdigest(),
        )


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    return LocalRegistry(folder)


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "recipe.toml").write_text(RECIPE)
    (folder / "tiny" / "build.py").write_text(BUILD)
    return folder
