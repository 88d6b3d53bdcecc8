"""How good each variant of each zoo model is: the figures of the model cards.

    python benchmarks/zoo_accuracy.py --bundles DIR [--data DIR] [--models NAME,...] [--json]

``--bundles`` holds what ``edgekit zoo build`` made. Models of sensors and the agreement of
variants need nothing more. With ``--data`` the image models and the voice model are scored on
labelled sets that cannot be shipped:

    DIR/classification/imagenet_sample/{labels.csv,*.jpg}   file,class_index_1000,...
    DIR/detection/coco_train128/{classes.txt,images,labels} YOLO text labels
    DIR/audio/speech_commands/{labels.csv,*.wav}            file,class; 10 is silence

Every variant is run by edgekit's own backend, preprocessing and decoder. The claim: no shipped
variant is worse than its float reference by more than the bar.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import sys
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import msgspec
import numpy as np

from edgekit.backends import open_backend
from edgekit.core.spec import Item, Variant
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.pipeline.predictor import Predictor
from edgekit_optimize.zoo.fetch import fetch
from edgekit_optimize.zoo.recipe import models_folder, recipe
from edgekit_optimize.zoo.recordings import motions, recording

sys.path.insert(0, str(Path(__file__).parent))
from _report import finish, parser

BAR_DROP = 0.03
# Open Images label: COCO class, for the classes that mean the same in both.
SHARED = {
    "Person": "person",
    "Bicycle": "bicycle",
    "Car": "car",
    "Dog": "dog",
    "Cat": "cat",
    "Chair": "chair",
    "Laptop": "laptop",
    "Bottle": "bottle",
    "Book": "book",
}


@dataclass(frozen=True)
class Score:
    """One figure of one variant on ``samples`` samples; higher is better."""

    metric: str
    value: float
    samples: int


Scorer = Callable[[Predictor, Path, int], list[Score]]


def main() -> int:
    """Score what is asked for and hold the claim against it."""
    options = parser(
        __doc__, full="every sample of each set", sabotage="all but the first variant see nothing"
    )
    options.add_argument("--bundles", type=Path, required=True, help="folder of built zoo bundles")
    options.add_argument("--data", type=Path, default=Path("data"), help="folder of labelled data")
    options.add_argument("--models", default="", help="names, separated by commas; all by default")
    options.add_argument("--samples", type=int, default=400, help="at most so many of each set")
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    if arguments.full:
        arguments.samples = sys.maxsize
    chosen = [name for name in arguments.models.split(",") if name] or list(SCORERS)
    detail: dict[str, dict[str, list[dict[str, object]]]] = {}
    worst = 0.0
    for name in chosen:
        path = arguments.bundles / f"{name}-{recipe(name).version}"
        scores = score_bundle(open_bundle(path), arguments)
        detail[path.name] = {
            variant: [msgspec.to_builtins(score) for score in found] for variant, found in scores.items()
        }
        worst = max(worst, largest_drop(scores))
    claim = "no zoo variant is worse than its model's float reference by more than the bar"
    return finish(
        claim, round(worst, 4), "score", BAR_DROP, bool(detail) and worst <= BAR_DROP, detail, arguments.json
    )


def score_bundle(bundle: Bundle, arguments: argparse.Namespace) -> dict[str, list[Score]]:
    """Return the scores of every variant, by its id."""
    found = {}
    for variant in bundle.manifest.variants:
        predictor = open_predictor(bundle, variant, arguments.threads)
        if arguments.sabotage and found:
            blind(predictor)
        try:
            found[variant.id] = SCORERS[bundle.manifest.model](predictor, arguments.data, arguments.samples)
        finally:
            predictor.close()
        print(bundle.manifest.model, variant.id, *found[variant.id], file=sys.stderr)
    return found


def blind(predictor: Predictor) -> None:
    """Make a predictor see zeros whatever it is shown."""
    predict, golden = predictor.predict, predictor.run_golden
    predictor.predict = lambda x: predict(np.zeros_like(x))  # type: ignore[method-assign]
    predictor.run_golden = lambda x: golden({k: np.zeros_like(v) for k, v in x.items()})  # type: ignore[method-assign]


def open_predictor(bundle: Bundle, variant: Variant, threads: int) -> Predictor:
    """Load one variant; a detector's threshold is low, since average precision needs all scores."""
    post = bundle.manifest.post
    if post.decoder in ("ssd", "classify"):
        post = msgspec.structs.replace(
            post, score_threshold=0.0 if post.decoder == "classify" else 0.02, top_k=100
        )
    backend = open_backend(bundle.path(variant), variant, {**variant.options, "threads": threads})
    return Predictor(bundle.manifest, variant, backend, bundle.labels(), post=post)


