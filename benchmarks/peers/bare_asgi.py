"""The yardstick: uvicorn and forty lines. python bare_asgi.py PORT MODEL."""

import sys

import numpy as np
import onnxruntime
import uvicorn

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
spec = session.get_inputs()[0]
SHAPE = [size if isinstance(size, int) else 1 for size in spec.shape]


async def app(scope, receive, send):
    """Answer one request with the model's output."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    array = np.frombuffer(b"".join(pieces), np.float32).reshape(SHAPE)
    body = session.run(None, {spec.name: array})[0].tobytes()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
