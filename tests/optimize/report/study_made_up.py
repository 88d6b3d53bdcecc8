# ruff: noqa: E501  rows of a table read best as rows
"""A complete study, made up, of the size and shape that a real one has."""

import base64
import struct
import zlib

import msgspec

from edgekit_optimize.plan import Check, Plan
from edgekit_optimize.study import (
    CandidateResult,
    DataFacts,
    LayerSensitivity,
    Sample,
    Score,
    Study,
    TargetResult,
    Timing,
)

NOT_THE_BOARD = "measured on this machine, which is not the board"


def png(red, green, blue, side=48):
    """A picture as a data URI: stripes."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(
        b"\0"
        + b"".join(bytes((red, green, blue) if (x + y) // 8 % 2 else (230, 230, 230)) for x in range(side))
        for y in range(side)
    )
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


def score(value, reference=0.878, spread=0.011):
    drop = reference - value
    return Score(
        metric="top-1",
        value=value,
        reference=reference,
        samples=1000,
        drop=drop,
        low=drop - spread,
        high=drop + spread * 0.9,
    )


def timing(p50_ms, rss_mb, threads=1, profile="intel-x86", noise=0.03):
    return Timing(
        profile=profile,
        device="build-host" if profile == "intel-x86" else "line-3",
        threads=threads,
        p50_ms=p50_ms,
        p95_ms=p50_ms * 1.12,
        p99_ms=p50_ms * 1.3,
        pre_ms=0.21,
        load_ms=p50_ms * 5,
        rss_mb=rss_mb,
        noise=noise,
        rounds=12,
        measured="2026-11-22",
    )


# id, technique, backend, precision, top-1, ms, MB of file, MB of memory, front, kept, integer share
_ROWS = (
    ("litert-fp32", "litert-float", "litert", "fp32", 0.878, 10.63, 18.54, 89, False, True, 0.0),
    ("litert-fp16", "litert-half", "litert", "fp16", 0.878, 10.71, 9.31, 92, False, False, 0.0),
    ("litert-int8", "litert-static", "litert", "int8", 0.877, 4.69, 5.25, 58, True, True, 0.998),
    ("litert-int8-coco", "litert-static", "litert", "int8", 0.810, 4.72, 5.35, 58, False, False, 0.998),
    ("litert-dynamic", "litert-weights", "litert", "dynamic-int8", 0.883, 23.43, 5.08, 64, True, False, 0.0),
    ("litert-mixed", "litert-static", "litert", "int8", 0.8785, 5.31, 5.61, 60, True, True, 0.93),
    ("onnxruntime-fp32", "onnx-float", "onnxruntime", "fp32", 0.878, 10.57, 18.61, 109, False, True, 0.0),
    ("onnxruntime-fused", "onnx-float", "onnxruntime", "fp32", 0.878, 10.1, 18.6, 108, False, False, 0.0),
    ("onnxruntime-int8", "onnx-static", "onnxruntime", "int8", 0.879, 5.67, 5.10, 78, True, True, 0.995),
    ("onnxruntime-int8-s8s8", "onnx-static", "onnxruntime", "int8", 0.877, 9.35, 5.1, 78, False, False, 0.99),
    ("onnxruntime-per-tensor", "onnx-static", "onnxruntime", "int8", 0.811, 5.4, 4.81, 77, False, False, 0.99),
    ("onnxruntime-dynamic", "onnx-dynamic", "onnxruntime", "dynamic-int8", 0.412, 41.0, 5.0, 81, False, False, 0.9),
    ("openvino-fp32", "openvino-float", "openvino", "fp32", 0.878, 10.34, 18.65, 148, False, True, 0.0),
    ("openvino-int8", "openvino-static", "openvino", "int8", 0.879, 5.94, 5.68, 129, False, True, 0.99),
    ("openvino-qdq", "onnx-static", "openvino", "int8", 0.8785, 5.03, 5.10, 137, False, True, 0.995),
    ("openvino-weights", "openvino-weights", "openvino", "int8", 0.8775, 10.9, 5.0, 151, False, False, 0.0),
)  # fmt: skip


def candidate(row):
    id_, technique, backend, precision, top1, ms, file_mb, rss_mb, front, kept, integer = row
    passes = top1 >= 0.868
    slow = ms > 11
    verdict = (
        "beyond the gate: its interval lies below what may be lost"
        if not passes
        else "slower than the float form"
        if slow
        else "within the gate"
    )
    timings = [timing(ms, rss_mb), timing(ms * 0.55, rss_mb + 2, threads=2)]
    if id_ in {"litert-fp32", "litert-int8"}:
        timings.append(timing(ms * 3.1, rss_mb - 8, threads=4, profile="rpi5", noise=0.01))
    options = {"keep_float": ["features.0.conv", "head"]} if "mixed" in id_ else {}
    options |= {"fused": True} if "fused" in id_ else {}
    options |= {"per_channel": False} if "per-tensor" in id_ else {}
    return CandidateResult(
        plan=Plan(id=id_, technique=technique, backend=backend, precision=precision, options=options),
        bytes=int(file_mb * 1e6),
        sha256="9f" * 32,
        score=score(top1),
        float_difference=0.0 if precision == "fp32" else 0.41,
        timings=tuple(timings),
        gate="pass" if passes else "fail",
        verdict=verdict,
        front=front,
        kept=kept,
        notes=("61 of 64 activations have a zero point",) if "int8" in id_ else (),
        tools={"onnxruntime": "1.31.1"} if backend == "onnxruntime" else {},
        integer_share=integer,
        make_s=4.2,
        cached=precision == "fp32",
    )


BROKEN = CandidateResult(
    plan=Plan(
        id="litert-int8-edgetpu",
        technique="litert-edgetpu",
        backend="litert",
        accelerator="edgetpu",
        precision="int8",
    ),
    error="edgetpu_compiler is not on PATH; fix: install Google's edgetpu-compiler package",
)


def study(**changes):
    """The study; any field can be another."""
    candidates = (*map(candidate, _ROWS), BROKEN)
    below = "loses 6.80 points, 1.00 are allowed"
    rejected = {
        "litert-int8-coco": (below,),
        "onnxruntime-per-tensor": (below, "dominated by onnxruntime-int8 in latency, size and memory"),
        "onnxruntime-dynamic": ("loses 46.60 points, 1.00 are allowed", "slower than the float form"),
        "litert-int8-edgetpu": ("could not be made: edgetpu_compiler is not on PATH",),
    }
    no_openvino = ("this board's profile has no OpenVINO",)
    whole = Study(
        model="efficientnet-lite0",
        version="1.1.0",
        bundle="efficientnet-lite0-1.1.0",
        command="edgekit optimize efficientnet-lite0.onnx --data pictures -o bundles --targets rpi5,intel-x86,jetson-orin-nano,ncs2 --max-drop 0.01",
        created="2026-11-22T06:40:00Z",
        edgekit="0.1.0",
        machine={"cpu": "Intel Xeon (AVX512-VNNI, AMX)", "cores": "2", "memory": "24 GB", "python": "3.11.7", "system": "Linux 6.1"},
        versions={"onnx": "1.23.2", "openvino": "2026.4.1", "nncf": "3.4.0", "ai-edge-litert": "2.3.0", "numpy": "2.4.6"},
        source={"file": "efficientnet-lite0.onnx", "sha256": "ab" * 32},
        checks=(
            Check(conversion="ONNX to OpenVINO IR", tool="openvino 2026.4.1", samples=16, max_abs=8e-6, scale=14.2),
            Check(conversion="ONNX to TFLite", tool="edgekit 0.1.0", samples=16, max_abs=2.1e-5, scale=14.2),
        ),
        data=DataFacts(source="pictures", calibration=128, evaluation=1000, labelled=True, dropped_overlap=3, sha256="cd" * 32),
        metric="top-1",
        metric_means="the share of pictures whose best class is the label.",
        max_drop=0.01,
        budget_ms=20.0,
        reference="onnxruntime-fp32",
        candidates=candidates,
        targets=(
            TargetResult(
                profile="rpi5",
                title="Raspberry Pi 5",
                chosen="litert-int8",
                basis="measured on this board",
                why="the fastest within the gate; onnxruntime-int8 was not measured there",
                order=("litert-int8", "litert-mixed", "litert-fp32"),
                rejected=rejected | dict.fromkeys(("openvino-int8", "openvino-qdq", "openvino-fp32"), no_openvino),
            ),
            TargetResult(
                profile="intel-x86",
                title="Intel x86-64 with VNNI or AMX",
                chosen="litert-int8",
                basis="measured on this board",
                why="the fastest within the gate, by 7 % over openvino-qdq",
                order=("litert-int8", "openvino-qdq", "litert-mixed", "onnxruntime-int8"),
                rejected=rejected,
            ),
            TargetResult(
                profile="jetson-orin-nano",
                title="NVIDIA Jetson Orin Nano",
                chosen="onnxruntime-int8",
                basis=NOT_THE_BOARD,
                why="the first of the profile's backends whose variant is within the gate",
                order=("onnxruntime-int8", "onnxruntime-fp32"),
                rejected=rejected,
            ),
            TargetResult(
                profile="ncs2",
                title="Intel Neural Compute Stick 2 on any host",
                why="it takes float16 alone, and no float16 form for it could be made",
                rejected={one.plan.id: ("the stick takes float16 alone",) for one in candidates},
            ),
        ),
        sensitivity=tuple(
            LayerSensitivity(
                layer=f"features.{index}.conv/Conv_output_0",
                operator="Conv" if index % 3 else "DepthwiseConv",
                sqnr_db=14.0 + 1.1 * (index * 7 % 40),
                agreement=1 - 0.04 / (1 + index * 7 % 40),
                multiply_adds=0.02,
            )
            for index in range(40)
        ),
        worst=tuple(
            Sample(
                name=f"n0{index}440764.png",
                candidate=which,
                wanted="espresso",
                reference="espresso 0.95",
                found=found,
                difference=3.1 - index / 3,
                picture=png(40 * index, 120, 200 - 30 * index),
            )
            for which in ("litert-int8", "onnxruntime-int8")
            for index, found in enumerate(("cup 0.51", "espresso 0.61", "eggnog 0.37", "espresso 0.70"))
        ),
        warnings=("No calibration picture shows night; ranges may be too narrow for it.",),
        seconds=412.0,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


def bare():
    """The smallest study: nothing was made, nothing measured."""
    return study(
        candidates=(), targets=(), sensitivity=(), worst=(), warnings=(), checks=(), machine={}, versions={}, source={}
    )  # fmt: skip