def largest_drop(scores: dict[str, list[Score]]) -> float:
    """Return how far the worst variant is below the first, the reference, in any metric."""
    reference, *others = scores.values()
    drops = [
        ours.value - theirs.value for other in others for ours, theirs in zip(reference, other, strict=True)
    ]
    return max([0.0, *drops])


# ---------------------------------------------------------------------------------------------
# Scorers


def score_classifier(predictor: Predictor, data: Path, limit: int) -> list[Score]:
    """Return top-1 and top-5 accuracy."""
    folder = data / "classification" / "imagenet_sample"
    if not folder.is_dir():
        return []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:limit]
    ranks = []
    for row in rows:
        order = [item.index for item in predictor.predict(cv2.imread(str(folder / row["file"]))).items]
        wanted = int(row["class_index_1000"])
        ranks.append(order.index(wanted) if wanted in order else len(order))
    found = np.array(ranks)
    return [
        Score("top1", round(float((found < 1).mean()), 4), len(rows)),
        Score("top5", round(float((found < 5).mean()), 4), len(rows)),
    ]


def score_detector(predictor: Predictor, data: Path, limit: int) -> list[Score]:
    """Return average precision of people, and the mean over the classes shared with COCO."""
    folder = data / "detection" / "coco_train128"
    if not folder.is_dir():
        return []
    classes = (folder / "classes.txt").read_text(encoding="utf-8").split("\n")
    found: dict[str, list[tuple[int, Item]]] = {name: [] for name in SHARED}
    truth: dict[str, dict[int, np.ndarray]] = {name: {} for name in SHARED}
    pictures = sorted((folder / "images").glob("*.jpg"))[:limit]
    for number, path in enumerate(pictures):
        pixels = cv2.imread(str(path))
        boxes = read_yolo(folder / "labels" / f"{path.stem}.txt", pixels.shape[1], pixels.shape[0])
        for name, theirs in SHARED.items():
            own = [box for kind, box in boxes if classes[kind] == theirs]
            truth[name][number] = np.array(own, np.float32).reshape(-1, 4)
        for item in predictor.predict(pixels).items:
            if item.label in found:
                found[item.label].append((number, item))
    scores = {name: average_precision(found[name], truth[name]) for name in SHARED}
    known = [name for name in SHARED if sum(map(len, truth[name].values()))]
    means = np.mean([scores[name] for name in known], axis=0)
    people = sum(len(boxes) for boxes in truth["Person"].values())
    objects = sum(len(boxes) for name in known for boxes in truth[name].values())
    return [
        Score("person_map", round(scores["Person"][0], 4), people),
        Score("person_ap50", round(scores["Person"][1], 4), people),
        Score(f"map_{len(known)}_classes", round(float(means[0]), 4), objects),
        Score(f"ap50_{len(known)}_classes", round(float(means[1]), 4), objects),
    ]


def read_yolo(path: Path, width: int, height: int) -> list[tuple[int, tuple[float, ...]]]:
    """Return (class, (left, top, right, bottom) in pixels) of each line."""
    if not path.is_file():
        return []
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    found = []
    for kind, *numbers in rows:
        x, y, w, h = map(float, numbers)
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        found.append((int(kind), box))
    return found


def average_precision(found: list[tuple[int, Item]], truth: dict[int, np.ndarray]) -> tuple[float, float]:
    """Return (mean over IoU 0.50..0.95, that at 0.50) of the average precision.

    Source: COCO's evaluation: 101 recall points, each truth matched once, best score first; crowds
    are not told apart here.
    """
    total = sum(len(boxes) for boxes in truth.values())
    if not total:
        return 0.0, 0.0
    ranked = sorted(found, key=lambda pair: -pair[1].score)
    values = [_precision_at(ranked, truth, total, iou) for iou in np.arange(0.5, 1.0, 0.05)]
    return float(np.mean(values)), values[0]


def _precision_at(
    ranked: list[tuple[int, Item]], truth: dict[int, np.ndarray], total: int, iou: float
) -> float:
    taken = {number: np.zeros(len(boxes), bool) for number, boxes in truth.items()}
    hits = np.zeros(len(ranked))
    for index, (number, item) in enumerate(ranked):
        overlaps = np.where(taken[number], 0.0, _overlaps(np.array(item.box), truth[number]))
        if len(overlaps) and overlaps.max() >= iou:
            taken[number][overlaps.argmax()] = True
            hits[index] = 1
    if not len(ranked):
        return 0.0
    recall = hits.cumsum() / total
    precision = hits.cumsum() / np.arange(1, len(ranked) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([envelope[p] if p < len(envelope) else 0.0 for p in places]))


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return shared / np.maximum(areas - shared, 1e-9)


