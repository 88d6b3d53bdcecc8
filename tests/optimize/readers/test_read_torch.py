"""A torch module or exported program becomes a root that computes what it does."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.core.errors import ConfigError, ModelError, UsageError
from edgekit_optimize.readers.read import check_root, read_source

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

MODULES = """
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6())
        self.head = nn.Linear(8, 4)

    def forward(self, image):
        return self.head(self.features(image).mean((2, 3)))


class TwoEnds(nn.Module):
    def forward(self, left, right):
        return {"sum": left + right, "both": (left * right, left - right)}


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x - 1


class NoInput(nn.Module):
    def forward(self):
        return torch.zeros(1)


class NotATensor(nn.Module):
    def forward(self, x):
        return "text"


def classifier():
    return Classifier()  # weights are random: no two calls give the same


def with_example():
    return Classifier(), torch.zeros(4, 3, 12, 10)


def two_ends():
    return TwoEnds(), (torch.zeros(1, 5), torch.zeros(1, 5))


def branching():
    return Branching(), torch.ones(1, 3)


def traced():
    torch.manual_seed(0)
    example = torch.zeros(1, 3, 12, 10)
    return torch.jit.trace(Classifier().eval(), example), example


def spoiled():
    module = Classifier()
    module.head.weight.data[0, 0] = float("nan")
    return module, torch.zeros(1, 3, 8, 8)


def no_input():
    return NoInput()


def not_a_tensor():
    return NotATensor(), torch.ones(1, 3)


def not_a_module():
    return {"weights": 1}


def broken():
    raise FileNotFoundError("weights.pt")
"""


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """The user's module is in the current folder."""
    (tmp_path / "own_nets.py").write_text(MODULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(torch, "get_num_threads", torch.get_num_threads)
    yield
    sys.modules.pop("own_nets", None)


def images(*shape):
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def test_a_module_is_exported_checked_and_its_layers_named_after_it(tmp_path):
    root, origin = read_source("own_nets:with_example", tmp_path / "root")
    assert (root.inputs[0].name, root.inputs[0].shape, root.image) == ("image", (1, 3, 12, 10), "image")
    assert [spec.name for spec in root.outputs] == ["output"]
    names = [name for node in onnx.load(root.onnx).graph.node for name in node.output]
    assert any(name.startswith("features.") for name in names)
    assert (origin.kind, origin.reference) == ("torch", "own_nets:with_example")
    assert "torch" in origin.tools
    checked = check_root(root, {"image": images(3, 3, 12, 10)})
    assert checked.checks[0].conversion == "torch to ONNX"
    assert all(check.holds for check in checked.checks)


def test_a_shape_stands_in_for_an_example_and_a_sample_for_a_shape(tmp_path):
    root, _ = read_source("own_nets:classifier", tmp_path / "a", shapes={"": (1, 3, 8, 8)})
    assert root.inputs[0].shape == (1, 3, 8, 8)
    root, _ = read_source("own_nets:classifier", tmp_path / "b", sample={"image": images(1, 3, 9, 9)})
    assert root.inputs[0].shape == (1, 3, 9, 9)
    with pytest.raises(ConfigError, match="shape of input 'image' is not known") as caught:
        read_source("own_nets:classifier", tmp_path / "c")
    assert "--shape image=" in caught.value.hint


def test_several_inputs_and_nested_outputs_keep_their_names(tmp_path):
    root, _ = read_source("own_nets:two_ends", tmp_path / "root")
    assert [spec.name for spec in root.inputs] == ["left", "right"]
    assert [spec.name for spec in root.outputs] == ["sum", "both_0", "both_1"]
    samples = {"left": images(2, 5), "right": images(2, 5)}
    assert check_root(root, samples).checks[0].holds


def test_an_exported_program_is_read(tmp_path):
    sys.path.insert(0, str(tmp_path))
    from own_nets import Classifier

    program = torch.export.export(Classifier().eval(), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "net.pt2")
    root, origin = read_source(str(tmp_path / "net.pt2"), tmp_path / "root")
    assert root.inputs[0].shape == (1, 3, 8, 8)
    assert Path(origin.reference).name == "net.pt2"
    assert check_root(root, {root.inputs[0].name: images(2, 3, 8, 8)}).checks[0].holds


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of all TorchScript
def test_a_torchscript_module_is_read_and_its_inputs_keep_their_names(tmp_path):
    root, origin = read_source("own_nets:traced", tmp_path / "root")
    assert [spec.name for spec in root.inputs] == ["image"]
    assert any("ScriptModule is not supported" in note for note in origin.notes)
    assert not any("\x1b" in note for note in origin.notes)


def test_a_program_with_free_sizes_takes_one_sample_of_the_given_size(tmp_path):
    sys.path.insert(0, str(tmp_path))
    from own_nets import Classifier

    names = ("n", "h", "w")
    free = {axis: torch.export.Dim(name) for axis, name in zip((0, 2, 3), names, strict=True)}
    program = torch.export.export(Classifier().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(free,))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"net\.pt2: input 'image' is .* must be fixed"):
        read_source(str(tmp_path / "net.pt2"), tmp_path / "a")
    root, _ = read_source(str(tmp_path / "net.pt2"), tmp_path / "b", shapes={"": (1, 3, 12, 10)})
    assert (root.inputs[0].shape, root.outputs[0].shape) == ((1, 3, 12, 10), (1, 4))
    checked = check_root(root, {"image": images(2, 3, 12, 10)})
    assert not checked.missing
    assert all(check.holds for check in checked.checks)


