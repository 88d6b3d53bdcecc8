"""What a server of the protocol must answer, and what it must refuse without harm."""

import gzip
import json
import struct

import pytest

# -- what it must answer


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/MODEL/ready"])
def test_health_is_a_status(oip, path):
    assert oip.ask("GET", path.replace("MODEL", oip.model))[0] == 200


def test_the_server_names_itself_and_its_extensions(oip):
    told = oip.get("/v2")
    assert isinstance(told["name"], str)
    assert isinstance(told["version"], str)
    assert all(isinstance(each, str) for each in told["extensions"])


def test_a_model_names_its_tensors(oip):
    told = oip.get(oip.path)
    assert told["name"] == oip.model
    for row in (*told["inputs"], *told["outputs"]):
        assert set(row) >= {"name", "datatype", "shape"}
        assert all(isinstance(length, int) for length in row["shape"])


def outputs_of(body):
    return json.loads(body)["outputs"]


def test_a_flat_list_and_a_nested_one_give_the_same(oip):
    flat = oip.tensor()
    nested = flat["data"]
    for length in reversed(flat["shape"][1:]):
        nested = [nested[at : at + length] for at in range(0, len(nested), length)]
    answers = [oip.infer({"inputs": [{**flat, "data": data}]}) for data in (flat["data"], nested)]
    assert [status for status, _, _ in answers] == [200, 200]
    assert outputs_of(answers[0][2]) == outputs_of(answers[1][2])


def test_the_id_comes_back_and_the_answer_names_the_model(oip):
    status, _, body = oip.infer({"id": "a-7", "inputs": [oip.tensor()]})
    told = json.loads(body)
    assert (status, told["id"], told["model_name"]) == (200, "a-7", oip.model)


def test_only_the_outputs_that_are_named_are_answered(oip):
    name = oip.get(oip.path)["outputs"][0]["name"]
    status, _, body = oip.infer({"inputs": [oip.tensor()], "outputs": [{"name": name}]})
    assert (status, [row["name"] for row in outputs_of(body)]) == (200, [name])


def has(oip, extension):
    if extension not in oip.get("/v2")["extensions"]:
        pytest.skip(f"the server does not have {extension}")


def test_binary_data_gives_the_same_as_json(oip):
    has(oip, "binary_tensor_data")
    wanted = outputs_of(oip.infer({"inputs": [oip.tensor()]})[2])[0]
    status, headers, body = oip.binary(oip.tensor(), parameters={"binary_data_output": True})
    length = int(headers["inference-header-content-length"])
    row = outputs_of(body[:length])[0]
    assert (status, row["shape"]) == (200, wanted["shape"])
    count = row["parameters"]["binary_data_size"] // 4
    assert struct.unpack(f"<{count}f", body[length : length + 4 * count]) == pytest.approx(wanted["data"])


