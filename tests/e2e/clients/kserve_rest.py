"""Uses an agent's model as a program with KServe's client does, and prints what came as JSON.

python kserve_rest.py URL MODEL, with kserve installed.
"""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

X = np.zeros((1, 16, 2), np.float32)


async def main(url, model):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=30))
    ready = [
        await client.is_server_live(url),
        await client.is_server_ready(url),
        await client.is_model_ready(url, model),
    ]
    values = []
    for is_binary in (False, True):
        tensor = InferInput("x", list(X.shape), "FP32")
        tensor.set_data_from_numpy(X, binary_data=is_binary)
        answered = await client.infer(url, InferRequest(model, [tensor], request_id="7"), model_name=model)
        assert answered.id == "7"
        values.append(answered.outputs[0].as_numpy().ravel().tolist())
    await client.close()
    return {"ready": ready, "values": values}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
