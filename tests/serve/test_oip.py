"""The parser of inference requests: everything right is read, and nothing else gets through."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgekit.base.dtypes import DTYPES
from edgekit.core.errors import TensorError
from edgekit.core.spec import TensorSpec
from edgekit.serve.oip import answer, feeds_of, parse_request
from edgekit.serve.tensors import FloatReader, to_json

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
N = TensorSpec(name="n", datatype="UINT8", shape=(2,))
SPECS = (X, N)


def read(body, header_length=None, specs=SPECS):
    return feeds_of(parse_request(body, header_length, specs), specs)


def request(x=None, n=None, **more):
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **(x or {})}
    n = {"name": "n", "datatype": "UINT8", "shape": [2], "data": [0, 255], **(n or {})}
    return json.dumps({"inputs": [x, n], **more}).encode()


def test_flat_and_nested_lists_are_the_same_tensor():
    flat = read(request())
    nested = read(request(x={"data": [[1, 2, 3, 4]]}))
    assert flat["x"].tolist() == nested["x"].tolist() == [[1, 2, 3, 4]]
    assert (flat["x"].dtype, flat["n"].dtype, flat["n"].tolist()) == (np.float32, np.uint8, [0, 255])


@pytest.mark.parametrize("datatype", DTYPES)
@given(data=st.data())
@settings(max_examples=20)
def test_every_datatype_survives_the_way_there_and_back(datatype, data):
    dtype = DTYPES[datatype]
    spec = TensorSpec(name="t", datatype=datatype, shape=(-1, -1))
    raw = data.draw(st.binary(min_size=6 * dtype.itemsize, max_size=6 * dtype.itemsize))
    array = np.frombuffer(raw, dtype if dtype.kind != "b" else np.uint8).reshape(2, 3)
    array = (array % 2).astype(np.bool_) if dtype.kind == "b" else array
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "t",
                    "datatype": datatype,
                    "shape": [2, 3],
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    asked = parse_request(header + array.tobytes(), len(header), (spec,))
    fed = feeds_of(asked, (spec,))["t"]
    assert fed.tobytes() == array.tobytes()
    made = answer(asked, "m", "1", {"t": fed})
    document = json.loads(made.body[: made.header_length])
    assert document["outputs"][0]["datatype"] == datatype
    assert made.body[made.header_length :] == array.tobytes()
    if datatype != "FP16" and (dtype.kind != "f" or np.isfinite(array).all()):
        text = answer(parse_request(header, len(header), (spec,)), "m", "1", {"t": fed})
        assert text.header_length is not None  # binary was asked for as a whole
        plain = json.dumps(
            {"inputs": [{"name": "t", "datatype": datatype, "shape": [2, 3], "data": array.tolist()}]}
        ).encode()
        asked = parse_request(plain, None, (spec,))
        again = feeds_of(asked, (spec,))["t"]
        assert again.dtype == dtype
        assert np.array_equal(again, array)
        told = json.loads(answer(asked, "m", "1", {"t": again}).body)["outputs"][0]["data"]
        assert np.array_equal(np.array(told, dtype).reshape(2, 3), array)


HOSTILE = {
    "a huge shape": request(x={"shape": [1 << 39, 4]}),
    "a shape beyond any integer": request(x={"shape": [10**40, 4]}),
    "a negative dimension": request(x={"shape": [-1, 4]}),
    "two negative dimensions": request(x={"shape": [-1, -4]}),
    "a dimension of zero": request(x={"shape": [0, 4], "data": []}),
    "a fractional dimension": request(x={"shape": [1.5, 4]}),
    "no shape": request(x={"shape": None}),
    "a thousand dimensions": request(x={"shape": [1] * 1000}),
    "another rank": request(x={"shape": [4]}),
    "another datatype": request(x={"datatype": "FP64"}),
    "an unknown datatype": request(x={"datatype": "F" * 5000}),
    "too few elements": request(x={"data": [1, 2, 3]}),
    "too many elements": request(x={"data": [1, 2, 3, 4, 5]}),
    "ragged lists": request(x={"data": [[1, 2], [3, 4, 5]]}),
    "a list beside a number": request(x={"data": [[1, 2, 3, 4], 5]}),
    "nesting of another shape": request(x={"data": [[1, 2], [3, 4]]}),
    "text in place of numbers": request(x={"data": ["1", "2", "3", "4"]}),
    "truth in place of numbers": request(x={"data": [True, 2, 3, 4]}),
    "null in place of numbers": request(x={"data": [None, 2, 3, 4]}),
    "an object in place of a list": request(x={"data": {"0": 1}}),
    "a number for UINT8 that is too large": request(n={"data": [0, 256]}),
    "a number for UINT8 below 0": request(n={"data": [-1, 0]}),
    "a fraction for UINT8": request(n={"data": [0.5, 0]}),
    "a number of a thousand digits": request(n={"data": [10**1000, 0]}),
    "a number beyond FP32": request(x={"data": [1e39, 2, 3, 4]}),
    "a number beyond FP64": request().replace(b"[1, 2, 3, 4]", b"[1e999, 2, 3, 4]"),
    "the text NaN": request().replace(b"[1, 2, 3, 4]", b"[NaN, 2, 3, 4]"),
    "the text Infinity": request().replace(b"[1, 2, 3, 4]", b"[Infinity, 2, 3, 4]"),
    "no data": request().replace(b'"data": [1, 2, 3, 4]', b'"other": 0'),
    "bytes that are not UTF-8": request().replace(b'"x"', b'"\xff\xfe"'),
    "deep nesting": request(x={"data": 0}).replace(b'"data": 0', b'"data": ' + b"[" * 100_000),
    "deep nesting that ends": request(x={"data": 0}).replace(
        b'"data": 0', b'"data": ' + b"[" * 900 + b"]" * 900
    ),
    "an unknown input": json.dumps({"inputs": [{"name": "z", "datatype": "FP32", "shape": [1]}]}).encode(),
    "an input twice": request(n={"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}),
    "an output twice": request(outputs=[{"name": "y"}, {"name": "y"}]),
    "inputs that are no list": b'{"inputs": 3}',
    "no inputs": b"{}",
    "nothing": b"",
    "a list": b"[]",
    "not JSON": b"\x00\x01\x02",
    "a negative timeout": request(parameters={"timeout": -1}),
    "a timeout of text": request(parameters={"timeout": "1"}),
    "a timeout beyond any clock": request(parameters={"timeout": 1 << 70}),
    "binary output maybe": request(parameters={"binary_data_output": "yes"}),
    "a sequence of no name": request(parameters={"sequence_start": True}),
    "a sequence of a wrong name": request(parameters={"sequence_id": 1.5}),
    "a sequence that maybe ends": request(parameters={"sequence_id": 5, "sequence_end": 1}),
    "shared memory": request(x={"parameters": {"shared_memory_region": "r"}}),
    "binary data in a request without any": request(x={"parameters": {"binary_data_size": 16}}),
    "a negative binary size": request(x={"parameters": {"binary_data_size": -16}}),
    "a fractional binary size": request(x={"parameters": {"binary_data_size": 1.5}}),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_request_is_refused_with_a_short_reason(body):
    with pytest.raises(TensorError) as refused:
        read(body)
    assert len(str(refused.value)) < 1000


def header_of(size, **more):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [{**tensor, **more}]}).encode()


@pytest.mark.parametrize(
    ("header", "tail", "stated"),
    [
        (header_of(16), b"\0" * 15, 0),
        (header_of(16), b"\0" * 17, 0),
        (header_of(12), b"\0" * 12, 0),
        (header_of(1 << 61), b"\0" * 16, 0),
        (header_of(16, data=[1, 2, 3, 4]), b"\0" * 16, 0),
        (header_of(16, shape=[2, 4]), b"\0" * 16, 0),
        (header_of(16), b"\0" * 16, 1),
        (header_of(16), b"\0" * 16, -1),
        (header_of(16), b"\0" * 16, 1000),
    ],
)
def test_binary_sizes_that_do_not_add_up_are_refused(header, tail, stated):
    with pytest.raises(TensorError):
        read(header + tail, len(header) + stated, (X,))


def test_a_byte_that_is_neither_true_nor_false_is_refused():
    spec = TensorSpec(name="b", datatype="BOOL", shape=(3,))
    assert read(b"\x00\x01\x01", 0, (spec,))["b"].tolist() == [False, True, True]
    with pytest.raises(TensorError, match="0 or 1"):
        read(b"\x00\x01\x02", 0, (spec,))


def test_a_raw_body_is_the_one_input_and_its_free_dimension_follows():
    assert read(np.arange(8, dtype=np.float32).tobytes(), 0, (X,))["x"].shape == (2, 4)
    for body in (b"", b"\0" * 17):
        with pytest.raises(TensorError, match="multiple of 16"):
            read(body, 0, (X,))
    with pytest.raises(TensorError, match="one input"):
        read(b"\0" * 16, 0, SPECS)
    two_free = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
    with pytest.raises(TensorError, match="free dimensions"):
        read(b"\0" * 16, 0, (two_free,))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_json_cannot_hold_is_an_error_and_as_binary_it_is_sent(value):
    asked = parse_request(request(), None, SPECS)
    with pytest.raises(TensorError, match="NaN"):
        answer(asked, "m", "1", {"y": np.float32([value])})
    binary = parse_request(request(parameters={"binary_data_output": True}), None, SPECS)
    assert answer(binary, "m", "1", {"y": np.float32([value])}).body.endswith(np.float32(value).tobytes())


def test_an_output_overrides_the_request_and_an_unknown_one_is_refused():
    outputs = [{"name": "b"}, {"name": "a", "parameters": {"binary_data": False}}]
    asked = parse_request(
        request(outputs=outputs, parameters={"binary_data_output": True}, id="7"), None, SPECS
    )
    made = answer(asked, "m", "1", {"a": np.float32([1]), "b": np.float32([2]), "c": np.float32([3])})
    document = json.loads(made.body[: made.header_length])
    assert document["id"] == "7"
    assert [row["name"] for row in document["outputs"]] == ["b", "a"]
    assert document["outputs"][1]["data"] == [1.0]
    assert made.body[made.header_length :] == np.float32(2).tobytes()
    with pytest.raises(TensorError, match="no output 'b'"):
        answer(asked, "m", "1", {"a": np.float32([1])})


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
tensor_like = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "n", "z"]) | any_json,
        "shape": st.lists(st.integers(-2, 5) | st.just(1 << 62), max_size=3) | any_json,
        "datatype": st.sampled_from(["FP32", "UINT8", "BYTES"]) | any_json,
    },
    optional={
        "data": st.lists(st.integers(0, 255) | st.floats(width=32), max_size=8) | any_json,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "binary_data"]), st.integers(-1, 40) | any_json
        )
        | any_json,
    },
)


@given(
    tensors=st.lists(tensor_like, max_size=3) | any_json,
    parameters=any_json,
    tail=st.binary(max_size=40),
    cut=st.integers(-3, 3),
)
@settings(max_examples=300)
def test_whatever_is_sent_is_read_as_the_model_declares_it_or_refused(tensors, parameters, tail, cut):
    header = json.dumps({"inputs": tensors, "parameters": parameters}).encode()
    try:
        feeds = read(header + tail, len(header) + cut)
    except TensorError:
        return
    assert feeds["x"].dtype == np.float32
    assert feeds["x"].shape[1:] == (4,)
    assert (feeds["n"].dtype, feeds["n"].shape) == (np.uint8, (2,))


@given(body=st.binary(max_size=200), length=st.none() | st.integers(0, 250))
@example(body=b"{", length=1)
@settings(max_examples=300)
def test_no_bytes_at_all_raise_anything_but_a_tensor_error(body, length):
    try:
        read(body, length)
    except TensorError:
        pass


def long_request(data, **more):
    """Return a request whose lists are long enough to be cut out."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(NUMBERS) // 4, 4], "data": data, **more}
    return json.dumps({"inputs": [tensor]}).encode()


