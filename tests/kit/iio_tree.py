"""An IIO device as files, as the kernel's drivers write them; its buffer's node is a FIFO."""

from __future__ import annotations

import os
from pathlib import Path


def plant_accelerometer(root: Path, *, number: int = 0, name: str = "lsm6dso_accel") -> Path:
    """Write an accelerometer of three axes (12 bits in 16, shifted by 4); return its folder."""
    folder = root / f"sys/bus/iio/devices/iio:device{number}"
    for part in ("scan_elements", "buffer", "trigger"):
        (folder / part).mkdir(parents=True)
    files = {"name": name, "in_accel_scale": "0.01", "sampling_frequency": "12.5", "in_temp_input": "21500"}
    files |= {f"in_accel_{axis}_raw": str(raw) for axis, raw in (("x", 100), ("y", -200), ("z", 981))}
    files["in_accel_z_offset"] = "-1"
    files |= {"buffer/enable": "0", "buffer/length": "2", "trigger/current_trigger": ""}
    for index, axis in enumerate(("accel_x", "accel_y", "accel_z", "timestamp")):
        kind = "le:s64/64>>0" if axis == "timestamp" else "le:s12/16>>4"
        files |= {
            f"scan_elements/in_{axis}_en": "1" if axis == "timestamp" else "0",
            f"scan_elements/in_{axis}_index": str(index),
            f"scan_elements/in_{axis}_type": kind,
        }
    for path, text in files.items():
        (folder / path).write_text(f"{text}\n")
    (root / "dev").mkdir(exist_ok=True)
    os.mkfifo(root / "dev" / folder.name)
    return folder
