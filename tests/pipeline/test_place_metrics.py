"""Counts of lines and zones as Prometheus reads them: of a worker's pipelines, and in the textfile sink."""

from sink_results import event, result

from edgekit.pipeline.place_metrics import MAX_SERIES, place_lines
from edgekit.pipeline.sinks import SinkContext, make_sink
from edgekit.pipeline.sinks.prometheus import PrometheusOptions

PLACES = {
    "tracks": 3,
    "lines": {"door": {"in": {"person": 2}, "out": {"person": 1, "dog": 1}}},
    "zones": {"hall": {"entered": {"person": 2}, "left": {"person": 1}, "inside": 1}},
}
WANTED = [
    'edgekit_line_crossings_total{pipeline="p",line="door",direction="in",label="person"} 2',
    'edgekit_line_crossings_total{pipeline="p",line="door",direction="out",label="person"} 1',
    'edgekit_line_crossings_total{pipeline="p",line="door",direction="out",label="dog"} 1',
    'edgekit_zone_entered_total{pipeline="p",zone="hall",label="person"} 2',
    'edgekit_zone_left_total{pipeline="p",zone="hall",label="person"} 1',
    'edgekit_zone_inside{pipeline="p",zone="hall"} 1',
]


def samples(text):
    return [line for line in text if not line.startswith("#")]


def test_a_pipelines_counts_are_series_of_its_lines_and_zones():
    assert samples(place_lines({"p": PLACES})) == WANTED
    assert place_lines({"p": {}, "q": {"tracks": 0}}) == []


def test_a_family_has_a_bounded_number_of_series():
    many = {"lines": {"door": {"in": {str(n): n for n in range(2 * MAX_SERIES)}}}}
    assert len(samples(place_lines({"p": many}))) == MAX_SERIES


def test_the_textfile_sink_counts_the_same_from_events(tmp_path):
    sink = make_sink("prometheus", PrometheusOptions(path="p.prom"), SinkContext("p", tmp_path))
    crossed = [("in", "person"), ("in", "person"), ("out", "person"), ("out", "dog")]
    rows = [event(kind="crossed", line="door", direction=d, label=label, count=9) for d, label in crossed]
    for visit, kind in (("a", "entered"), ("b", "entered"), ("a", "left")):
        rows.append(event(id=visit, kind=kind, zone="hall", label="person", count=1))
    sink.write(result(rows))
    sink.close()
    text = (tmp_path / "p.prom").read_text().splitlines()
    assert [line for line in samples(text) if "_line_" in line or "_zone_" in line] == WANTED
    assert "# TYPE edgekit_line_crossings_total counter" in text
