"""What the benchmarks of ``edgekit optimize`` share: models, data, and what a person makes by hand.

``Arena`` holds one model and its data as ``edgekit optimize`` reads them, and runs anybody's files on
them: the same samples, the same path to the runtime, the same gate, timed in the same rounds.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import shutil
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.base.paths import cache_dir
from edgekit.bench.paired_timing import ROUND_S
from edgekit.bench.variant_process import VariantProcess
from edgekit.core.spec import Profile
from edgekit.model.bundle import open_bundle
from edgekit.model.doctor import facts_with_proofs
from edgekit_optimize.cache import Cache, digest_of_files
from edgekit_optimize.graph.tflite_schema import with_signature
from edgekit_optimize.metrics.table import choose_metric
from edgekit_optimize.plan import Made, Plan, Root
from edgekit_optimize.run.candidate_runner import CandidateRunner, Entry
from edgekit_optimize.run.inputs import Inputs, read_inputs
from edgekit_optimize.run.progress import Progress
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.run import optimize
from edgekit_optimize.run.search import Evaluation, Search
from edgekit_optimize.study import CandidateResult, Study
from edgekit_optimize.zoo.build import build, seal

TWIN = "again "
LABELLED_DROP, UNLABELLED_DROP = 0.01, 0.03
CLASSIFIER = "efficientnet-lite0"


def classifier(bundles: Path | None, folder: Path) -> str:
    """Return the zoo's bundle of EfficientNet-Lite0, built in a folder where there is none."""
    found = sorted(bundles.glob(f"{CLASSIFIER}*/bundle.json")) if bundles else []
    return str(found[-1].parent if found else build(CLASSIFIER, folder, cache=cache_dir()))


# ---------------------------------------------------------------------------------------------
# By hand: each runtime's own tool, as its documentation shows it


def samples_of(root: Root) -> list[dict[str, Any]]:
    """Return the calibration samples that edgekit uses, one dictionary for each."""
    with np.load(root.calibration, allow_pickle=False) as archive:
        arrays = {spec.name: archive[spec.name].reshape(-1, *spec.shape) for spec in root.inputs}
    count = len(next(iter(arrays.values())))
    return [{name: values[n] for name, values in arrays.items()} for n in range(count)]


def onnxruntime_static(root: Root, folder: Path) -> None:
    """Quantise with onnxruntime.quantization: QDQ, per channel, u8s8, the extremes as ranges."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(samples_of(root))

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rest, None)

    quant_pre_process(root.onnx, str(folder / "clean.onnx"))
    quantize_static(
        str(folder / "clean.onnx"),
        str(folder / "model.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def openvino_static(root: Root, folder: Path) -> None:
    """Quantise with nncf.quantize, as OpenVINO's documentation does."""
    os.environ |= {"OPENVINO_TELEMETRY": "0", "NNCF_CI": "1"}
    import nncf
    import openvino

    samples = samples_of(root)
    model = openvino.convert_model(root.onnx)
    made = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
    openvino.save_model(made, str(folder / "model.xml"), compress_to_fp16=False)


def litert_static(root: Root, folder: Path) -> None:
    """Quantise the float TensorFlow Lite file with litert_quantizer: static_wi8_ai8."""
    from litert_quantizer import qtyping, quantizer, recipe_manager

    data = with_signature(Path(root.tflite).read_bytes())
    manager = recipe_manager.RecipeManager()
    manager.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    feeds = samples_of(root)
    if root.layout == "NCHW":
        feeds = [{n: np.ascontiguousarray(x.transpose(0, 2, 3, 1)) for n, x in f.items()} for f in feeds]
    tool = quantizer.Quantizer(bytearray(data), manager.get_quantization_recipe())
    ranges = tool.calibrate({"serving_default": feeds})
    made = tool.quantize(ranges, enable_progress_report=False).quantized_model
    (folder / "model.tflite").write_bytes(bytes(made))


def openvino_float(root: Root, folder: Path) -> None:
    """Convert to OpenVINO's own format."""
    import openvino

    openvino.save_model(openvino.convert_model(root.onnx), str(folder / "model.xml"), compress_to_fp16=False)


def onnxruntime_float(root: Root, folder: Path) -> None:
    """Take the model as it is."""
    shutil.copyfile(root.onnx, folder / "model.onnx")


