"""``edgekit optimize`` beside Microsoft Olive: the same model, the same data, what a user writes.

    python benchmarks/versus_olive.py [--data DIR] [--bundles DIR] [--olive PYTHON] [--json]

``--olive`` names an interpreter that has Olive. With version 0.13.0 that takes more than its name:

    pip install torch olive-ai==0.13.0 requests "pydantic<2.13" psutil onnxruntime

Olive then quantises EfficientNet-Lite0 twice: by a configuration with a calibration set, an evaluator and
its static quantisation, and by its command line's defaults for int8. Without ``--olive`` the yardstick is
onnxruntime.quantization and NNCF by hand.

Olive's files, or those made by hand, and edgekit's choice run on the same evaluation samples through the
same path, and against each other in short rounds in turn, on one thread. The claim: edgekit's choice is
at least 0.97 as fast as the fastest of theirs that keeps the gate, within a point of the most accurate of
theirs or better, and its user writes no more lines than for that fastest file. Lines of Olive's script
are counted without the reading of pictures, which edgekit does itself: here Olive is handed arrays.

``--data`` is a folder of labelled pictures as ``edgekit optimize`` takes it; without it, the zoo's own
recordings, on which the float model's answers are the truth. ``--full`` takes all samples.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit_optimize.data.dataset import canonical
from edgekit_optimize.plan import Plan
from edgekit_optimize.run.request import Request

sys.path.insert(0, str(Path(__file__).parent))
import _subjects
from _report import finish, parser
from _subjects import BY_HAND, TWIN, Arena, classifier, open_arena, optimized, run_rounds

BAR = 0.97
POINT = 0.01
CLAIM = "edgekit's choice is as fast as Olive's result and as accurate, for fewer lines"
COMMAND = "edgekit optimize efficientnet-lite0.onnx --data pictures -o classifier.ekb"

# What a user of Olive writes: a configuration, and a script that it names.
OLIVE_SCRIPT = """\
import numpy as np
import torch
from olive.data.registry import Registry


class Samples(torch.utils.data.Dataset):
    def __init__(self, path):
        with np.load(path) as archive:
            self.images, self.labels = archive["images"], archive["labels"]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return {"INPUT": torch.from_numpy(self.images[place])}, int(self.labels[place])


@Registry.register_dataset()
def samples(path, **_):
    return Samples(path)


@Registry.register_post_process()
def best_class(scores, **_):
    return scores.argmax(1)
"""
OLIVE_CONFIG = """\
{
  "input_model": {"type": "OnnxModel", "model_path": "model.onnx"},
  "systems": {
    "here": {
      "type": "LocalSystem",
      "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]
    }
  },
  "data_configs": [
    {
      "name": "calibration",
      "user_script": "samples.py",
      "load_dataset_config": {"type": "samples", "path": "calibration.npz"},
      "dataloader_config": {"batch_size": 1}
    },
    {
      "name": "evaluation",
      "user_script": "samples.py",
      "load_dataset_config": {"type": "samples", "path": "evaluation.npz"},
      "dataloader_config": {"batch_size": 1},
      "post_process_data_config": {"type": "best_class"}
    }
  ],
  "evaluators": {
    "both": {
      "metrics": [
        {
          "name": "accuracy",
          "type": "accuracy",
          "data_config": "evaluation",
          "sub_types": [
            {
              "name": "accuracy_score",
              "priority": 1,
              "metric_config": {"task": "multiclass", "num_classes": 1000},
              "goal": {"type": "max-degradation", "value": 0.01}
            }
          ]
        },
        {
          "name": "latency",
          "type": "latency",
          "data_config": "evaluation",
          "sub_types": [{"name": "p50", "priority": 2}],
          "user_config": {"inference_settings": {"onnx": {"session_options": {"intra_op_num_threads": 1}}}}
        }
      ]
    }
  },
  "passes": {
    "quantize": {
      "type": "OnnxStaticQuantization",
      "data_config": "calibration",
      "quant_format": "QDQ",
      "per_channel": true,
      "precision": "int8",
      "activation_type": "uint8",
      "calibrate_method": "MinMax"
    }
  },
  "evaluator": "both",
  "host": "here",
  "target": "here",
  "evaluate_input_model": true,
  "output_dir": "static",
  "cache_dir": "cache"
}
"""


def main() -> int:
    """Let both sides make what they make of the model, and hold one against the other."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.cache or Path(scratch)
        request = _request(arguments, folder)
        study = optimized(request)
        arena = open_arena(request)
        arena.take(study)
        if arguments.olive:
            yardstick, told = with_olive(arena, arguments.olive, folder / "olive")
        else:
            yardstick, told = by_hand(arena)
        chosen = study.targets[0].chosen
        found = compare(arena, chosen, yardstick, 80 if arguments.full else 40, sabotage=arguments.sabotage)
    found["lines"] = {"edgekit": 1, **told.pop("lines")}
    found |= {"edgekit_command": COMMAND, "edgekit_seconds": round(study.seconds, 1)} | told
    found["samples"] = msgspec.to_builtins(study.data)
    is_short = found["lines"]["edgekit"] <= found["lines"][found["rival"]]
    holds = found["ratio"] >= BAR and found["is_as_accurate"] and is_short
    return finish(CLAIM, found["ratio"], "times as fast", BAR, holds, found, arguments.json)


