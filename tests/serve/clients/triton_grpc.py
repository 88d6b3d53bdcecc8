"""Uses a gateway as a program with the official gRPC client does: python triton_grpc.py HOST:PORT MODEL."""

import queue
import sys

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException


def tensors():
    x = grpc.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X)
    return [x]


def talk(client, model):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    assert "statistics" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata(model)
    assert (metadata.inputs[0].name, metadata.inputs[0].datatype) == ("x", "FP32")
    config = client.get_model_config(model).config
    assert (config.input[0].name, config.version_policy.WhichOneof("policy_choice")) == ("x", "all")
    assert config.dynamic_batching.priority_levels == 9
    assert (config.instance_group[0].name, config.response_cache.enable) == (
        config.parameters["variant"].string_value,
        False,
    )
    assert any(row.name == model for row in client.get_model_repository_index().models)
    answered = client.infer(model, tensors(), request_id="7", client_timeout=30, priority=1)
    assert answered.get_response().id == "7"
    assert np.allclose(answered.as_numpy("y"), 2 * X)
    named = client.infer(model, tensors(), outputs=[grpc.InferRequestedOutput("y", class_count=1)])
    assert int(named.as_numpy("y").ravel()[0].decode().split(":")[1]) == X[0].argmax()
    assert client.get_inference_statistics(model).model_stats[0].inference_stats.success.count >= 2
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert client.get_log_settings().settings["log_errors"].bool_param
    assert client.get_system_shared_memory_status(as_json=True) == {}
    with pytest.raises(InferenceServerException, match="NOT_FOUND.*none"):
        client.infer("none", tensors())


def name_what_is_not_there(client, model):
    """A name is a name: one with ends of lines in it was several requests, whose answers others got."""
    smuggled = f"x HTTP/1.1\r\nhost: h\r\n\r\nPOST /v2/repository/models/{model}/unload HTTP/1.1\r\n\r\n"
    for name in (
        "\u00fc",
        "\u65e5",
        "a b",
        "a/b",
        "..",
        f"{model}/unload?",
        f"{model}/versions/1.0.0",
        smuggled,
    ):
        for ask in (
            client.load_model,
            client.unload_model,
            client.get_trace_settings,
            client.get_model_metadata,
        ):
            with pytest.raises(InferenceServerException, match="NOT_FOUND.*there is no model"):
                ask(name)
        with pytest.raises(InferenceServerException, match="NOT_FOUND.*there is no shared memory region"):
            client.get_system_shared_memory_status(name)
        assert client.get_server_metadata().name == "edgekit"
        assert client.is_model_ready(model)


def stream(client, model):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(5):
        client.async_stream_infer(model, tensors(), request_id=str(number))
    client.async_stream_infer("none", tensors())
    client.async_stream_infer(model, tensors(), request_id="last")
    told = [answers.get(timeout=60) for _ in range(7)]
    assert [result.get_response().id for result, error in told if error is None] == [*"01234", "last"]
    (missing,) = [str(error) for _, error in told if error is not None]
    assert missing.startswith("there is no model 'none'; served are ")
    client.stop_stream()


if __name__ == "__main__":
    X = np.linspace(-1, 3, 8, dtype=np.float32).reshape(2, 4)
    with grpc.InferenceServerClient(sys.argv[1]) as used:
        talk(used, sys.argv[2])
        name_what_is_not_there(used, sys.argv[2])
        stream(used, sys.argv[2])
    print("all of it works")