NUMBERS = [float(np.float32(value)) for value in np.linspace(-3, 3, 4096)]


@pytest.mark.parametrize("data", [NUMBERS, list(range(4096)), [1e-30, -0.0, 5, 1e30] * 1024])
def test_a_long_list_of_numbers_is_read_as_a_short_one_is(data):
    assert (read(long_request(data), None, (X,))["x"].ravel() == np.array(data, np.float32)).all()


def test_long_nested_lists_and_texts_with_brackets_are_read_too():
    nested = np.reshape(NUMBERS, (-1, 4)).tolist()
    assert (read(long_request(nested), None, (X,))["x"].ravel() == np.float32(NUMBERS)).all()
    text = TensorSpec(name="x", datatype="BYTES", shape=(-1,))
    words = ['a]"data":[1,2]', "[", "]"] * 400
    body = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1200], "data": words}]})
    assert read(body.encode(), None, (text,))["x"].tolist() == words


class Watched(bytes):
    """Counts the bytes that are looked through for the end of a list."""

    looked_through = 0

    def find(self, what, begin, end):
        found = super().find(what, begin, end)
        self.looked_through += (end if found < 0 else found) - begin
        return found


@pytest.mark.parametrize("tail", [b"", b"]"])
@pytest.mark.parametrize("unit", [b'"data":[', b'"data":[[', b'"data":["', b'"data":[1', b'"data":[1]'])
def test_many_lists_without_an_end_are_looked_through_once(unit, tail):
    """For each one's end the whole rest was: 4 MiB kept the event loop for ten seconds."""
    body = Watched(unit * 5000 + tail)
    with pytest.raises(TensorError):
        parse_request(body, None, SPECS)
    assert body.looked_through <= len(body)


