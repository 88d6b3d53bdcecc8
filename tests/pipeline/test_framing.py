"""A sensor line is read through garbage, and no window hides a gap."""

import itertools
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_frames import encode_frame

from edgekit.pipeline.fields import FieldMap, FieldOptions
from edgekit.pipeline.framing import (
    MAX_LINE_BYTES,
    BinaryFraming,
    TextFraming,
    Windower,
    checksum,
)

numbers = st.floats(-1000, 1000, width=32)
samples = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20)


def in_pieces(framing, data, cuts):
    found, at = [], 0
    for cut in sorted(c % (len(data) + 1) for c in cuts):
        found += framing.feed(data[at:cut])
        at = cut
    return found + framing.feed(data[at:])


def payload(*rows):
    return b"".join(struct.pack("<2f", *row) for row in rows)


@given(samples, st.lists(st.integers(0, 5000), max_size=8), st.sampled_from([",", ";", "\t", " ", ", "]))
def test_text_is_the_same_however_the_bytes_arrive(rows, cuts, between):
    data = "\n" + "".join(between.join(map(repr, row)) + "\r\n" for row in rows)
    assert in_pieces(TextFraming(2), data.encode(), cuts) == rows


@given(samples, st.lists(st.integers(0, 5000), max_size=8), st.integers(0, 70000))
def test_binary_is_the_same_however_the_bytes_arrive(rows, cuts, first):
    data = b"".join(encode_frame(first + i, payload(row)) for i, row in enumerate(rows))
    assert in_pieces(BinaryFraming(2, "float32"), data, cuts) == rows


@given(st.binary(max_size=300), samples, st.lists(st.integers(0, 5000), max_size=4))
def test_binary_finds_its_way_after_any_garbage(garbage, rows, cuts):
    """Garbage may look like the head of a frame, and swallow what follows: but never for long."""
    framing = BinaryFraming(2, "float32")
    in_pieces(framing, garbage, cuts)
    framing.feed(bytes(4200))  # longer than any frame that the garbage may have begun
    data = b"".join(encode_frame(i, payload(row)) for i, row in enumerate(rows))
    found = in_pieces(framing, data, cuts)
    assert [entry for entry in found if not isinstance(entry, int)] == rows


@given(st.binary(max_size=300), samples)
def test_text_finds_its_way_after_any_garbage(garbage, rows):
    framing = TextFraming(2)
    framing.feed(garbage)
    framing.feed(b"\n")
    data = "".join(f"{a!r},{b!r}\n" for a, b in rows)
    assert framing.feed(data.encode()) == rows


@given(st.binary(max_size=2000), st.sampled_from(["float32", "int16"]), st.integers(1, 8))
def test_no_bytes_break_a_framing_or_give_what_is_not_a_number(data, dtype, channels):
    for framing in (
        BinaryFraming(channels, dtype),
        TextFraming(channels),
        TextFraming(channels, is_numbered=True),
    ):
        for entry in framing.feed(data):
            assert isinstance(entry, int) or (len(entry) == channels and all(map(math.isfinite, entry)))


@given(st.integers(1, 30))
def test_memory_stays_bounded_without_a_line_end_or_a_frame_end(count):
    text, binary = TextFraming(2), BinaryFraming(2, "float32")
    for _ in range(count):
        text.feed(b"1" * 1000)
        binary.feed(b"\xa5\x5a\xff" * 300)
    assert len(text._rest) <= MAX_LINE_BYTES
    assert len(binary._rest) <= 4200


@pytest.mark.parametrize("flip", range(8, 16))
def test_a_flipped_bit_costs_one_frame_and_the_gap_is_told(flip):
    frames = [encode_frame(i, payload((i, -i))) for i in range(3)]
    broken = bytearray(frames[1])
    broken[flip % len(broken)] ^= 4
    framing = BinaryFraming(2, "float32")
    assert framing.feed(frames[0] + bytes(broken) + frames[2]) == [(0, 0), 1, (2, -2)]
    assert framing.rejected >= 1


def test_a_frame_may_hold_several_samples_and_numbers_go_around():
    framing = BinaryFraming(2, "int16", 0.5)
    data = struct.pack("<4h", 2, 4, -2, -4)
    assert framing.feed(encode_frame(65535, data)) == [(1, 2), (-1, -2)]
    assert framing.feed(encode_frame(0, data)) == [(1, 2), (-1, -2)]
    assert framing.feed(encode_frame(3, data)) == [4, (1, 2), (-1, -2)]


def test_the_checksum_is_the_published_one():
    assert checksum(b"123456789") == 0x29B1  # Source: the catalogue of CRC algorithms, CRC-16/IBM-3740


def test_numbered_lines_tell_what_is_missing():
    framing = TextFraming(1, is_numbered=True)
    assert framing.feed(b"\n7,1\n8,2\n12,3\nx,4\n14,5\n") == [(1,), (2,), 3, (3,), 1, (5,)]
    assert framing.rejected == 1


