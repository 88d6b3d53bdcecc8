"""Values for machines: what a point shows, and that a Modbus device and an OPC UA server get it."""

import threading

import pytest
from brokers import free_port
from modbus_device import WRITE_COIL, WRITE_REGISTERS, ModbusDevice
from pipeline_fakes import prediction
from sink_results import BOX, event, result

from edgekit.core.errors import ConfigError, LinkError
from edgekit.pipeline.config import config_problems
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.modbus import ModbusPoint, ModbusSinkOptions, words_of
from edgekit.pipeline.sinks.points import Point, PointWriter, Signals
from edgekit.sync.publishers import Publishers

EGRESS = ("labels", "counts", "tracks", "values")


class Books:
    def __init__(self):
        self.rows = []

    def add(self, pipeline, data_class, destination, decision, size, count=1):
        self.rows.append((data_class, destination, decision))


class Stage:
    """A sink of points with the real gate and a ledger that remembers."""

    def __init__(self, kind, options, folder, egress=EGRESS):
        self.books = Books()
        self.publishers = Publishers("door", egress, self.books)
        context = SinkContext("door", folder, folder, egress=egress, direct=self.publishers.direct)
        self.sink = make_sink(kind, options, context)

    def close(self):
        self.sink.close()
        self.publishers.close()


def shown(point, *results):
    signals = Signals()
    for one in results:
        signals.take(one)
    return signals.document(point)


APPEARED = result([event(id="a", kind="appeared", label="car")])
MISSED = result(found=prediction("detect"))
GONE = result([event(id="a", kind="vanished", label="car")], prediction("detect"))


def test_presence_goes_by_events_and_not_by_each_frame():
    car, anything = Point(label="car"), Point()
    assert shown(car, result()) == {"label": "car", "count": 0}  # in the picture, but not yet present
    assert shown(car, APPEARED, MISSED) == {"label": "car", "count": 1}
    assert shown(car, APPEARED, MISSED, GONE) == {"label": "car", "count": 0}
    assert shown(anything, APPEARED) == {"total": 1}
    assert shown(Point(label="dog"), APPEARED) == {"label": "dog", "count": 0}


def test_counts_are_of_what_is_there_and_of_what_a_line_or_zone_has_counted():
    other = result([event(id="b", kind="appeared", label="car")], prediction("detect", "car", "car", box=BOX))
    assert shown(Point(label="car", show="count"), APPEARED, other) == {"label": "car", "count": 2}
    crossed = [
        result([event(id=str(n), kind="crossed", label=label, line="door", direction=direction, count=n)])
        for n, label, direction in ((1, "car", "in"), (2, "car", "in"), (1, "dog", "in"), (1, "car", "out"))
    ]
    line = {"show": "line", "place": "door"}
    assert shown(Point(**line), *crossed) == {"line": "door", "count": 4}
    assert shown(Point(**line, direction="in"), *crossed)["count"] == 3
    assert shown(Point(**line, direction="in", label="car"), *crossed)["count"] == 2
    zone = Point(show="zone", place="hall")
    assert shown(zone, *crossed)["count"] == 0
    visits = [result([event(kind="entered", zone="hall", count=n)]) for n in (1, 2, 1)]
    assert shown(zone, *visits) == {"zone": "hall", "count": 1}


def test_a_watchdog_changes_with_each_frame_and_a_value_is_the_best_items():
    assert [shown(Point(show="frames"), *[result()] * n)["seq"] for n in (1, 2, 65_536)] == [1, 2, 0]
    assert shown(Point(show="value"), result(found=prediction("detect", "car", box=BOX))) == {"value": 0.0}


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ('{ coil = 0, show = "line" }', "place: want the name"),
        ('{ coil = 0, place = "door" }', "place: want the name"),
        ('{ coil = 0, direction = "in" }', "direction: want it with"),
        ('{ coil = 0, show = "frames", label = "car" }', "label: want it with"),
        ("{ coil = 0, register = 1 }", "coil: want the address of either"),
        ("{ coil = 70000 }", "coil"),
        ("{ offset = 1 }", "offset"),
    ],
)
def test_a_point_that_cannot_be_is_a_mistake_of_the_file(point, problem, tmp_path):
    text = f"""
[pipeline]
name = "door"
model = "m"
[source]
kind = "synthetic"
[privacy]
egress = ["labels"]
[[sink]]
kind = "modbus"
uri = "http://x"
points = [{point}]
"""
    problems = "\n".join(config_problems(text, "p.toml", tmp_path))
    assert f"sink[0].points[0].{problem}" in problems.replace("points[0]: ", "points[0].")
    assert config_problems(text.replace(point, ""), "p.toml", tmp_path)