def score_faces(predictor: Predictor, _data: Path, _limit: int) -> list[Score]:
    """Return the share of frames with exactly one face where there is one, and with any in a street."""
    faces = [len(predictor.predict(pixels).items) for pixels in frames("carphone")]
    street = [len(predictor.predict(pixels).items) for pixels in frames("bikes")[::5]]
    return [
        Score("one_face", round(float(np.mean([n == 1 for n in faces])), 4), len(faces)),
        Score("street_with_face", round(float(np.mean([n > 0 for n in street])), 4), len(street)),
    ]


def score_motion(predictor: Predictor, _data: Path, _limit: int) -> list[Score]:
    """Return the accuracy for people the model has not learned from: of windows, and of recordings."""
    build = hooks("imu-exercise")
    hits: list[float] = []
    votes = []
    for motion in motions(recording("watch")):
        if motion.subject not in build.UNSEEN_SUBJECTS:
            continue
        wanted = list(build.EXERCISES).index(motion.exercise)
        found = np.zeros(len(build.EXERCISES))
        own = []
        for start in range(0, len(motion.samples) - build.WINDOW + 1, predictor.manifest.pre.hop):
            scores = predictor.run_golden(
                {"window": motion.samples[start : start + build.WINDOW][np.newaxis]}
            )
            own.append(scores["scores"][0].argmax() == wanted)
            found[scores["scores"][0].argmax()] += 1
        hits += own
        votes.append(found.argmax() == wanted)
    return [
        Score("window_accuracy", round(float(np.mean(hits)), 4), len(hits)),
        Score("recording_accuracy", round(float(np.mean(votes)), 4), len(votes)),
    ]


def score_anomaly(predictor: Predictor, _data: Path, _limit: int) -> list[Score]:
    """Return whether the anomaly is found within 100 samples, and the share of quiet windows elsewhere."""
    build = hooks("ucr-anomaly")
    values, is_anomaly = build.series(fetch(recipe("ucr-anomaly").package["test"]))
    first, last = np.flatnonzero(is_anomaly)[[0, -1]]
    hop, width = predictor.manifest.pre.hop, build.WINDOW
    found = []
    for start in range(0, len(values) - width + 1, hop):
        best = predictor.predict(values[start : start + width, np.newaxis]).best
        found.append(
            (start + width, best is not None and best.label == "anomaly", best.value if best else 0.0)
        )
    near = [row for row in found if first <= row[0] <= last + 100 + width]
    far = [row for row in found if row not in near]
    return [
        Score("hit", float(any(row[1] for row in near)), 1),
        Score("quiet_elsewhere", round(float(np.mean([not row[1] for row in far])), 4), len(far)),
        Score(
            "peak_to_median", round(max(r[2] for r in near) / float(np.median([r[2] for r in found])), 1), 1
        ),
    ]


def score_voice(predictor: Predictor, data: Path, _limit: int) -> list[Score]:
    """Return the share of spoken words heard as speech, and of silent clips as silence."""
    folder = data / "audio" / "speech_commands"
    if not folder.is_dir():
        return []
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    speech, silence = [], []
    for row in rows:
        with wave.open(str(folder / row["file"])) as clip:
            samples = np.frombuffer(clip.readframes(clip.getnframes()), "<i2").astype(np.float32) / 32768
        predictor.reset()
        parts = [samples[start : start + 512, np.newaxis] for start in range(0, len(samples) - 511, 512)]
        heard = [predictor.predict(part).items[0].label for part in parts]  # all: the state goes on
        is_speech = "speech" in heard
        (silence if row["class"] == "10" else speech).append(is_speech)
    return [
        Score("speech_heard", round(float(np.mean(speech)), 4), len(speech)),
        Score("silence_kept", round(1 - float(np.mean(silence)), 4), len(silence)),
    ]


def frames(name: str) -> list[np.ndarray]:
    """Return every frame of a video recording, BGR."""
    capture, found = cv2.VideoCapture(str(recording(name))), []
    while True:
        is_read, pixels = capture.read()
        if not is_read:
            capture.release()
            return found
        found.append(pixels)


def hooks(name: str) -> ModuleType:
    """Return a model's ``build.py``."""
    spec = importlib.util.spec_from_file_location(name, models_folder() / name / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCORERS: dict[str, Scorer] = {
    "efficientnet-lite0": score_classifier,
    "ssd-oidv4": score_detector,
    "blazeface": score_faces,
    "imu-exercise": score_motion,
    "ucr-anomaly": score_anomaly,
    "silero-vad": score_voice,
}


if __name__ == "__main__":
    sys.exit(main())
