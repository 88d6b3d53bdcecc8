"""Recorded tables are replayed as the model takes them, at their own pace or at once."""

import logging
import time

import numpy as np
import pytest

from edgekit.core.errors import ConfigError, SourceError
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.table import TableOptions

WINDOWS = SourceContext(window=4, hop=2, channels=3)
ROWS = SourceContext(columns=("load", "kind"))


def opened(path, context=WINDOWS, **options):
    source = make_source("table", TableOptions(uri=str(path), **options), context)
    source.open()
    return source


def read_all(source):
    frames = []
    while (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames


def text(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def rows(count, mark=",", point="."):
    return [mark.join(f"{value:.1f}".replace(".", point) for value in (n, n + 0.5, -n)) for n in range(count)]


@pytest.mark.parametrize("mark", [",", ";", "\t", " ", "|"])
def test_a_csv_files_rows_become_windows_whatever_stands_between(tmp_path, mark):
    frames = read_all(opened(text(tmp_path / "t.csv", "ax,ay,az".replace(",", mark), *rows(8, mark))))
    assert [frame.seq for frame in frames] == [0, 1, 2]
    assert [frame.data[:, 0].tolist() for frame in frames] == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    assert frames[0].data[1].tolist() == [1, 1.5, -1]


def test_a_mapping_picks_columns_by_name_and_reads_decimal_commas(tmp_path):
    lines = ["zeit;az;note;ay;ax", *(f"{n},5;{n}3,0;x;{n}2,0;{n}1,0" for n in range(1, 5))]
    path = text(tmp_path / "t.csv", *lines, encoding="utf-8-sig")
    (frame,) = read_all(opened(path, columns=("ax", "ay", "az"), decimal_comma=True, header=True))
    assert frame.data.tolist() == [[n * 10 + 1, n * 10 + 2, n * 10 + 3] for n in range(1, 5)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("loop", [False, True])
def test_a_table_that_is_shorter_than_a_window_says_so(tmp_path, loop):
    source = opened(text(tmp_path / "t.csv", *rows(3)), loop=loop)
    with pytest.raises(SourceError, match="want 4 in a row for a window of the model, got 3 rows that fit"):
        source.read()


@pytest.mark.parametrize("separator", ["", ","])
def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path, monkeypatch, separator):
    monkeypatch.setattr("edgekit.pipeline.csv_lines._MOST_LETTERS", 100)
    mark = separator or " "
    path = text(tmp_path / "t.csv", *rows(8, mark), mark.join("1" * 200))
    with pytest.raises(SourceError, match="cannot be read: a line is longer than 100 letters"):
        read_all(opened(path, separator=separator))


def test_a_row_that_does_not_fit_is_named_once_counted_and_no_window_spans_it(tmp_path, caplog):
    lines = rows(10)
    lines[4] = "4.0,broken,-4.0"
    lines[9] = "9.0"
    source = opened(text(tmp_path / "t.csv", *lines))
    with caplog.at_level(logging.WARNING):
        frames = read_all(source)
    assert [frame.data[0, 0] for frame in frames] == [0, 5]
    assert source.counts() == {"rejected": 2}
    assert caplog.text.count("does not fit") == 1
    assert "want a number, got 'broken': '4.0,broken,-4.0'" in caplog.text


def test_a_file_of_which_no_row_fits_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="not one row fits"):
        read_all(opened(text(tmp_path / "t.csv", "1,2", "3,4")))


def test_a_model_of_tables_gets_its_columns_by_name_text_and_missing_values_too(tmp_path):
    path = text(tmp_path / "t.csv", "kind,load,other", "fan,1.5,x", '"a,b",,y')
    frames = read_all(opened(path, ROWS))
    assert [frame.data for frame in frames] == [{"load": "1.5", "kind": "fan"}, {"load": "", "kind": "a,b"}]


def test_a_model_of_tables_takes_lines_without_a_header_in_its_own_order(tmp_path):
    (frame,) = read_all(opened(text(tmp_path / "t.csv", "2.5;fan"), ROWS))
    assert frame.data == {"load": "2.5", "kind": "fan"}


def test_an_npz_file_has_one_array_or_the_named_one(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    np.savez(tmp_path / "one.npz", values)
    np.savez(tmp_path / "two.npz", noise=values + 1, signal=values)
    np.savez(tmp_path / "cut.npz", values.reshape(2, 4, 3))
    wanted = [frame.data.tolist() for frame in read_all(opened(tmp_path / "one.npz"))]
    assert wanted[0] == values[:4].tolist()
    for name, options in (("two", {"array": "signal"}), ("cut", {})):
        found = [frame.data.tolist() for frame in read_all(opened(tmp_path / f"{name}.npz", **options))]
        assert found == wanted
    with pytest.raises(SourceError, match="array = one of noise, signal"):
        read_all(opened(tmp_path / "two.npz"))


def test_a_parquet_file_is_read_by_its_columns_names(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the group 'dev' has it")
    from pyarrow import parquet

    path, count = tmp_path / "t.parquet", 8
    columns = {"z": [0.5] * count, "t": [20 * n for n in range(count)], "x": range(count), "y": [1] * count}
    parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    source = opened(path, columns=("x", "y", "z"), timestamp="t", timestamp_unit="ms")
    frames = read_all(source)
    assert frames[0].data[1].tolist() == [1.0, 1.0, 0.5]
    assert frames[0].meta["media_s"] == pytest.approx(0.06, abs=0.021)
    with pytest.raises(SourceError, match="want columns w, got z, t, x, y"):
        read_all(opened(path, columns=("x", "y", "w")))
    path.write_bytes(b"PAR1 is not all")
    with pytest.raises(SourceError, match="is no Parquet file"):
        read_all(opened(path))


def test_an_npz_file_may_have_an_array_for_each_column(tmp_path):
    np.savez(tmp_path / "t.npz", kind=np.array(["fan", "pump"]), load=np.array([1.5, 2.5]))
    frames = read_all(opened(tmp_path / "t.npz", ROWS))
    assert [frame.data for frame in frames] == [{"load": 1.5, "kind": "fan"}, {"load": 2.5, "kind": "pump"}]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04."])
def test_what_is_no_npz_file_is_refused(tmp_path, content):
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(SourceError, match="is no NPZ file"):
        read_all(opened(tmp_path / "t.npz"))


def test_an_npz_file_of_pickled_objects_or_of_another_shape_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", np.array([{"a": 1}], object))
    with pytest.raises(SourceError, match="is no NPZ file"):
        read_all(opened(tmp_path / "t.npz"))
    np.savez(tmp_path / "t.npz", np.zeros((8, 2)))
    with pytest.raises(SourceError, match=r"want numbers \(rows, 3\), got float64 \(8, 2\)"):
        read_all(opened(tmp_path / "t.npz"))


def test_it_is_replayed_at_the_pace_of_its_timestamps_and_faster(tmp_path):
    lines = [f"2026-11-27T12:0{n}:00Z,{row}" for n, row in enumerate(rows(8))]
    options = {"timestamp": 0, "timestamp_unit": "iso", "realtime": True, "speed": 2400}
    source = opened(text(tmp_path / "t.csv", *lines), **options)
    began_s = time.monotonic()
    frames = read_all(source)
    assert [frame.meta["media_s"] for frame in frames] == [180.0, 300.0, 420.0]
    assert 0.95 * 0.1 <= time.monotonic() - began_s < 60
    assert source.is_live


def test_without_timestamps_the_models_rate_is_the_pace(tmp_path):
    path = text(tmp_path / "t.csv", *rows(6))
    with pytest.raises(SourceError, match="realtime needs a timestamp column, or rate_hz"):
        opened(path, realtime=True)
    context = SourceContext(window=2, hop=2, channels=3, rate_hz=100)
    assert [frame.meta["media_s"] for frame in read_all(opened(path, context))] == [0.01, 0.03, 0.05]


def test_a_looped_table_counts_on(tmp_path):
    source = opened(text(tmp_path / "t.csv", *rows(4)), loop=True)
    assert [source.read().seq for _ in range(5)] == [0, 1, 2, 3, 4]
    source.close()
    assert source.read() is None


def test_a_table_needs_a_model_of_windows_or_rows_and_a_file(tmp_path):
    with pytest.raises(ConfigError, match="takes no windows of samples and no rows"):
        opened(tmp_path / "t.csv", SourceContext())
    with pytest.raises(SourceError, match="no such file"):
        opened(tmp_path / "t.csv")