@pytest.mark.parametrize(
    "line", [b"", b"1", b"1,2,3", b"1,nan", b"1,inf", b"1,1e999", b"1,0x10", b"1,\xff", b"1," + b"2" * 40]
)
def test_lines_that_are_no_sample_are_refused(line):
    rejected = []
    framing = TextFraming(2, on_reject=lambda line, why: rejected.append((line, why)))
    assert framing.feed(b"\n" + line + b"\n1,2\n") == [*([1] if line else []), (1, 2)]
    assert len(rejected) == bool(line)


def test_a_line_that_does_not_fit_is_given_with_what_was_wanted():
    rejected = []
    framing = TextFraming(3, on_reject=lambda line, why: rejected.append((line, why)))
    framing.feed(b"\n20,1.0,2.0,3.0\r\n")
    why = "want 3 values, got 4; if the first is a time or a number: columns = [1, 2, 3]"
    assert rejected == [("20,1.0,2.0,3.0", why)]
    assert framing.rejected == 1


@pytest.mark.parametrize(
    ("options", "lines", "found"),
    [
        ({"columns": (1, 2)}, b"20,1,2\n40,3,4,x\n", [(1, 2), (3, 4)]),
        ({"timestamp": 0}, b"20,1,2\n40,3,4\n", [(1, 2), (3, 4)]),
        ({"columns": (2, 0)}, b"1,-,2\n3,-,4\n", [(2, 1), (4, 3)]),
        ({"decimal_comma": True}, b"1,5;2,25\n3 4\n", [(1.5, 2.25), (3, 4)]),
        ({"separator": "|"}, b"1|2\n 3 | 4 \n", [(1, 2), (3, 4)]),
        ({"header": True}, b"ax,ay\n1,2\nax,ay\n3,4\n", [(1, 2), (3, 4)]),
        (
            {"header": True, "columns": ("ay", "ax"), "timestamp": "t"},
            b"t,ax,ay\n0,1,2\n1,3,4\n",
            [(2, 1), (4, 3)],
        ),
    ],
)
def test_a_mapping_makes_lines_fit(options, lines, found):
    framing = TextFraming(2, options=FieldOptions(**options))
    assert framing.feed((b"" if options.get("header") else b"half a li\n") + lines) == found
    assert framing.rejected == 0


def test_named_columns_wait_for_their_header():
    framing = TextFraming(1, options=FieldOptions(header=True, columns=("x",)))
    assert framing.feed(b"8\n9\nx\n7\n") == [1, (7,)]


@pytest.mark.parametrize("last", [255, 999, 65_535, 2**32 - 1])
def test_a_count_that_wraps_loses_no_window(last):
    framing, windower = TextFraming(1, is_numbered=True), Windower(4, 4)
    lines = b"".join(
        b"%d,%d\n" % (count, n) for n, count in enumerate([*range(last - 5, last + 1), *range(6)])
    )
    windows = windower.push(framing.feed(b"\n" + lines))
    assert [seq for seq, _ in windows] == [0, 1, 2]
    assert windower.missing == 0


def test_lines_that_are_missing_where_the_count_wraps_are_known():
    framing = TextFraming(1, is_numbered=True)
    assert framing.feed(b"\n253,1\n2,2\n") == [(1,), 4, (2,)]


@pytest.mark.parametrize(
    "options",
    [
        {"separator": ";;"},
        {"separator": ",", "decimal_comma": True},
        {"columns": ("x",)},
        {"timestamp": "t"},
        {"columns": (-1,)},
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(options):
    assert list(FieldOptions(**options).problems())


@pytest.mark.parametrize(
    ("unit", "text", "seconds"),
    [("ms", "1500", 1.5), ("us", "2e6", 2.0), ("iso", "1970-01-01T00:00:10Z", 10.0), ("s", "3,5", 3.5)],
)
def test_a_samples_time_is_read_in_its_unit(unit, text, seconds):
    fields = FieldMap(FieldOptions(timestamp=1, timestamp_unit=unit, decimal_comma=True), 1)
    assert fields.row(["1", text]) == ((1.0,), seconds)


@given(st.integers(1, 8), st.integers(1, 8), st.lists(st.integers(1, 20), max_size=6))
def test_windows_are_whole_in_order_and_never_span_a_gap(window, hop, runs):
    """A stream is runs of consecutive samples with a gap of three between them."""
    windower, found, at = Windower(window, hop), [], 0
    for length in runs:
        found += windower.push([(at + i,) for i in range(length)])
        found += windower.push([3])
        at += length + 3
    for number, ((seq, _rows), (later, _)) in enumerate(itertools.pairwise(found)):
        assert later > seq >= number
    for _, rows in found:
        values = [row[0] for row in rows]
        assert values == list(range(values[0], values[0] + window))
    wanted = sum(max(0, (length - window) // hop + 1) if length >= window else 0 for length in runs)
    assert len(found) == wanted
    assert windower.missing == 3 * len(runs)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 40))
def test_without_a_gap_no_window_is_missing(window, hop, length):
    found = Windower(window, hop).push([(i,) for i in range(length)])
    assert [seq for seq, _ in found] == list(range(len(found)))
    assert [rows[0][0] for _, rows in found] == [hop * seq for seq in range(len(found))]