def test_numbers_are_cut_to_what_a_register_holds():
    assert words_of(-3, "uint16") == [0]
    assert words_of(70_000, "int16") == [32_767]
    assert words_of(70_000, "uint32") == [1, 4464]
    assert words_of(float("nan"), "uint16") == [0]


def modbus(url, **more):
    points = (
        ModbusPoint(coil=3, label="car"),
        ModbusPoint(register=2, label="car", show="count"),
        ModbusPoint(register=4, show="zone", place="door", type="uint32"),
    )
    return ModbusSinkOptions(uri=url, points=points, **more)


def test_a_modbus_device_gets_what_changed_and_zeros_at_the_end(tmp_path):
    device = ModbusDevice([0] * 8)
    stage = Stage("modbus", modbus(device.url), tmp_path)
    try:
        stage.sink.write(APPEARED)
        first = [(WRITE_COIL, 3, [True]), (WRITE_REGISTERS, 2, [1]), (WRITE_REGISTERS, 4, [0, 0])]
        device.wait(first)
        stage.sink.write(result())  # nothing that the points show is another
        stage.sink.write(result([event(id="c", kind="entered", zone="door", count=70_000)]))
        second = [*first, (WRITE_REGISTERS, 4, [1, 4464])]
        device.wait(second)
        stage.close()
        device.wait([*second, (WRITE_COIL, 3, [False]), (WRITE_REGISTERS, 2, [0])])
    finally:
        stage.close()
        device.close()
    (row,) = stage.publishers.states()
    assert (row["destination"], row["sent"], row["unsent"]) == (device.url.removeprefix("tcp://"), 6, 0)
    assert ("labels", row["destination"], "passed") in stage.books.rows
    assert {decision for _, _, decision in stage.books.rows} == {"passed"}


def test_a_modbus_device_that_comes_later_gets_the_newest_values_and_a_refusal_is_the_problem(tmp_path):
    port = free_port()
    stage = Stage("modbus", modbus(f"tcp://127.0.0.1:{port}"), tmp_path)
    stage.sink.write(APPEARED)
    stage.sink.write(GONE)
    device = ModbusDevice([0] * 4, port)  # it has no register 4
    try:
        with device.changed:
            assert device.changed.wait_for(lambda: (WRITE_COIL, 3, [False]) in device.written, 30)
            assert device.changed.wait_for(lambda: (WRITE_REGISTERS, 4, [0, 0]) in device.written, 30)
            assert (WRITE_COIL, 3, [True]) not in device.written
    finally:
        stage.close()
        device.close()
    (row,) = stage.publishers.states()
    assert row["unsent"] > 0


def test_what_may_not_leave_is_refused_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"points\[2\]: want tracks in \[privacy\] egress"):
        Stage("modbus", modbus("tcp://127.0.0.1:1"), tmp_path, egress=("labels",))
    with pytest.raises(ConfigError, match="nothing here has a way out"):
        make_sink("modbus", modbus("tcp://127.0.0.1:1"), SinkContext("door", tmp_path, egress=EGRESS))


class ShakyLink:
    """A link that loses its connection at the second write."""

    def __init__(self):
        self.changed = threading.Condition()
        self.opened = 0
        self.written = []

    def open(self):
        self.opened += 1

    def write(self, number, value):
        if self.opened == 1 and self.written:
            raise LinkError("it is gone")
        with self.changed:
            self.written.append((number, value))
            self.changed.notify_all()

    def close(self):
        pass


