"""Uses an agent's models as a program with an official client does, and prints what came as JSON.

python official.py http|grpc HOST:PORT MODEL TEXT: TEXT goes into every input of texts, the others are zeros.
"""

import asyncio
import importlib
import json
import sys

import numpy as np
from tritonclient.utils import triton_to_np_dtype


def feeds(library, metadata, text):
    inputs = []
    for row in metadata["inputs"]:
        shape = [max(1, int(length)) for length in row["shape"]]
        is_text = row["datatype"] == "BYTES"
        array = (
            np.full(shape, text, object) if is_text else np.zeros(shape, triton_to_np_dtype(row["datatype"]))
        )
        inputs.append(library.InferInput(row["name"], shape, row["datatype"]))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def talk(flavour, address, model, text):
    library = importlib.import_module(f"tritonclient.{flavour}")
    as_json = {"as_json": True} if flavour == "grpc" else {}
    with library.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        metadata = client.get_model_metadata(model, **as_json)
        inputs = feeds(library, metadata, text)
        output = metadata["outputs"][0]["name"]
        answered = [client.infer(model, inputs, request_id=str(number)) for number in range(5)]
        assert [each.as_numpy(output).tolist() for each in answered[1:]] == [
            answered[0].as_numpy(output).tolist()
        ] * 4
        named = client.infer(model, inputs, outputs=[library.InferRequestedOutput(output, class_count=2)])
        config = client.get_model_config(model, **as_json)
        statistics = client.get_inference_statistics(model, **as_json)["model_stats"][0]
        index = client.get_model_repository_index(**as_json)
    return {
        "values": answered[0].as_numpy(output).ravel().tolist(),
        "classes": [each.decode() for each in named.as_numpy(output).ravel()],
        "configured": [row["data_type"] for row in config.get("config", config)["input"]],
        "steps": [
            row["model_name"]
            for row in config.get("config", config).get("ensemble_scheduling", {}).get("step", [])
        ],
        "success": int(statistics["inference_stats"]["success"]["count"]),
        "index": {
            row["name"]: row["state"] for row in (index["models"] if isinstance(index, dict) else index)
        },
    }


async def talk_later(address, model, text):
    from tritonclient.http import aio

    async with aio.InferenceServerClient(address) as client:
        metadata = await client.get_model_metadata(model)
        inputs = feeds(aio, metadata, text)
        answered = await asyncio.gather(*(client.infer(model, inputs) for _ in range(8)))
    return [each.as_numpy(metadata["outputs"][0]["name"]).ravel().tolist() for each in answered]


if __name__ == "__main__":
    document = talk(*sys.argv[1:])
    if sys.argv[1] == "http":
        document["later"] = asyncio.run(talk_later(*sys.argv[2:]))
    print(json.dumps(document))
