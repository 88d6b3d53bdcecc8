"""A stand-in for NVIDIA's bindings: the calls of TensorRT 10 that the tenant makes, in its order.

It builds "engines" of the tiny model only, and counts the builds in a file next to the cache.
"""

import ctypes
import enum
import os
import typing
from pathlib import Path

__version__ = "10.3.0"
MODEL = b"stand-in engine"


class Logger:
    WARNING = 1

    def __init__(self, level):
        assert level == self.WARNING


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 1


class BuilderFlag(enum.Enum):
    FP16 = 1
    INT8 = 2


class _Type:
    name = "FLOAT"


class _Tensor:
    name = "x"
    shape = (1, 16)


class _Network:
    num_inputs = 1
    is_parsed = False

    def get_input(self, index):
        return _Tensor()


class OnnxParser:
    num_errors = 1

    def __init__(self, network, logger):
        self._network = network

    def parse(self, data):
        self._network.is_parsed = len(data) == 391
        return self._network.is_parsed

    def get_error(self, index):
        return "stand-in: not the tiny model"


class _Config:
    workspace = 0

    def set_memory_pool_limit(self, pool, size):
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = size

    def set_flag(self, flag):
        assert isinstance(flag, BuilderFlag)


class Builder:
    def __init__(self, logger):
        pass

    def create_network(self, flags):
        assert flags == 0, "TensorRT 10 has no EXPLICIT_BATCH"
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return None

    def build_serialized_network(self, network, config):
        assert network.is_parsed
        assert config.workspace
        with Path(os.environ["STUB_BUILDS"]).open("a") as file:
            file.write("built\n")
        return MODEL


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, data):
        return _Engine() if bytes(data) == MODEL else None


class _Engine:
    num_io_tensors = 2
    _tensors: typing.ClassVar = {"x": (TensorIOMode.INPUT, (1, 16)), "y": (TensorIOMode.OUTPUT, (1, 4))}

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        return self._tensors[name][0]

    def get_tensor_shape(self, name):
        return self._tensors[name][1]

    def get_tensor_dtype(self, name):
        return _Type

    def create_execution_context(self):
        return _Context()


class _Context:
    def __init__(self):
        self._addresses = {}

    def set_tensor_address(self, name, address):
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        x = (ctypes.c_float * 16).from_address(self._addresses["x"])
        y = (ctypes.c_float * 4).from_address(self._addresses["y"])
        for column in range(4):
            dot = sum(x[row] * ((row * 5 + column * 3) % 7 - 3) for row in range(16))
            y[column] = max(0.0, dot + (1.0, -2.0, 3.0, 0.0)[column])
        return stream == 1