def _arguments() -> argparse.Namespace:
    options = parser(
        __doc__, full="all samples, about 6 minutes", sabotage="the chosen file takes twice its time"
    )
    options.add_argument("--data", default="", help="folder of pictures; the zoo's recordings by default")
    options.add_argument("--bundles", type=Path, help="folder of built zoo bundles; built without")
    options.add_argument("--olive", default="", metavar="PYTHON", help="an interpreter that has olive-ai")
    options.add_argument("--samples", type=int, help="evaluation samples (100; 372 with --full)")
    options.add_argument("--cache", type=Path, help="keeps what is made; a temporary folder by default")
    return options.parse_args()


def _request(arguments: argparse.Namespace, folder: Path) -> Request:
    model = classifier(arguments.bundles, folder / "zoo") if arguments.data else "zoo:efficientnet-lite0"
    return Request(
        model=model,
        data=arguments.data,
        out=folder / "out" / "classifier",
        cache=folder,
        samples=arguments.samples or (372 if arguments.full else 100),
        calibration_samples=128 if arguments.full else 48,
        seconds=1.0 if arguments.full else 0.6,
        sensitivity=arguments.full,
    )


def compare(
    arena: Arena, chosen: str, yardstick: Sequence[str], count: int, *, sabotage: bool
) -> dict[str, Any]:
    """Run edgekit's choice against each of the others, and hold their answers against the truth."""
    usable = [name for name in yardstick if not arena.results[name].error]
    rounds = run_rounds(arena, [chosen, *usable], count, twin=chosen)
    if sabotage:  # more than the slowest variant loses on a machine where all are about as fast
        for times in (rounds.alone, rounds.total):
            times[chosen] = [2 * one for one in times[chosen]]
    times = rounds.medians_ms()
    fit = [name for name in usable if arena.results[name].gate == "pass"] or usable
    rival = min(fit, key=lambda name: times[name])
    floor = rounds.speed(TWIN + chosen, chosen)
    scores = {name: arena.results[name].score for name in (chosen, *usable)}
    values = {name: score.value for name, score in scores.items() if score is not None}
    return {
        "ratio": rounds.speed(chosen, rival),
        "ratio_of_model_alone": rounds.speed(chosen, rival, alone=True),
        "noise_floor": max(floor, round(1 / floor, 4)),
        "times_as_fast_as_each": {name: rounds.speed(chosen, name) for name in usable},
        "chosen": chosen,
        "rival": rival,
        "total_ms": times,
        "scores": {name: arena.score(name) for name in (chosen, *yardstick)},
        "is_as_accurate": values[chosen] >= max(values[name] for name in usable) - POINT,
        "rounds": count,
    }