def litert_float(root: Root, folder: Path) -> None:
    """Take the TensorFlow Lite file as it is."""
    shutil.copyfile(root.tflite, folder / "model.tflite")


@dataclass(frozen=True)
class Handmade:
    """One file made by hand, and how it is run."""

    plan: Plan
    make: Callable[[Root, Path], None]
    file: str


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' progress bars, advice and warnings to themselves."""
    logging.disable(logging.WARNING)
    silence = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _plan(name: str, backend: str, precision: str, same_as: str = "") -> Plan:
    plain = {"id": name, "technique": "by hand", "backend": backend, "precision": precision}
    return msgspec.convert(plain | {"same_as": same_as}, Plan)


BY_HAND = (
    Handmade(_plan("hand-onnxruntime-fp32", "onnxruntime", "fp32"), onnxruntime_float, "model.onnx"),
    Handmade(_plan("hand-onnxruntime-int8", "onnxruntime", "int8"), onnxruntime_static, "model.onnx"),
    Handmade(_plan("hand-openvino-fp32", "openvino", "fp32"), openvino_float, "model.xml"),
    Handmade(_plan("hand-openvino-int8", "openvino", "int8"), openvino_static, "model.xml"),
    # not OpenVINO's tool, but a person may find out that it is faster on depthwise networks
    Handmade(
        _plan("hand-openvino-int8-qdq", "openvino", "int8", "hand-onnxruntime-int8"),
        onnxruntime_static,
        "model.onnx",
    ),
    Handmade(_plan("hand-litert-fp32", "litert", "fp32"), litert_float, "model.tflite"),
    Handmade(_plan("hand-litert-int8", "litert", "int8"), litert_static, "model.tflite"),
)


# ---------------------------------------------------------------------------------------------
# The arena


@dataclass
class Arena:
    """One model and its data, as ``edgekit optimize`` reads them, and everything that is run on them."""

    search: Search
    inputs: Inputs
    profile: Profile
    folder: Path

    @property
    def root(self) -> Root:
        """The float model in its forms."""
        return self.inputs.target_model.root

    @property
    def results(self) -> dict[str, CandidateResult]:
        """What is known of every file, by id."""
        return self.search.results

    def take(self, study: Study) -> None:
        """Put edgekit's candidates in, as a run of ``edgekit optimize`` left them in its cache."""
        plans = [found.plan for found in study.candidates if not found.error]
        first = next(plan for plan in plans if plan.id == study.reference)
        self.judge(self.search.make([first]))
        self.judge(self.search.make([plan for plan in plans if plan != first]))

    def make(self, plans: Sequence[Plan]) -> list[str]:
        """Make more candidates with edgekit's makers; those that could be made."""
        entries = self.search.make(plans)
        self.judge(entries)
        return [entry.id for entry in entries]

    def take_by_hand(self, handmade: Sequence[Handmade] = BY_HAND) -> list[str]:
        """Make files with the runtimes' own tools, from the same model and calibration samples."""
        self.judge([self._place(one.plan, self._by_hand(one), one.file) for one in handmade])
        return [one.plan.id for one in handmade]

    def _by_hand(self, one: Handmade) -> Path:
        folder = self.folder / (one.plan.same_as or one.plan.id)
        if not folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch, _quiet():
                (Path(scratch) / "made").mkdir()
                one.make(self.root, Path(scratch) / "made")
                (Path(scratch) / "made").rename(folder)
        return folder

    def put(self, plan: Plan, folder: Path, file: str) -> str:
        """Put anybody's file in, whose tensors have the model's names."""
        self.judge([self._place(plan, folder, file)])
        return plan.id

    def _place(self, plan: Plan, folder: Path, file: str) -> Entry:
        parts = (file, file.replace(".xml", ".bin")) if file.endswith(".xml") else (file,)
        layout = "NHWC" if file.endswith(".tflite") else self.root.layout
        self.results[plan.id] = CandidateResult(plan=plan)
        return self.search.runner.add(plan, Made(files=parts, layout=layout), folder)

    def judge(self, entries: Sequence[Entry]) -> None:
        """Run files on the evaluation set, and apply the gate."""
        self.search.evaluate(entries)
        for entry in entries:
            if self.results[entry.id].error:
                print(f"{entry.id}: {self.results[entry.id].error}", file=sys.stderr)

    @contextlib.contextmanager
    def running(self, names: Sequence[str], threads: int = 1) -> Iterator[dict[str, VariantProcess]]:
        """Yield a process for each file, as a device would run it."""
        entries = [self.search.runner.entries[name] for name in dict.fromkeys(names)]
        if not entries:
            yield {}
            return
        variants = tuple(entry.variant for entry in entries)
        manifest = msgspec.structs.replace(self.search.runner.manifest, variants=variants)
        seal(manifest, self.search.runner.folder)
        bundle = open_bundle(self.search.runner.folder)
        with contextlib.ExitStack() as stack:
            found = {}
            for variant in variants:
                process = VariantProcess(bundle, variant, self.profile, threads)
                stack.callback(process.close)
                found[variant.id] = process
            yield found

    def score(self, name: str) -> dict[str, Any]:
        """Return one file's figures for the report."""
        found = self.results[name]
        score = found.score
        if score is None:
            return {"error": found.error}
        plain = {"metric": score.metric, "value": round(score.value, 4), "lost": round(score.drop, 4)}
        return plain | {"samples": score.samples, "gate": found.gate}


