"""Requests that are nearly right, by a seed: documents, binary sizes, headers, paths, files and framing."""

import copy
import json
import random
import struct
import zlib

JUNK = [
    None, True, False, 0, -1, 1, 7, [None],
    1 << 31, 1 << 63, 1 << 200, 0.5, -1e308, "", "x", "\x00", "é" * 40, "FP32",
    "x" * 3000, [], {}, [[]], {"x": 1}, [1, [2]], ["1"], [1] * 500, float("nan"), float("inf"),
]  # fmt: skip
SEGMENTS = [
    "v2", "models", "relu", "site", "tiny", "shake", "none", "versions", "1.0.0", "infer", "ready", "config",
    "stats", "jobs", "repository", "index", "load", "trace", "setting", "logging", "health", "live", "status",
    "metrics", "systemsharedmemory", "region", "r", "register", "%00", "..", "", "*", "%2f", "a" * 300, "%ff",
]  # fmt: skip


def png(width, height):
    """Return a picture of one red pixel that says it has another size."""
    head = b"IHDR" + struct.pack(">II", width, height) + b"\x08\x02\x00\x00\x00"
    chunks = [head, b"IDAT" + zlib.compress(b"\x00\xff\x00\x00"), b"IEND"]
    whole = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


FILES = {
    "image/png": png(1, 1),
    "audio/wav": b"RIFF\x2c\x00\x00\x00WAVEfmt "
    + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    + b"data\x08\x00\x00\x00\x01\x00\x02\x00\x03\x00\x04\x00",
    "text/csv": b"ax,ay,az\n" + b"1,2,3\n" * 8,
}
HEADERS = [
    "Inference-Header-Content-Length: {n}", "X-Request-Timeout-Ms: {n}", "Prefer: respond-async",
    "Prefer: respond-async, wait={n}", "Content-Encoding: gzip", "Authorization: Bearer {t}", "Origin: http://x",
    "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Traceparent: {t}", "Expect: {t}",
    "X-Edgekit-Client: {t}", "Content-Type: {t}", "Accept: {t}", "Range: bytes={n}-", "Cookie: {t}",
    "X-Edgekit-Webhook: {t}", "Cache-Control: {t}", "X-Http-Method-Override: DELETE",
]  # fmt: skip
CONTROLS = [
    "/v2/repository/index", "/v2/repository/models/none/load", "/v2/repository/models/none/unload",
    "/v2/trace/setting", "/v2/models/relu/trace/setting", "/v2/systemsharedmemory/region/r/register",
    "/v2/systemsharedmemory/region/r/unregister", "/v2/logging",
]  # fmt: skip


def request(chance: random.Random) -> tuple[bytes, bool]:
    """Return one request, and whether its length may be wrong: then nothing may follow it."""
    make = chance.choice([document, document, document, binary, binary, file, path, control])
    target, headers, body = make(chance)
    method = chance.choice(["GET", "PUT", "DELETE", "HEAD", "OPTIONS"]) if chance.random() < 0.05 else "POST"
    method = "GET" if make is path and chance.random() < 0.6 else method
    while chance.random() < 0.2:
        headers = [*headers, filled(chance, chance.choice(HEADERS))]
    if chance.random() < 0.3:
        body = damaged(chance, body)
    length, is_framed = len(body), chance.random() > 0.04
    if not is_framed:
        length = chance.choice([length + 9, max(0, length - 5), -1, "x", 1 << 40, "0x1", ""])
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers]
    if is_framed and chance.random() < 0.03:
        lines[2] = "Transfer-Encoding: chunked"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    data = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
    if not is_framed and chance.random() < 0.5:
        data = damaged(chance, data)
    return data, not is_framed or method == "HEAD" or "Expect" in " ".join(headers)


def filled(chance, text):
    return text.replace("{n}", str(chance.choice([0, 1, 5, 64, 1 << 31, -1, "x", ""]))).replace(
        "{t}",
        chance.choice(
            ["", "x", "a/b", "é", "a" * 400, "image/jpeg", "application/json", "http://127.0.0.1:1/"]
        ),
    )


