"""Uses a server as a program with the official client does: python triton_http.py HOST:PORT MODEL."""

import asyncio
import sys
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest
from tritonclient import http
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException


def tensors(client_module, is_binary=True):
    x = client_module.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X, binary_data=is_binary)
    return [x], [client_module.InferRequestedOutput("y", binary_data=is_binary)]


def talk(address, model):
    client = http.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata(model)
    assert client.get_model_config(model)["input"][0]["name"] == metadata["inputs"][0]["name"] == "x"
    assert any(row["name"] == model for row in client.get_model_repository_index())
    for is_binary in (True, False):
        inputs, outputs = tensors(http, is_binary)
        answered = client.infer(
            model, inputs, outputs=outputs, request_id="7", priority=2, timeout=10_000_000
        )
        assert answered.get_response()["id"] == "7"
        assert np.allclose(answered.as_numpy("y"), WANTED)
    named = client.infer(model, tensors(http)[0], outputs=[http.InferRequestedOutput("y", class_count=2)])
    values = [text.decode().split(":") for text in named.as_numpy("y").ravel()]
    assert [int(index) for _, index, *_ in values][:1] == [int(WANTED[0].argmax())]
    pending = [client.async_infer(model, tensors(http)[0]) for _ in range(8)]
    assert all(np.allclose(each.get_result().as_numpy("y"), WANTED) for each in pending)
    statistics = client.get_inference_statistics(model)["model_stats"][0]
    assert statistics["inference_stats"]["success"]["count"] >= 11
    settings(client, model)
    memory(client, model)
    with pytest.raises(InferenceServerException, match="no-such-model"):
        client.infer("no-such-model", tensors(http)[0])
    client.close()


def settings(client, model):
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.update_trace_settings(model, {"trace_level": ["OFF"]})["trace_level"] == ["OFF"]
    level = client.get_log_settings()
    assert client.update_log_settings({"log_verbose_level": level["log_verbose_level"]}) == level


def memory(client, model):
    shared = SharedMemory(create=True, size=2 * X.nbytes)
    try:
        shared.buf[: X.nbytes] = X.tobytes()
        client.register_system_shared_memory("r", "/" + shared.name.strip("/"), 2 * X.nbytes)
        assert [row["name"] for row in client.get_system_shared_memory_status()] == ["r"]
        x, y = http.InferInput("x", list(X.shape), "FP32"), http.InferRequestedOutput("y")
        x.set_shared_memory("r", X.nbytes)
        y.set_shared_memory("r", X.nbytes, offset=X.nbytes)
        client.infer(model, [x], outputs=[y])
        written = np.frombuffer(bytes(shared.buf[X.nbytes : X.nbytes + WANTED.nbytes]), np.float32)
        assert np.allclose(written, WANTED.ravel())
        client.unregister_system_shared_memory("r")
        assert client.get_system_shared_memory_status() == []
    finally:
        shared.close()
        shared.unlink()


async def talk_later(address, model):
    async with aio.InferenceServerClient(address) as client:
        assert await client.is_server_live()
        inputs, outputs = tensors(http)
        answered = await asyncio.gather(*(client.infer(model, inputs, outputs=outputs) for _ in range(8)))
        assert all(np.allclose(each.as_numpy("y"), WANTED) for each in answered)
        assert (await client.get_inference_statistics(model))["model_stats"]


if __name__ == "__main__":
    address, model, rows, columns = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    X = np.linspace(-1, 3, rows * columns, dtype=np.float32).reshape(rows, columns)
    probe = http.InferenceServerClient(address)
    WANTED = 2 * X if model == "double" else probe.infer(model, tensors(http)[0]).as_numpy("y").copy()
    probe.close()
    talk(address, model)
    asyncio.run(talk_later(address, model))
    print("all of it works")
