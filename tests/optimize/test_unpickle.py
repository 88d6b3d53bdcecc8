"""Pickles may name any function; only arrays come out of these readers."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from edgekit.core.errors import TrustError
from edgekit_optimize.zoo.unpickle import read_object_npy, read_pth

MAGIC = 0x1950A86A20F9469CFC6C


class Bomb:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


class Named:
    """Pickles as a global name of a module that need not exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class TorchPickler(pickle._Pickler):
    """Writes the names that PyTorch would, without PyTorch."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
            return
        super().save(obj, save_persistent_id)


def pickled(value):
    file = io.BytesIO()
    TorchPickler(file, 2).dump(value)
    return file.getvalue()


def tensor_pickle(name, count, size, stride=(1,), offset=0, storage="FloatStorage"):
    """Return the pickle of {name: tensor}, as torch.save writes it, opcode by opcode."""
    out = io.BytesIO()
    pickler = TorchPickler(out, 2)
    out.write(pickle.PROTO + b"\x02" + pickle.EMPTY_DICT)
    pickler.save(name)
    pickler.save(Named("torch._utils", "_rebuild_tensor_v2"))
    out.write(pickle.MARK + pickle.MARK)
    pickler.save("storage")
    pickler.save(Named("torch", storage))
    for value in ("7", "cpu", count, None):
        pickler.save(value)
    out.write(pickle.TUPLE + pickle.BINPERSID)
    for value in (offset, size, stride, False, {}):
        pickler.save(value)
    out.write(pickle.TUPLE + pickle.REDUCE + pickle.SETITEM + pickle.STOP)
    return out.getvalue()


def pth(body, values, keys=("7",), magic=MAGIC):
    head = [pickle.dumps(magic, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    data = np.asarray(values, "<f4")
    return b"".join([*head, body, pickle.dumps(list(keys), 2), struct.pack("<q", data.size), data.tobytes()])


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_state_dictionary_is_read_with_its_strides_and_offset(tmp_path):
    body = tensor_pickle("w", 7, (2, 3), (1, 2), 1)
    found = read_pth(write(tmp_path / "a.pth", pth(body, range(7))))
    np.testing.assert_array_equal(found["w"], [[1, 3, 5], [2, 4, 6]])
    assert found["w"].dtype == np.float32


@pytest.mark.parametrize(
    "body",
    [
        tensor_pickle("w", 4, (5,)),
        tensor_pickle("w", 4, (2,), (1,), 3),
        tensor_pickle("w", 4, (2,), (-1,), 1),
        tensor_pickle("w", 4, (2,), (1,), -1),
        tensor_pickle("w", 1 << 40, (2,)),
        tensor_pickle("w", -1, (2,)),
        tensor_pickle("w", 4, (2,), (1,), 0, "QuantizedStorage"),
        pickled({"w": "not a tensor"}),
        pickled(["w"]),
    ],
)
def test_a_state_dictionary_that_lies_is_refused(body, tmp_path):
    with pytest.raises(TrustError):
        read_pth(write(tmp_path / "a.pth", pth(body, range(4))))


@pytest.mark.parametrize("end", [0, 1, 20, 60, 100, -4, -1])
def test_a_state_dictionary_that_is_cut_off_is_refused(end, tmp_path):
    whole = pth(tensor_pickle("w", 4, (4,)), range(4))
    with pytest.raises(TrustError):
        read_pth(write(tmp_path / "a.pth", whole[:end]))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(os.system, ("touch {}",)), (eval, ("open({!r}, 'w')",)), (getattr, (os, "system"))],
)
@pytest.mark.parametrize("place", ["magic", "body", "keys", "npy"])
def test_no_function_that_a_hostile_pickle_names_is_called(place, function, arguments, tmp_path):
    flag = tmp_path / "was-here"
    bomb = Bomb(function, *(a.format(str(flag)) if isinstance(a, str) else a.__name__ for a in arguments))
    body = tensor_pickle("w", 4, (4,))
    parts = {
        "magic": pickle.dumps(bomb) + body,
        "body": pth(pickle.dumps({"w": bomb}), range(4)),
        "keys": pth(body, range(4))[: -4 * 4 - 8].replace(pickle.dumps(["7"], 2), pickle.dumps(bomb)),
    }
    path = tmp_path / "hostile"
    if place == "npy":
        np.save(path, np.array([bomb], dtype=object), allow_pickle=True)
        path, read = path.with_suffix(".npy"), read_object_npy
    else:
        write(path, parts[place])
        read = read_pth
    with pytest.raises(TrustError):
        read(path)
    assert not flag.exists()


def test_an_array_of_objects_made_of_arrays_is_read(tmp_path):
    whole = np.array({"X": [np.arange(6.0).reshape(2, 3)], "y": np.int64(3), "names": ["a"]}, dtype=object)
    np.save(tmp_path / "a.npy", whole, allow_pickle=True)
    found = read_object_npy(tmp_path / "a.npy").item()
    np.testing.assert_array_equal(found["X"][0], [[0, 1, 2], [3, 4, 5]])
    assert found["y"] == 3
    assert found["names"] == ["a"]


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00{'descr': 3}    \n"])
def test_what_is_not_an_npy_file_is_refused(data, tmp_path):
    with pytest.raises(TrustError):
        read_object_npy(write(tmp_path / "a.npy", data))
