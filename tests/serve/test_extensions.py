"""The protocol's extensions over real sockets: texts, classes, shared memory, configuration, statistics."""

import contextlib
import json
import logging
import os
import resource
import struct
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
from scripted import doubling, served

from edgekit.core.errors import TensorError
from edgekit.core.spec import TensorSpec
from edgekit.serve.errors import HttpError
from edgekit.serve.shared_memory import Regions
from edgekit.serve.siblings import FORWARDED, REMOTE, is_local
from edgekit.serve.tensors import classes, from_binary, to_binary

X = np.arange(8, dtype=np.float32).reshape(2, 4)
TEXT = TensorSpec(name="x", datatype="BYTES", shape=(-1, 2))


@pytest.fixture(scope="module")
def server():
    with served(doubling()[0], doubling("texts", inputs=(TEXT,))[0]) as running:
        for model in running.entries[1:]:
            model.servable.infer = lambda feeds: {"y": feeds["x"]}
        yield running


def tensor(**more):
    return {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": X.ravel().tolist(), **more}


def infer(server, model="double", **more):
    return server.client.post(f"/v2/models/{model}/infer", json=more)


# -- BYTES


def packed(*texts):
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def test_texts_travel_as_json_and_as_binary_data(server):
    told = infer(
        server, "texts", inputs=[{"name": "x", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "ü"]}]
    ).json()["outputs"][0]
    assert (told["datatype"], told["data"]) == ("BYTES", ["a", "ü"])
    body = packed(b"", "ü".encode())
    one = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(body)}}
    header = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    answered = server.client.post(
        "/v2/models/texts/infer",
        content=header + body,
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert answered.content.endswith(body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        packed(b"a"),
        packed(b"a", b"b", b"c"),
        packed(b"a", b"b")[:-1],
        packed(b"a") + b"\xff\xff\xff\xff",
        packed(b"a", b"b") + b"\0",
        packed(b"a", b"\xff\xfe"),
    ],
)
def test_texts_that_do_not_add_up_or_are_not_utf8_are_refused(data):
    with pytest.raises(TensorError):
        from_binary(TEXT, (1, 2), memoryview(data))


@pytest.mark.parametrize(
    "datatype", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32"]
)
def test_every_datatype_is_the_same_there_and_back(datatype):
    kind = {"BOOL": "bool"}.get(datatype, datatype.lower())
    array = np.array([[0, 1, 1]], kind)
    spec = TensorSpec(name="x", datatype=datatype, shape=(1, 3))
    assert (from_binary(spec, (1, 3), memoryview(bytes(to_binary(array)))) == array).all()


# -- classification


def test_classification_gives_value_index_and_label_of_the_largest(server):
    outputs = [{"name": "y", "parameters": {"classification": 2}}]
    row = infer(server, inputs=[tensor()], outputs=outputs).json()["outputs"][0]
    assert (row["datatype"], row["shape"]) == ("BYTES", [2, 2])
    assert row["data"] == ["6.000000:3:d", "4.000000:2:c", "14.000000:3:d", "12.000000:2:c"]


def test_classes_of_integers_without_labels_and_of_fewer_elements():
    told = classes("y", np.array([5, 9]), 3, ("only one",), is_batched=True)
    assert told.tolist() == ["9:1", "5:0"]
    with pytest.raises(TensorError):
        classes("y", np.zeros((1, 0)), 1, (), is_batched=True)


# -- shared memory


@pytest.fixture
def shared():
    memory = SharedMemory(create=True, size=256)
    yield memory
    memory.close()
    memory.unlink()


def place(name, size, offset=0):
    return {
        "shared_memory_region": name,
        "shared_memory_offset": offset,
        "shared_memory_byte_size": size,
    }


