"""A ResNet-18-shaped classifier of handwritten digits, made in half a minute for benchmarks."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

_TRAINING = 900
_CLASSES = 5  # of the ten digits: random features tell these apart well enough
_GAIN = 0.3


def dense_network(folder: Path, side: int, samples: int) -> tuple[Path, Path]:
    """Make a ResNet-18-shaped classifier of handwritten digits, and data that it has not seen.

    Its convolutions are random, its batch norms take the statistics of real pictures, and its last
    layer is the least-squares fit on its features: all of a trained network's shapes and ranges, of
    decent accuracy, in half a minute.

    Args:
        folder: Gets ``resnet18.onnx`` and ``digits.npz``.
        side: Height and width of the input.
        samples: Labelled samples in the data.

    Returns:
        The model's file and the data's: pictures as bytes, and their digits.
    """
    import torch

    pictures, labels = _digits(side)
    data = folder / "digits.npz"
    np.savez(data, x=pictures[:samples], y=labels[:samples])
    train = slice(samples, samples + _TRAINING)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two that wait for each other are slower on a machine that is not idle
    body = _residual_body(torch)
    inputs = torch.from_numpy(pictures[train].transpose(0, 3, 1, 2).copy()).float() / 255
    with torch.no_grad():
        body.train()
        body(inputs[:64])  # the running statistics of batch norms, momentum 1
        body.eval()
        features = torch.cat([body(part) for part in inputs.split(50)]).double()
        last = _ridge(torch, features, torch.from_numpy(labels[train]))
    model = torch.nn.Sequential(body, last).eval()
    path = folder / "resnet18.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter tells of its successor
        torch.onnx.export(
            model,
            (inputs[:1],),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["scores"],
        )
    return path, data


def _digits(side: int) -> tuple[Any, Any]:
    """Return pictures (n, side, side, 3) and labels of the digits that the example uses."""
    import cv2

    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
    from digits import digits  # type: ignore[import-not-found]

    images, labels = digits()
    chosen = np.flatnonzero(labels < _CLASSES)[:2000]
    images, labels = images[chosen], labels[chosen]
    large = [cv2.resize((image * 255).astype(np.uint8), (side, side)) for image in images]
    return np.repeat(np.stack(large)[..., None], 3, axis=-1), labels


def _residual_body(torch: Any) -> Any:
    """Return ResNet-18 without its last layer, its weights drawn at random."""
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.first_norm = nn.BatchNorm2d(outputs, momentum=1.0)
            self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.second_norm = nn.BatchNorm2d(outputs, momentum=1.0)
            nn.init.constant_(self.second_norm.weight, _GAIN)  # trained ones are small, too
            self.aside = nn.Identity()
            if stride > 1 or inputs != outputs:
                wider = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.aside = nn.Sequential(wider, nn.BatchNorm2d(outputs, momentum=1.0))

        def forward(self, x: Any) -> Any:
            inner = torch.relu(self.first_norm(self.first(x)))
            return torch.relu(self.second_norm(self.second(inner)) + self.aside(x))

    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64, momentum=1.0), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    width = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(width, outputs, stride), Block(outputs, outputs, 1)]
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _ridge(torch: Any, features: Any, labels: Any) -> Any:
    """Return the linear layer that fits features to one-hot labels by least squares, regularised."""
    mean, spread = features.mean(0), features.std(0) + 1e-6
    scaled = (features - mean) / spread
    wanted = torch.nn.functional.one_hot(labels, _CLASSES).double() - 1 / _CLASSES
    gram = scaled.T @ scaled + 0.1 * len(scaled) * torch.eye(scaled.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, scaled.T @ wanted) / spread[:, None]
    layer = torch.nn.Linear(*weights.shape)
    layer.weight.data = weights.T.float().contiguous()
    layer.bias.data = (-(mean @ weights)).float()
    return layer