def right(chance):
    """Return a right document for one of the models, and its name."""
    model = chance.choice(["relu", "site"])
    if model == "site":
        tensor = {"name": "site", "datatype": "BYTES", "shape": [1, 1], "data": ["A"]}
    else:
        data = [chance.uniform(-9, 9) for _ in range(16)]
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 16], "data": data}
    parameters = {
        "priority": 1, "timeout": 1000000, "sequence_id": 7, "sequence_start": True,
        "binary_data_output": True,
    }  # fmt: skip
    found = {"id": "1", "inputs": [tensor], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}
    kept = {key: value for key, value in parameters.items() if chance.random() < 0.2}
    return model, {**found, "parameters": kept} if chance.random() < 0.7 else {"inputs": [tensor]}


def document(chance):
    model, found = right(chance)
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        spoil(chance, found)
    text = json.dumps(found, allow_nan=True)
    if chance.random() < 0.05:
        text = text.replace("]", "]" * 3, 1) if chance.random() < 0.5 else "[" * 2000 + text
    return f"/v2/models/{model}/infer", [], text.encode()


def junk(chance):
    return copy.deepcopy(chance.choice(JUNK))


def spoil(chance, found):
    """Replace, remove or add one thing somewhere in a document."""
    at = found
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(at[key], (dict, list)) and at[key] and chance.random() < 0.7:
            at = at[key]
            continue
        act = chance.random()
        if act < 0.7:
            at[key] = junk(chance)
        elif act < 0.85:
            del at[key]
        elif isinstance(at, dict):
            at[chance.choice(["data", "parameters", "shape", "binary_data_size", "shared_memory_region"])] = (
                junk(chance)
            )
        else:
            at.append(junk(chance))
        return


def binary(chance):
    sizes = [64, 64, 64, 0, 63, 65, -1, 1 << 40, "64", None]
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, 16],
        "parameters": {"binary_data_size": chance.choice(sizes)},
    }
    found = {"inputs": [tensor], "parameters": {"binary_data_output": chance.choice([True, False, 1])}}
    if chance.random() < 0.3:
        spoil(chance, found)
    header = json.dumps(found).encode()
    length = chance.choice([len(header)] * 5 + [0, 1, len(header) + 64, len(header) + 65, 1 << 40])
    tail = struct.pack("<16f", *(chance.choice([0.0, 1.0, float("nan"), 3e38]) for _ in range(16)))
    return "/v2/models/relu/infer", [f"Inference-Header-Content-Length: {length}"], header + tail


def file(chance):
    kind = chance.choice(list(FILES))
    body = damaged(chance, FILES[kind]) if chance.random() < 0.8 else FILES[kind]
    if kind == "image/png" and chance.random() < 0.3:  # a picture that says it is huge, with a right checksum
        body = png(chance.choice([1, 1 << 16, 1 << 30]), chance.choice([1, 1 << 16, 0]))
    return f"/v2/models/{chance.choice(['tiny', 'shake', 'relu'])}/infer", [f"Content-Type: {kind}"], body


def path(chance):
    target = "/" + "/".join(chance.choice(SEGMENTS) for _ in range(chance.randrange(7)))
    return target + chance.choice(["", "", "?x=1", "?" + "q" * 200, "#a"]), [], b""


def control(chance):
    target = chance.choice(CONTROLS)
    keys = [
        "ready",
        "parameters",
        "key",
        "byte_size",
        "offset",
        "trace_level",
        "trace_rate",
        "log_verbose_level",
        "x",
    ]
    found = {chance.choice(keys): junk(chance) for _ in range(chance.randrange(4))}
    return target, [], json.dumps(found).encode()


def damaged(chance, data):
    """Cut, repeat, flip or insert bytes."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(data) + 1)
        act = chance.randrange(4)
        if act == 0:
            del data[at:]
        elif act == 1:
            data[at:at] = data[max(0, at - 20) : at]
        elif act == 2:
            data[at : at + 1] = bytes([chance.randrange(256)])
        else:
            data[at:at] = chance.choice(
                [b"\x00", b'"', b"[", b"{", b",", b"\xff\xfe", b"1e999", b"NaN", b"\\u0000"]
            )
    return bytes(data)
