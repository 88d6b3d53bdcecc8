"""Reads a board's temperature, power and throttling: a few small files, cheap every ten seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.core.spec import Telemetry
from edgekit.hardware.cpu import memory_mb
from edgekit.hardware.tree import Tree

# A zone that is powered down or broken reports values beyond these.
_COLDEST_MC, _HOTTEST_MC = -40_000, 150_000
# The rail of a whole Jetson; a board without one has the sum of its rails.
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")
_UNUSED_RAILS = ("NC", "sum of shunt voltages")
# Cooling devices that slow something down; others are fans.
_SLOWING = re.compile(r"cpufreq|devfreq|throttle|processor|powerclamp", re.IGNORECASE)
# Source: Raspberry Pi documentation, vcgencmd get_throttled.
_PI_UNDER_VOLTAGE, _PI_SLOWED, _PI_SINCE_BOOT = 0x1, 0xE, 0xF0000


class Sensors:
    """The sensors that a profile names.

    Args:
        root: ``/``, or a folder with another machine's files.
        telemetry: Which files to read; a missing one gives no value.
        monotonic_s: The clock for the average power of a board that counts energy.
    """

    def __init__(
        self,
        root: Path | Tree,
        telemetry: Telemetry,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = root if isinstance(root, Tree) else Tree(root)
        self._telemetry = telemetry
        self._monotonic_s = monotonic_s
        self._energy: dict[str, tuple[float, int]] = {}

    def read(self) -> dict[str, float | bool]:
        """Return the sensors' values now; a key without a sensor is absent.

        ``temperature_c`` (the hottest), ``power_w``, ``throttled``, ``under_voltage``,
        ``throttled_since_boot``, ``cpu_freq_ratio`` (of the highest clock, 0 to 1),
        ``memory_free_mb``.
        """
        values: dict[str, float | bool] = {}
        if (temperature_c := self._temperature_c()) is not None:
            values["temperature_c"] = temperature_c
        if (power_w := self._power_w()) is not None:
            values["power_w"] = power_w
        values |= self._throttling()
        if (ratio := self._cpu_freq_ratio()) is not None:
            values["cpu_freq_ratio"] = ratio
        _, free_mb = memory_mb(self._tree)
        if free_mb:
            values["memory_free_mb"] = float(free_mb)
        return values

    def _temperature_c(self) -> float | None:
        readings = [
            reading
            for pattern in self._telemetry.temperature
            for path in self._tree.names(pattern)
            if (reading := self._tree.number(path)) is not None and _COLDEST_MC < reading < _HOTTEST_MC
        ]
        return max(readings) / 1000 if readings else None

    def _power_w(self) -> float | None:
        rails: list[tuple[str, float]] = []
        for pattern in self._telemetry.power:
            for folder in self._tree.names(pattern):
                rails += self._counted(folder) if "powercap" in folder else self._rails(folder)
        rails = [(label, watts) for label, watts in rails if label not in _UNUSED_RAILS]
        total = next((watts for label, watts in rails if label in _TOTAL_RAILS), None)
        if total is not None:
            return round(total, 3)
        return round(sum(watts for _, watts in rails), 3) if rails else None

    def _rails(self, folder: str) -> list[tuple[str, float]]:
        """Return the rails of one power monitor, in watts.

        Source: Linux, Documentation/hwmon/ina3221.rst and ina238.rst: mV, mA, microwatts.
        """
        if not self._tree.text(f"{folder}/name").startswith("ina"):
            return []
        rails = []
        for channel in (1, 2, 3):
            label = self._tree.text(f"{folder}/in{channel}_label")
            microwatts = self._tree.number(f"{folder}/power{channel}_input")
            if microwatts is not None:
                rails.append((label, microwatts / 1e6))
                continue
            millivolts = self._tree.number(f"{folder}/in{channel}_input")
            milliamps = self._tree.number(f"{folder}/curr{channel}_input")
            if millivolts is not None and milliamps is not None:
                rails.append((label, millivolts * milliamps / 1e6))
        return rails

    def _counted(self, folder: str) -> list[tuple[str, float]]:
        """Return the average watts of an energy counter since the last reading; none at the first.

        Source: Linux, Documentation/power/powercap/powercap.rst: microjoules that wrap around.
        """
        microjoules = self._tree.number(f"{folder}/energy_uj")
        if microjoules is None:
            return []
        now_s = self._monotonic_s()
        before = self._energy.get(folder)
        self._energy[folder] = (now_s, microjoules)
        if before is None or now_s <= before[0]:
            return []
        spent = microjoules - before[1]
        if spent < 0:
            spent += self._tree.number(f"{folder}/max_energy_range_uj") or 0
        return [(folder, spent / 1e6 / (now_s - before[0]))] if spent >= 0 else []

    def _throttling(self) -> dict[str, float | bool]:
        values: dict[str, float | bool] = {}
        for pattern in self._telemetry.throttling:
            for path in self._tree.names(pattern):
                for key, is_so in self._throttling_of(path).items():
                    values[key] = bool(values.get(key)) or is_so
        return values

    def _throttling_of(self, path: str) -> dict[str, bool]:
        folder, _, name = path.rpartition("/")
        if name == "get_throttled":
            bits = self._tree.hexadecimal(path)
            if bits is None:
                return {}
            return {
                "throttled": bool(bits & _PI_SLOWED),
                "under_voltage": bool(bits & _PI_UNDER_VOLTAGE),
                "throttled_since_boot": bool(bits & _PI_SINCE_BOOT),
            }
        value = self._tree.number(path)
        if value is None:
            return {}
        if name == "in0_lcrit_alarm":
            is_pi = self._tree.text(f"{folder}/name") == "rpi_volt"
            return {"under_voltage": value > 0} if is_pi else {}
        return {"throttled": value > 0} if _SLOWING.search(self._tree.text(f"{folder}/type")) else {}

    def _cpu_freq_ratio(self) -> float | None:
        ratios = []
        for folder in self._tree.names("/sys/devices/system/cpu/cpufreq/policy*"):
            now = self._tree.number(f"{folder}/scaling_cur_freq")
            most = self._tree.number(f"{folder}/cpuinfo_max_freq")
            if now is not None and most is not None and now >= 0 and most > 0:
                ratios.append(min(1.0, now / most))
        return round(max(ratios), 3) if ratios else None