def test_a_long_list_beside_the_inputs_is_no_input():
    body = json.loads(long_request(NUMBERS))
    body["parameters"] = {"data": NUMBERS, "more": {"data": [1, 2]}, "odd": {"data": [1, "a]b"]}}
    assert (read(json.dumps(body).encode(), None, (X,))["x"].ravel() == np.float32(NUMBERS)).all()


@pytest.mark.parametrize("bad", ["true", "null", '"1"', "1e999", "1e39", "NaN", "01", "[1]", "1,", "{}"])
def test_one_bad_element_of_a_long_list_is_refused(bad):
    body = long_request(NUMBERS).replace(str(NUMBERS[7]).encode(), bad.encode(), 1)
    with pytest.raises(TensorError):
        read(body, None, (X,))


def test_what_one_reader_has_read_stays_as_it_was_whatever_it_reads_next():
    reader, kept = FloatReader(), []
    for text in (NUMBERS, NUMBERS[::-1], [0.123456789] * 100_000, [*NUMBERS[1:], "bad"], NUMBERS):
        spec = TensorSpec(name="x", datatype="FP32", shape=(len(text),))
        kept.append((text, reader.read(spec, (len(text),), json.dumps(text).encode())))
    assert [array is None for _, array in kept] == [False, False, False, True, False]
    assert all((array == np.float32(text)).all() for text, array in kept if array is not None)


@pytest.mark.parametrize("copies", [1, 40], ids=["few", "many"])
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_float32_is_written_with_nine_digits_and_read_back_the_same(copies, values):
    written = json.dumps(to_json("y", np.array(values * copies, np.float32)))
    assert (np.array(json.loads(written), np.float32) == np.array(values * copies, np.float32)).all()
    for text in written.strip("[]").split(", ")[: len(values)]:
        digits = text.partition("e")[0].strip("-").replace(".", "").strip("0")
        assert len(digits) <= 9