def test_a_raw_binary_request_is_one_tensor(oip):
    has(oip, "binary_tensor_data")
    values = oip.tensor()["data"]
    status, headers, _ = oip.ask(
        "POST",
        f"{oip.path}/infer",
        struct.pack(f"<{len(values)}f", *values),
        {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0"},
    )
    assert status == 200
    assert "inference-header-content-length" in headers


def test_statistics_count_each_answer(oip):
    has(oip, "statistics")

    def count():
        return oip.get(f"{oip.path}/stats")["model_stats"][0]["inference_stats"]["success"]["count"]

    before = count()
    assert oip.infer({"inputs": [oip.tensor()]})[0] == 200
    assert count() == before + 1


def test_the_index_lists_the_model(oip):
    has(oip, "model_repository")
    status, _, body = oip.ask("POST", "/v2/repository/index", b"{}")
    assert status == 200
    assert oip.model in [row["name"] for row in json.loads(body)]


def test_the_configuration_has_the_tensors(oip):
    has(oip, "model_configuration")
    told = oip.get(f"{oip.path}/config")
    assert told["input"][0]["data_type"] == "TYPE_FP32"


def test_classes_are_texts_of_value_and_index(oip):
    has(oip, "classification")
    name = oip.get(oip.path)["outputs"][0]["name"]
    asked = {"name": name, "parameters": {"classification": 1}}
    row = outputs_of(oip.infer({"inputs": [oip.tensor()], "outputs": [asked]})[2])[0]
    assert row["datatype"] == "BYTES"
    float(row["data"][0].split(":")[0]), int(row["data"][0].split(":")[1])


# -- what it must refuse

HOSTILE_TENSORS = {
    "another datatype": {"datatype": "FP64"},
    "an unknown datatype": {"datatype": "FP33"},
    "an unknown name": {"name": "no-such-input"},
    "a huge shape": {"shape": [1 << 40, 1 << 40]},
    "a negative dimension": {"shape": [-1, 16]},
    "a fraction of a dimension": {"shape": [0.5, 16]},
    "a dimension beyond 64 bits": {"shape": [1 << 70]},
    "a shape of text": {"shape": "1,16"},
    "too few elements": {"data": [1]},
    "too many elements": {"data": [1] * 100_000},
    "text in place of numbers": {"data": ["1"]},
    "null in place of data": {"data": None},
    "a deep nesting": {"data": json.loads("[" * 400 + "]" * 400)},
}
HOSTILE_BODIES = {
    "nothing": b"",
    "no JSON": b"\x00\xff\xfe",
    "a list": b"[]",
    "a number": b"3",
    "no inputs": b"{}",
    "inputs that are a number": b'{"inputs": 3}',
    "an input that is null": b'{"inputs": [null]}',
    "a cut document": b'{"inputs": [{"name": "x", "shape": [1',
    "nesting without end": b'{"inputs": ' + b"[" * 100_000,
    "text that is not UTF-8": b'{"inputs": [{"name": "\xff", "shape": [1], "datatype": "FP32"}]}',
}


def is_refused(answer):
    status, _, body = answer
    assert 400 <= status < 500, (status, body[:200])
    assert len(body) < 10_000


@pytest.fixture(autouse=True)
def still_right(oip):
    """After each test the server answers, whatever was sent."""
    yield
    assert oip.infer({"inputs": [oip.tensor()]})[0] == 200


@pytest.mark.parametrize("more", HOSTILE_TENSORS.values(), ids=HOSTILE_TENSORS)
def test_a_wrong_tensor_is_refused(oip, more):
    is_refused(oip.infer({"inputs": [oip.tensor(**more)]}))


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_wrong_body_is_refused(oip, body):
    is_refused(oip.infer(body))


@pytest.mark.parametrize("text", ["NaN", "1e999", "Infinity", "01", "true"])
def test_a_number_that_json_or_the_datatype_lacks_is_refused(oip, text):
    tensor = oip.tensor()
    data = [12345.5, *tensor["data"][1:]]
    is_refused(
        oip.infer(json.dumps({"inputs": [{**tensor, "data": data}]}).replace("12345.5", text).encode())
    )


def test_an_input_twice_and_an_unknown_output_are_refused(oip):
    is_refused(oip.infer({"inputs": [oip.tensor(), oip.tensor()]}))
    is_refused(oip.infer({"inputs": [oip.tensor()], "outputs": [{"name": "no-such-output"}]}))


@pytest.mark.parametrize(
    ("more", "tail", "length"),
    [
        ({}, b"\0" * 4, None),
        ({"parameters": {"binary_data_size": 1 << 60}}, None, None),
        ({"parameters": {"binary_data_size": -64}}, None, None),
        ({"parameters": {"binary_data_size": 1.5}}, None, None),
        ({}, None, 10**9),
        ({}, None, -1),
        ({}, None, "x"),
        ({}, None, 5),
    ],
)
def test_binary_sizes_that_do_not_add_up_are_refused(oip, more, tail, length):
    has(oip, "binary_tensor_data")
    is_refused(oip.binary(oip.tensor(**more), tail=tail, length=length))


def test_a_bomb_of_compressed_zeros_is_refused_or_bounded(oip):
    bomb = gzip.compress(bytes(1 << 28))
    status, _, _ = oip.ask("POST", f"{oip.path}/infer", bomb, {"Content-Encoding": "gzip"})
    assert 400 <= status < 500


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/models/no-such-model"),
        ("GET", "/v2/models/no-such-model/ready"),
        ("POST", "/v2/models/no-such-model/infer"),
        ("GET", "/v2/models/MODEL/versions/no-such-version"),
        ("GET", "/v2/models/%00%ff"),
        ("GET", "/v2/models/../../etc/passwd"),
    ],
)
def test_a_path_that_is_not_there_is_refused(oip, method, path):
    is_refused(oip.ask(method, path.replace("MODEL", oip.model), b"{}" if method == "POST" else b""))


RAW = {
    "a line without end": b"GET /" + b"a" * (1 << 17),
    "a header without end": b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (1 << 20),
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "a body that ends early": b"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{",
    "two lengths": b"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length that is negative": b"POST PATH HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n{}",
    "a chunk of text": b"POST PATH HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_bytes_that_are_no_request_are_refused_or_dropped(oip, data):
    answered = oip.send(data.replace(b"PATH", f"{oip.path}/infer".encode()))
    assert answered[:11] in (
        b"",
        *(b"HTTP/1.%d 4%d" % (minor, tens) for minor in (0, 1) for tens in range(4)),
    )
