"""A TensorFlow Lite file run on this machine's LiteRT: every tensor of a network, fast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.core.errors import BackendUnavailableError, ModelError, TensorError
from edgekit_optimize.graph.layer import Array
from edgekit_optimize.graph.network import Network
from edgekit_optimize.graph.tflite_write import write_tflite


class EveryTensor:
    """Computes every tensor of a network with LiteRT's kernels: many times as fast as NumPy.

    Args:
        network: What to run.
        threads: How many threads the kernels use, at least 1.

    Raises:
        BackendUnavailableError: ``ai-edge-litert`` is not installed.
        ModelError: LiteRT refuses the network.
    """

    def __init__(self, network: Network, threads: int = 2) -> None:
        constants = {layer.output for layer in network.layers if layer.kind == "constant"}
        self._constants = {
            layer.output: layer.weights
            for layer in network.layers
            if layer.weights is not None and layer.output in constants
        }
        # All tensors as outputs: none is then kept back by a kernel that computes two layers at once.
        named = tuple(layer.output for layer in network.layers if layer.output not in constants)
        self._model = interpreter(write_tflite(Network(network.inputs, network.layers, named)), threads)
        self._inputs = {detail["name"]: detail["index"] for detail in self._model.get_input_details()}
        self._outputs = {detail["name"]: detail["index"] for detail in self._model.get_output_details()}

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every tensor, inputs and constants included, float32.

        Raises:
            TensorError: An input does not fit.
        """
        try:
            for name, index in self._inputs.items():
                self._model.set_tensor(index, feeds[name])
        except (ValueError, KeyError) as error:
            raise TensorError(f"a sample does not fit the network: {error}") from error
        self._model.invoke()
        found = {name: feeds[name] for name in self._inputs}
        found.update({name: values for name, values in self._constants.items() if values is not None})
        found.update({name: self._model.get_tensor(index) for name, index in self._outputs.items()})
        return found


def interpreter(data: bytes, threads: int = 1) -> Any:
    """Return a LiteRT interpreter that is ready to run a file.

    Raises:
        BackendUnavailableError: ``ai-edge-litert`` is not installed.
        ModelError: LiteRT refuses the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise BackendUnavailableError(
            f"running TensorFlow Lite files needs the package 'ai-edge-litert' ({error})",
            hint="pip install 'edgekit-optimize[tools]'",
        ) from error
    try:
        model = Interpreter(model_content=data, num_threads=threads)
        model.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"LiteRT refuses the file: {error}") from error
    return model