# ---------------------------------------------------------------------------------------------
# Olive


def with_olive(arena: Arena, python: str, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Let Olive quantise the model, by configuration and by its command line's defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    (name,) = (spec.name for spec in arena.root.inputs)
    (folder / "model.onnx").write_bytes(Path(arena.root.onnx).read_bytes())
    (folder / "samples.py").write_text(OLIVE_SCRIPT.replace("INPUT", name), encoding="utf-8")
    (folder / "config.json").write_text(OLIVE_CONFIG, encoding="utf-8")
    _write_samples(arena, folder)
    configured = _olive(python, ["run", "--config", "config.json"], folder)
    command = ["quantize", "-m", "model.onnx", "--precision", "int8", "--implementation", "ort", "-o", "cli"]
    by_default = _olive(python, command, folder)
    names = []
    for name, place, precision in (("olive-static", "static", "int8"), ("olive-cli", "cli", "dynamic-int8")):
        files = sorted((folder / place).rglob("*.onnx"))
        if files:
            plain = {"id": name, "technique": "olive", "backend": "onnxruntime", "precision": precision}
            names.append(arena.put(msgspec.convert(plain, Plan), files[0].parent, files[0].name))
    told = {
        "yardstick": "Olive",
        "lines": {"olive-static": _lines(OLIVE_CONFIG) + _lines(OLIVE_SCRIPT), "olive-cli": 1},
        "olive_version": _version(python),
        "olive_runs": {"configured": configured, "cli": by_default},
        "olive_says": _own_figures(folder / "static"),
    }
    if not names:
        raise SystemExit(f"Olive made no model: {json.dumps(told, indent=1)}")
    return names, told


def _write_samples(arena: Arena, folder: Path) -> None:
    """Write the two sets that edgekit uses, as the float model takes them."""
    assert arena.search.reference is not None
    split = arena.inputs.split
    answers = next(iter(arena.search.reference.outputs.values())).argmax(1)
    for name, data in (("calibration", split.calibration), ("evaluation", split.evaluation)):
        (images,) = canonical(data, arena.root).values()
        labels = data.labels if data.labels is not None else answers[: len(data)]
        labels = labels if len(labels) == len(images) else np.zeros(len(images), np.int64)
        np.savez(folder / f"{name}.npz", images=images, labels=labels)


def _olive(python: str, command: list[str], folder: Path) -> dict[str, Any]:
    """Run Olive's command line in a folder; its time, and the end of what it says where it fails."""
    environment = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "2"}
    began = time.monotonic()
    done = subprocess.run(
        [python, "-m", "olive", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    (folder / f"{command[0]}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    found = {"command": shlex.join(["olive", *command]), "seconds": round(time.monotonic() - began, 1)}
    if done.returncode:
        found["failed"] = (done.stdout + done.stderr).strip().splitlines()[-3:]
    return found


def _own_figures(folder: Path) -> Any:
    """Return what Olive's evaluator says of its result."""
    files = sorted(folder.glob("*metrics*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def _version(python: str) -> str:
    code = "from importlib.metadata import version; print(version('olive-ai'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# ---------------------------------------------------------------------------------------------
# By hand


def by_hand(arena: Arena) -> tuple[list[str], dict[str, Any]]:
    """Quantise with the tools that Olive calls: onnxruntime.quantization, and NNCF."""
    tools = [one for one in BY_HAND if one.plan.id in ("hand-onnxruntime-int8", "hand-openvino-int8")]
    names = arena.take_by_hand(tools)
    shared = _lines(inspect.getsource(_subjects.samples_of))
    lines = {one.plan.id: _lines(inspect.getsource(one.make)) + shared for one in tools}
    return names, {"yardstick": "by hand, as no --olive was given", "lines": lines}


def _lines(source: str) -> int:
    """Count lines that are neither empty, nor a comment, nor a one-line docstring."""
    stripped = [line.strip() for line in source.splitlines()]
    return sum(1 for line in stripped if line and not line.startswith(("#", '"""')))


if __name__ == "__main__":
    sys.exit(main())
