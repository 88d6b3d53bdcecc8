"""Sensors give what the board has, in stated units, and leave out what it has not."""

import time

import pytest
from boards import ORIN_NANO, RPI4, RPI5, plant

from edgekit.core.spec import Telemetry
from edgekit.hardware.profiles import load_profiles
from edgekit.hardware.sensors import Sensors

TELEMETRY = {profile.id: profile.telemetry for profile in load_profiles()}
ALL = Telemetry(
    temperature=("/sys/class/thermal/thermal_zone*/temp",),
    power=("/sys/class/hwmon/hwmon*", "/sys/class/powercap/intel-rapl:[0-9]"),
    throttling=(
        "/sys/devices/platform/soc*/soc*:firmware/get_throttled",
        "/sys/class/hwmon/hwmon*/in0_lcrit_alarm",
        "/sys/class/thermal/cooling_device*/cur_state",
    ),
)


def test_a_pi_tells_heat_throttling_and_clock(tmp_path):
    values = Sensors(plant(tmp_path, RPI5), TELEMETRY["rpi5"]).read()
    assert values == {
        "temperature_c": 51.234,
        "throttled": False,
        "under_voltage": False,
        "throttled_since_boot": True,
        "cpu_freq_ratio": 0.625,
        "memory_free_mb": 6047.0,
    }


# Source: Raspberry Pi documentation, vcgencmd get_throttled.
@pytest.mark.parametrize(
    ("bits", "throttled", "under_voltage", "since_boot"),
    [
        ("0", False, False, False),
        ("1", False, True, False),
        ("2", True, False, False),
        ("4", True, False, False),
        ("8", True, False, False),
        ("50005", True, True, True),
        ("0x80000", False, False, True),
    ],
)
def test_the_bits_of_a_pi_are_told_apart(tmp_path, bits, throttled, under_voltage, since_boot):
    plant(tmp_path, RPI4 | {"/sys/devices/platform/soc/soc:firmware/get_throttled": bits + "\n"})
    values = Sensors(tmp_path, TELEMETRY["rpi4"]).read()
    assert values["throttled"] is throttled
    assert values["under_voltage"] is under_voltage
    assert values["throttled_since_boot"] is since_boot


def test_the_voltage_alarm_of_a_pi_counts_and_other_chips_alarms_do_not(tmp_path):
    plant(
        tmp_path,
        {
            "/sys/class/hwmon/hwmon1/name": "rpi_volt\n",
            "/sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n",
            "/sys/class/hwmon/hwmon2/name": "other\n",
            "/sys/class/hwmon/hwmon2/in0_lcrit_alarm": "0\n",
        },
    )
    assert Sensors(tmp_path, ALL).read() == {"under_voltage": True}


def test_a_jetson_tells_the_power_of_its_input_rail(tmp_path):
    values = Sensors(plant(tmp_path, ORIN_NANO), TELEMETRY["jetson-orin-nano"]).read()
    assert values["power_w"] == 4.6
    assert values["temperature_c"] == 47.5


def test_rails_add_up_where_none_carries_the_whole_board(tmp_path):
    hwmon = "/sys/class/hwmon/hwmon4"
    plant(
        tmp_path,
        {
            f"{hwmon}/name": "ina3221\n",
            f"{hwmon}/in1_label": "VDD_GPU_SOC\n",
            f"{hwmon}/in1_input": "19000\n",
            f"{hwmon}/curr1_input": "100\n",
            f"{hwmon}/in2_label": "NC\n",
            f"{hwmon}/in2_input": "19000\n",
            f"{hwmon}/curr2_input": "900\n",
            f"{hwmon}/in3_label": "VIN_SYS_5V0\n",
            f"{hwmon}/in3_input": "5000\n",
            f"{hwmon}/curr3_input": "400\n",
        },
    )
    assert Sensors(tmp_path, ALL).read()["power_w"] == 3.9


def test_a_monitor_that_computes_power_itself_is_believed(tmp_path):
    hwmon = "/sys/class/hwmon/hwmon0"
    plant(tmp_path, {f"{hwmon}/name": "ina238\n", f"{hwmon}/power1_input": "7250000\n"})
    assert Sensors(tmp_path, ALL).read()["power_w"] == 7.25


def test_a_chip_that_is_no_power_monitor_gives_no_power(tmp_path):
    hwmon = "/sys/class/hwmon/hwmon0"
    plant(tmp_path, {f"{hwmon}/name": "amdgpu\n", f"{hwmon}/power1_input": "7250000\n"})
    assert Sensors(tmp_path, ALL).read() == {}


def test_an_energy_counter_gives_the_average_power_between_two_readings(tmp_path):
    counter = "/sys/class/powercap/intel-rapl:0"
    plant(tmp_path, {f"{counter}/energy_uj": "1000000", f"{counter}/max_energy_range_uj": "9000000"})
    times_s = iter([10.0, 12.0, 13.0])
    sensors = Sensors(tmp_path, ALL, monotonic_s=lambda: next(times_s))
    file = tmp_path / counter.lstrip("/") / "energy_uj"
    assert "power_w" not in sensors.read()
    file.write_text("7000000")
    assert sensors.read()["power_w"] == 3.0
    file.write_text("500000")  # it wrapped around
    assert sensors.read()["power_w"] == 2.5


def test_zones_that_are_off_or_absurd_are_left_out(tmp_path):
    zone = "/sys/class/thermal/thermal_zone"
    plant(
        tmp_path,
        {
            f"{zone}0/temp": "-273000",
            f"{zone}1/temp": "",
            f"{zone}2/temp": "255000",
            f"{zone}3/temp": "41000",
        },
    )
    assert Sensors(tmp_path, ALL).read() == {"temperature_c": 41.0}


def test_a_fan_that_runs_is_no_throttling(tmp_path):
    device = "/sys/class/thermal/cooling_device"
    plant(
        tmp_path,
        {
            f"{device}0/type": "pwm-fan\n",
            f"{device}0/cur_state": "3\n",
            f"{device}1/type": "cpufreq-cpu0\n",
            f"{device}1/cur_state": "0\n",
        },
    )
    assert Sensors(tmp_path, ALL).read() == {"throttled": False}
    (tmp_path / device.lstrip("/")).with_name("cooling_device1").joinpath("cur_state").write_text("2\n")
    assert Sensors(tmp_path, ALL).read() == {"throttled": True}


def test_a_board_without_sensors_gives_nothing(tmp_path):
    assert Sensors(tmp_path, ALL).read() == {}


def test_reading_is_cheap(tmp_path):
    """The supervisor reads every ten seconds; a hundredth of a second would be a thousandth of a core."""
    sensors = Sensors(plant(tmp_path, ORIN_NANO), TELEMETRY["jetson-orin-nano"])
    begun = time.thread_time()
    for _ in range(20):
        sensors.read()
    assert (time.thread_time() - begun) / 20 < 0.010