def open_arena(request: Request) -> Arena:
    """Read a model and its data as ``edgekit optimize`` does; ``request.cache`` is to be a folder."""
    assert request.cache is not None
    facts, detected = facts_with_proofs(Path("/"))
    cache, progress = Cache(request.cache / "optimize"), Progress()
    inputs = read_inputs(request, cache, progress)
    manifest, data = inputs.target_model.manifest, inputs.split.evaluation
    shutil.rmtree(request.cache / "bench", ignore_errors=True)  # of the run before, where it was kept
    runner = CandidateRunner(
        request.cache / "bench",
        manifest,
        inputs.target_model.labels,
        facts,
        detected.profile,
        request.threads,
        cache,
    )
    runner.name(inputs.target_model.root.names)
    metric = choose_metric(request.metric, manifest.task, data)
    sizes = data.sizes if metric.needs_items else None
    evaluation = Evaluation(data, inputs.samples, digest_of_files(inputs.samples), metric, sizes)
    drop = LABELLED_DROP if metric.labelled else UNLABELLED_DROP
    search = Search(
        runner, cache, progress, evaluation, {"original": inputs.target_model.root}, drop, request.seed
    )
    return Arena(search, inputs, detected.profile, request.cache / "by hand")


def optimized(request: Request) -> Study:
    """Return what ``edgekit optimize`` finds, told nothing but the model and the data."""
    return optimize(request).study


# ---------------------------------------------------------------------------------------------
# Rounds


@dataclass
class Rounds:
    """Milliseconds of every round by file: the model alone, and with the filling of its input."""

    alone: dict[str, list[float]]
    total: dict[str, list[float]]

    def medians_ms(self) -> dict[str, float]:
        """Return each file's median total time."""
        return {name: round(statistics.median(row), 3) for name, row in self.total.items()}

    def speed(self, mine: str, other: str, *, alone: bool = False) -> float:
        """Return how many times as fast ``mine`` is as ``other``: the median over rounds, each a pair."""
        rows = self.alone if alone else self.total
        pairs = zip(rows[other], rows[mine], strict=True)
        return round(statistics.median(theirs / ours for theirs, ours in pairs), 4)


def run_rounds(arena: Arena, names: Sequence[str], count: int, sittings: int = 6, twin: str = "") -> Rounds:
    """Run files for a moment each, in another order each round.

    Args:
        arena: Where the files are.
        names: The files.
        count: Rounds in all.
        sittings: In each, every file has a fresh process: how memory happens to be laid out makes a
            process some percent faster or slower than another of the same file.
        twin: A file that runs in two processes, so that the noise can be told: the second is named with
            ``TWIN`` before it.
    """
    alone: dict[str, list[float]] = {}
    total: dict[str, list[float]] = {}
    for sitting in range(sittings):
        with arena.running(names) as processes, arena.running([twin] if twin else []) as twins:
            field = processes | {TWIN + name: process for name, process in twins.items()}
            for turn in range(-(-count // sittings)):
                for name in random.Random(100 * sitting + turn).sample(sorted(field), len(field)):
                    one = statistics.median(field[name].measure(ROUND_S)) / 1e3
                    alone.setdefault(name, []).append(one)
                    total.setdefault(name, []).append(one + field[name].pre_ms())
    return Rounds(alone, total)