def test_tensors_are_read_from_and_written_to_shared_memory(server, shared):
    post, get = server.client.post, server.client.get
    where = {"key": "/" + shared.name.strip("/"), "offset": 16, "byte_size": 240}
    assert post("/v2/systemsharedmemory/region/r/register", json=where).json() == {}
    assert get("/v2/systemsharedmemory/status").json() == [{"name": "r", **where}]
    assert get("/v2/systemsharedmemory/region/r/status").json() == [{"name": "r", **where}]
    shared.buf[16:48] = X.tobytes()
    one = {"name": "x", "datatype": "FP32", "shape": [2, 4], "parameters": place("r", 32)}
    answered = infer(
        server, inputs=[one], outputs=[{"name": "y", "parameters": place("r", 64, offset=64)}]
    ).json()["outputs"][0]
    assert "data" not in answered
    assert answered["parameters"] == place("r", 32, offset=64)
    assert bytes(shared.buf[80:112]) == (2 * X).tobytes()
    assert post("/v2/systemsharedmemory/region/r/unregister").json() == {}
    assert get("/v2/systemsharedmemory/region/r/status").status_code == 404
    assert infer(server, inputs=[one]).status_code == 400


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"key": "/none-of-that-name", "byte_size": 8},
        {"key": "../etc/passwd", "byte_size": 8},
        {"key": "..", "byte_size": 8},
        {"key": "", "byte_size": 8},
        {"key": "HERE", "byte_size": 257},
        {"key": "HERE", "byte_size": 8, "offset": 249},
        {"key": "HERE", "byte_size": -8},
        {"key": "HERE", "byte_size": True},
        {"key": "HERE", "byte_size": 1 << 80},
    ],
)
def test_memory_that_is_not_there_cannot_be_registered(shared, given):
    if given.get("key") == "HERE":
        given = {**given, "key": shared.name}
    with pytest.raises(HttpError) as refused:
        Regions(1 << 20).register("r", given)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "parameters",
    [
        place("other", 8),
        place("r", 257),
        place("r", 8, 250),
        place("r", -1),
        place(7, 8),
        {"shared_memory_region": "r"},
    ],
)
def test_a_place_outside_of_a_region_is_refused(shared, parameters):
    regions = Regions(1 << 20)
    regions.register("r", {"key": shared.name, "byte_size": 256})
    with pytest.raises(TensorError):
        regions.read("input 'x'", parameters)
    with pytest.raises(TensorError):
        regions.write("output 'y'", parameters, memoryview(b"12345678"))
    regions.unregister()


def test_memory_that_a_client_shortens_meanwhile_is_an_error_and_not_the_end(tmp_path):
    (tmp_path / "shm").write_bytes(b"x" * 64)
    regions = Regions(1 << 20, tmp_path)
    regions.register("r", {"key": "/shm", "byte_size": 64})
    (tmp_path / "shm").write_bytes(b"x")
    with pytest.raises(TensorError, match="become smaller"):
        regions.read("input 'x'", place("r", 64))
    with pytest.raises(TensorError, match="become smaller"):
        regions.write("output 'y'", place("r", 64), memoryview(b"x" * 64))
    regions.unregister("r")


@pytest.mark.parametrize("call", ["pread", "pwrite"])
def test_a_region_that_is_unregistered_while_a_request_uses_it_is_never_another_one(
    tmp_path, monkeypatch, call
):
    """The numbers of closed descriptors are given again: that of a client's memory became another one's."""
    for name in ("mine", "theirs"):
        (tmp_path / name).write_bytes(name.encode().ljust(8))
    regions, real = Regions(1 << 20, tmp_path), getattr(os, call)
    regions.register("r", {"key": "mine", "byte_size": 8})

    def meanwhile(*arguments):
        regions.unregister("r")
        regions.register("other", {"key": "theirs", "byte_size": 8})
        return real(*arguments)

    monkeypatch.setattr(os, call, meanwhile)
    if call == "pread":
        assert bytes(regions.read("input 'x'", place("r", 8))) == b"mine    "
    else:
        regions.write("output 'y'", place("r", 8), memoryview(b"answer  "))
        assert [(tmp_path / name).read_bytes().strip() for name in ("mine", "theirs")] == [
            b"answer",
            b"theirs",
        ]


