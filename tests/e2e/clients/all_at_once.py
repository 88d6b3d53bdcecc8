"""Sends many requests at the same time, each on a connection of its own.

python all_at_once.py HOST PORT MODEL COUNT prints how many answers had which status.
"""

import asyncio
import json
import sys
from collections import Counter

BODY = bytes(4 * 32)


async def ask(host, port, model):
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n"
    writer.write(f"{head}Inference-Header-Content-Length: 0\r\n\r\n".encode() + BODY)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(answer.split(b" ", 2)[1])


async def main(host, port, model, count):
    return Counter(await asyncio.gather(*(ask(host, port, model) for _ in range(int(count)))))


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
