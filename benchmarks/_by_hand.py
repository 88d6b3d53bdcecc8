"""Capture and a whole pipeline on the bare libraries, written by hand: yardsticks, without edgekit."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WAITS_S = 0.1


class Reader:
    """OpenCV's bare decoding by so many threads, from the beginning again at the end."""

    def __init__(self, video: Path, threads: int = 1) -> None:
        self._video = str(video)
        self._settings = [cv2.CAP_PROP_N_THREADS, threads]
        self._capture = self._opened()

    def _opened(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(self._video, cv2.CAP_ANY, self._settings)

    def next(self) -> Any:
        """Return the next frame."""
        is_there, pixels = self._capture.read()
        if not is_there:
            self._capture.release()
            self._capture = self._opened()
            return self._capture.read()[1]
        return pixels


class LeastPipeline:
    """What any pipeline has to do, and no more: one thread decodes; this one resizes, infers, writes a line.

    The model gets no pixels and its outputs are not looked at, so it costs less than one that is of use.

    Args:
        video: What is decoded, by one thread.
        side: Width and height of the model's input in pixels.
        infer: One inference on the bare runtime.
        path: The file of JSON lines.
    """

    def __init__(self, video: Path, side: tuple[int, int], infer: Callable[[], object], path: Path) -> None:
        self._video, self._infer, self._path = video, infer, path
        self._side, self._resized = side, np.empty((side[1], side[0], 3), np.uint8)

    def run(self, *, frames: int = 1 << 62, seconds: float = 1e9) -> float:
        """Return the frames a second of a run of so many frames or seconds."""
        pictures: queue.Queue[Any] = queue.Queue(1)
        ending = threading.Event()
        capture = threading.Thread(target=self._read, args=(pictures, ending))
        capture.start()
        done, began_s = 0, time.perf_counter()
        with self._path.open("ab", buffering=0) as file:
            while done < frames and time.perf_counter() - began_s < seconds:
                cv2.resize(pictures.get(), self._side, dst=self._resized)
                self._infer()
                line = {"seq": done, "captured_unix_ms": time.time_ns() // 1_000_000, "items": []}
                file.write(json.dumps(line).encode() + b"\n")
                done += 1
        fps = done / (time.perf_counter() - began_s)
        ending.set()
        capture.join()
        return fps

    def _read(self, pictures: queue.Queue[Any], ending: threading.Event) -> None:
        reader = Reader(self._video)
        while not ending.is_set():
            pixels = reader.next()
            while not ending.is_set():
                try:
                    pictures.put(pixels, timeout=WAITS_S)
                except queue.Full:
                    continue
                break