def open_in(folder):
    """Return the descriptors of this process that are files of a folder; a removed one's name has more."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(each.readlink()))
    return [link for link in links if link.startswith(str(folder))]


def test_unregistered_memory_is_closed_and_one_that_cannot_be_opened_again_stays(tmp_path):
    (tmp_path / "shm").write_bytes(bytes(8))
    regions = Regions(1 << 20, tmp_path)
    for _ in range(3):
        regions.register("r", {"key": "shm", "byte_size": 8})
    assert len(open_in(tmp_path)) == 1
    (tmp_path / "shm").unlink()
    with pytest.raises(HttpError, match="cannot be opened"):
        regions.register("r", {"key": "shm", "byte_size": 8})
    assert len(regions.read("input 'x'", place("r", 8))) == 8
    regions.unregister("r")
    assert not open_in(tmp_path)


def test_more_than_a_body_may_be_is_not_read_however_large_the_region_is(tmp_path):
    with (tmp_path / "shm").open("wb") as sparse:
        sparse.truncate(1 << 38)  # without memory behind it
    regions = Regions(1 << 20, tmp_path)
    regions.register("r", {"key": "shm", "byte_size": 1 << 38})
    assert len(regions.read("input 'x'", place("r", 1 << 20, offset=1 << 37))) == 1 << 20
    with pytest.raises(TensorError, match="at most 1048576 bytes"):
        regions.read("input 'x'", place("r", (1 << 20) + 1))
    regions.unregister()


@pytest.mark.parametrize(
    ("most", "message"), [(0, "cannot be written: File too large"), (16, "for 16 of 64")]
)
def test_memory_that_the_machine_does_not_have_is_an_error_of_the_request(tmp_path, most, message):
    (tmp_path / "shm").write_bytes(bytes(64))
    regions = Regions(1 << 20, tmp_path)
    regions.register("r", {"key": "shm", "byte_size": 64})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(TensorError, match=message):
            regions.write("output 'y'", place("r", 64), memoryview(b"x" * 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        regions.unregister()


def test_a_region_is_registered_again_after_its_memory_was_made_anew_but_not_for_another_place(shared):
    regions = Regions(1 << 20)
    regions.register("r", {"key": shared.name, "byte_size": 64})
    regions.register("r", {"key": shared.name, "byte_size": 64})
    with pytest.raises(HttpError, match="registered already"):
        regions.register("r", {"key": shared.name, "byte_size": 32})
    regions.unregister()


@pytest.mark.parametrize(
    ("client", "headers", "told"),
    [
        (None, {}, True),
        (("127.0.0.1", 1), {}, True),
        (("::1", 1), {}, True),
        (("192.168.1.2", 1), {}, False),
        (("192.168.1.2", 1), {FORWARDED: b"1"}, False),
        (None, {FORWARDED: b"1"}, True),
        (None, {REMOTE: b"1"}, False),
        (("127.0.0.1", 1), {REMOTE: b"1"}, False),
    ],
)
def test_only_clients_on_this_machine_are_local_also_behind_another_process(client, headers, told):
    assert is_local(client, headers) is told


# -- configuration, statistics, settings


def test_the_configuration_names_tensors_priorities_and_versions(server):
    told = server.client.get("/v2/models/double/config").json()
    assert (told["name"], told["max_batch_size"], told["version_policy"]) == ("double", 0, {"all": {}})
    assert told["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4], "optional": False}]
    assert told["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 4]}]
    assert told["dynamic_batching"]["priority_levels"] == 9
    assert server.client.get("/v2/models/texts/config").json()["input"][0]["data_type"] == "TYPE_STRING"


def test_statistics_count_answers_refusals_and_stages():
    with served(doubling()[0], doubling("two", "1.0.0")[0], doubling("two", "2.0.0")[0]) as server:
        for _ in range(3):
            server.infer(X)
        server.client.post("/v2/models/double/infer", content=b"no")
        get = server.client.get
        [row] = get("/v2/models/double/stats").json()["model_stats"]
        counts = {name: stage["count"] for name, stage in row["inference_stats"].items()}
        assert (row["inference_count"], row["execution_count"], row["last_inference"] > 0) == (3, 3, True)
        assert (counts["success"], counts["fail"], counts["compute_infer"]) == (3, 1, 3)
        assert row["inference_stats"]["success"]["ns"] > row["inference_stats"]["compute_infer"]["ns"]
        assert len(get("/v2/models/stats").json()["model_stats"]) == 3
        assert len(get("/v2/models/two/stats").json()["model_stats"]) == 2
        newer = get("/v2/models/two/versions/2.0.0/stats").json()["model_stats"]
        assert [each["version"] for each in newer] == ["2.0.0"]
        assert get("/v2/models/none/stats").status_code == 404
        lines = get("/metrics").text.splitlines()
    labels = 'model="double",version="1.0.0"'
    assert f"nv_inference_request_success{{{labels}}} 3" in lines
    assert f"nv_inference_request_failure{{{labels}}} 1" in lines


@pytest.fixture
def log_level():
    root = logging.getLogger()
    before = root.level
    yield root
    root.setLevel(before)
    logging.getLogger("edgekit.serve.settings").setLevel(logging.NOTSET)


def test_the_log_level_can_be_read_and_set(server, log_level):
    log_level.setLevel(logging.WARNING)
    told = server.client.get("/v2/logging").json()
    assert (told["log_info"], told["log_warnings"], told["log_verbose_level"]) == (False, True, 0)
    assert server.client.post("/v2/logging", json={"log_verbose_level": 1}).json()["log_verbose_level"] == 1
    assert log_level.level == logging.DEBUG
    assert server.client.post("/v2/logging", json={"log_verbose_level": 0, "log_info": True}).json()[
        "log_info"
    ]
    assert log_level.level == logging.INFO
    for refused in (
        {"log_file": "/etc/passwd"},
        {"other": 1},
        {"log_info": "yes"},
        {"log_info": True, "log_warnings": False},
        {"log_format": "ISO8601"},
    ):
        assert server.client.post("/v2/logging", json=refused).status_code == 400


def test_traced_requests_are_logged_with_their_trace_context(server, log_level, caplog):
    get, post = server.client.get, server.client.post
    assert get("/v2/trace/setting").json()["trace_level"] == ["OFF"]
    told = post("/v2/models/double/trace/setting", json={"trace_level": ["TIMESTAMPS"], "trace_rate": "2"})
    assert (told.json()["trace_level"], told.json()["trace_rate"]) == (["TIMESTAMPS"], "2")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with caplog.at_level(logging.INFO, "edgekit.serve.settings"):
        for _ in range(4):
            answered = server.client.post(
                "/v2/models/double/infer", json={"inputs": [tensor()]}, headers={"traceparent": parent}
            )
    assert answered.headers["traceparent"] == parent
    traced = [json.loads(row.message[6:]) for row in caplog.records if row.message.startswith("trace ")]
    assert [each["traceparent"] for each in traced] == [parent] * 2
    assert all(each["total_us"] >= each["infer_us"] > 0 for each in traced)
    post("/v2/models/double/trace/setting", json={})
    assert get("/v2/models/double/trace/setting").json()["trace_level"] == ["OFF"]
    for answered in (get("/v2/models/none/trace/setting"), post("/v2/models/none/trace/setting", json={})):
        assert (answered.status_code, "no model 'none'" in answered.json()["error"]) == (404, True)
    for refused in (
        {"trace_file": "/tmp/x"},
        *({"trace_level": level} for level in (["TENSORS"], [[]], [{}], [], 7)),
        *({"trace_rate": rate} for rate in ("often", "²", ["1", "2"], "", "--1", 1e300)),
    ):
        assert post("/v2/trace/setting", json=refused).status_code == 400


def test_the_server_names_the_extensions_it_has(server):
    assert set(server.client.get("/v2").json()["extensions"]) == {
        "binary_tensor_data",
        "classification",
        "logging",
        "model_configuration",
        "model_repository",
        "schedule_policy",
        "sequence",
        "statistics",
        "system_shared_memory",
        "trace",
    }