def test_after_a_fault_every_value_is_written_again():
    link = ShakyLink()
    writer = PointWriter("shaky", link, 0.0)
    writer.start(dict)
    writer.put([{"count": 1}, {"count": 2}])
    with link.changed:
        assert link.changed.wait_for(lambda: len(link.written) == 3, 30)
    assert link.written == [(0, 1.0), (0, 1.0), (1, 2.0)]
    writer.close([{"count": 0}, {"count": 2}])
    assert link.written[3:] == [(0, 0.0)]
    assert (writer.state()["sent"], writer.state()["problem"]) == (4, "")


class LateLink(ShakyLink):
    """A link that is there only while its writer is closed already."""

    def __init__(self):
        super().__init__()
        self.there = threading.Event()

    def open(self):
        assert self.there.wait(30)


def test_a_run_that_is_over_before_its_machine_answers_leaves_its_last_values_and_those_of_the_end():
    link = LateLink()
    writer = PointWriter("late", link, 0.0)
    writer.start(dict)
    writer.put([{"count": 1}, {"total": 3}])
    threading.Timer(0.1, link.there.set).start()
    writer.close([{"count": 0}, {"total": 3}])
    assert link.written == [(0, 1.0), (1, 3.0), (0, 0.0)]


def test_all_values_are_written_again_after_a_while():
    link = ShakyLink()
    link.opened = 1
    writer = PointWriter("steady", link, 0.01)
    writer.start(dict)
    writer.put([{"count": 7}])
    with link.changed:
        assert link.changed.wait_for(lambda: len(link.written) >= 3, 30)
    writer.close([{"count": 7}])
    assert set(link.written) == {(0, 7.0)}


def opcua(url):
    from edgekit.pipeline.sinks.opcua import OpcUaOptions, OpcUaPoint

    points = (
        OpcUaPoint(node="ns=2;s=Door.Occupied", label="car"),
        OpcUaPoint(node="ns=2;s=Door.People", label="car", show="count"),
    )
    return OpcUaOptions(url=url, points=points)


def test_an_opc_ua_server_gets_values_of_the_types_that_its_variables_have(tmp_path):
    pytest.importorskip("asyncua", reason="the extra 'opcua' is not installed")
    from opcua_server import OpcUaServer

    with OpcUaServer() as server:
        stage = Stage("opcua", opcua(server.url), tmp_path)
        try:
            stage.sink.write(APPEARED)
            server.wait("Door.Occupied", True)
            server.wait("Door.People", 1)
        finally:
            stage.close()
        server.wait("Door.Occupied", False)
    (row,) = stage.publishers.states()
    assert (row["sent"], row["unsent"], row["problem"]) == (4, 0, "")
    assert ("labels", server.url.removeprefix("opc.tcp://"), "passed") in stage.books.rows


def test_an_opc_ua_server_that_is_not_there_is_the_problem_and_ends_no_run(tmp_path):
    pytest.importorskip("asyncua", reason="the extra 'opcua' is not installed")
    stage = Stage("opcua", opcua(f"opc.tcp://127.0.0.1:{free_port()}"), tmp_path)
    stage.sink.write(APPEARED)
    stage.close()
    (row,) = stage.publishers.states()
    assert (row["sent"], row["unsent"]) == (0, 2)


def test_a_gpio_chip_that_is_not_there_is_the_problem_by_libgpiods_own_word(tmp_path):
    pytest.importorskip("gpiod", reason="the extra 'gpio' is not installed")
    from edgekit.pipeline.sinks.gpio import GpioLink, GpioOptions, GpioPoint

    points = (GpioPoint(offset=17, label="car", active_low=True),)
    with pytest.raises(LinkError, match=r"lines 17: .*No such file"):
        GpioLink(GpioOptions(chip=str(tmp_path / "gpiochip9"), points=points)).open()
    with pytest.raises(LinkError, match="lines 17"):
        GpioLink(GpioOptions(chip="/dev/null", points=points)).open()
    GpioLink(GpioOptions(points=points)).close()