def test_weights_that_changed_since_are_not_what_is_checked(tmp_path):
    root, _ = read_source("own_nets:with_example", tmp_path / "root")
    other, _ = read_source("own_nets:with_example", tmp_path / "other")
    Path(root.onnx).write_bytes(Path(other.onnx).read_bytes())
    with pytest.raises(ModelError, match="torch to ONNX by torch .* 'output' differs by"):
        check_root(root, {"image": images(1, 3, 12, 10)})


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("own_nets:nothing", UsageError, "is not a function"),
        ("no_such_module_here:build", UsageError, "is not a function"),
        ("own_nets:not_a_module", ModelError, "returns a dict"),
        ("own_nets:broken", ModelError, "FileNotFoundError: weights.pt"),
        ("own_nets:not_a_tensor", ModelError, "returns a str"),
        ("own_nets:branching", ModelError, "depends on its input's values"),
        ("own_nets:no_input", ModelError, "forward takes no input"),
        ("own_nets:spoiled", ModelError, "own_nets:spoiled: weight 'head.weight'"),
    ],
)
def test_what_cannot_be_exported_says_why(tmp_path, reference, error, message):
    with pytest.raises(error, match=message):
        read_source(reference, tmp_path / "root")


def test_a_shape_that_the_module_does_not_take_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"does not run on inputs of shape \[\[1, 5, 8, 8\]\]"):
        read_source("own_nets:classifier", tmp_path / "root", shapes={"image": (1, 5, 8, 8)})
    with pytest.raises(UsageError, match="no input 'x'; its inputs are image"):
        read_source("own_nets:classifier", tmp_path / "root", shapes={"x": (1, 3, 8, 8)})


def test_a_file_that_is_not_an_exported_program_is_refused(tmp_path):
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 no program")
    with pytest.raises(ModelError, match=r"net\.pt2 is not an exported program"):
        read_source(str(tmp_path / "net.pt2"), tmp_path / "root")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of all TorchScript
def test_other_files_that_torch_writes_are_identified(tmp_path):
    sys.path.insert(0, str(tmp_path))
    from own_nets import Classifier

    torch.save(Classifier().state_dict(), tmp_path / "weights.pt2")
    torch.jit.save(torch.jit.script(Classifier()), tmp_path / "script.pt2")
    for name, what in (("weights", "written by torch.save"), ("script", "TorchScript")):
        with pytest.raises(ModelError, match=what) as caught:
            read_source(str(tmp_path / f"{name}.pt2"), tmp_path / "root")
        assert "module:function" in caught.value.hint
    with pytest.raises(UsageError, match=r"weights\.pth") as caught:
        read_source(str(tmp_path / "weights.pth"), tmp_path / "root")
    assert "torch.jit.load" in caught.value.hint
