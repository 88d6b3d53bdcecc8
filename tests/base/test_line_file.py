"""A file of lines has only whole lines, whatever a kill or a full disk left of one."""

import os
import resource

import pytest

from edgekit.base.line_file import LineFile, last_lines


@pytest.mark.parametrize(
    ("before", "after", "cut"),
    [
        (b"", b"", 0),
        (b'{"a":1}\n', b'{"a":1}\n', 0),
        (b'{"a":1}\n{"a":{"b":2}', b'{"a":1}\n', 12),
        (b'{"a', b"", 3),
        (b'{"a":1}\n{"a":2}', b'{"a":1}\n{"a":2}\n', 0),
        (b"no line of ours", b"no line of ours\n", 0),
        (b'{"a":"' + b"x" * 200_000, b"", 200_006),
    ],
)
def test_half_a_line_is_cut_off_and_what_is_whole_stays(tmp_path, before, after, cut):
    (tmp_path / "f").write_bytes(before)
    file = LineFile(tmp_path / "f")
    file.append(b"{}\n")
    file.close()
    assert (tmp_path / "f").read_bytes() == after + b"{}\n"
    assert (file.cut, file.size) == (cut, len(after) + 3)


def test_a_line_that_the_disk_takes_half_of_is_not_there_and_the_next_one_is_whole(tmp_path):
    file = LineFile(tmp_path / "sub/f")
    file.append(b"{}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            file.append(b'{"long": "line"}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.append(b"[]\n")
    file.close()
    assert (tmp_path / "sub/f").read_bytes() == b"{}\n[]\n"


def test_what_another_process_has_appended_stays(tmp_path):
    one, other = LineFile(tmp_path / "f"), LineFile(tmp_path / "f")
    one.append(b"1\n")
    other.append(b"2\n")
    one.append(b"3\n")
    assert (tmp_path / "f").read_bytes() == b"1\n2\n3\n"
    assert one.size == 6
    one.close()
    other.close()


def test_what_is_no_plain_file_is_written_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file = LineFile(tmp_path / "pipe")
    file.append(b"{}\n")
    assert os.read(reader, 9) == b"{}\n"
    file.close()
    os.close(reader)


@pytest.mark.parametrize("length", [1, 70_000])
@pytest.mark.parametrize("end", [b"", b"half"])
def test_the_last_lines_are_the_last_whole_ones(tmp_path, length, end):
    lines = [b"%d " % n + b"x" * length for n in range(5)]
    (tmp_path / "f").write_bytes(b"".join(line + b"\n" for line in lines) + end)
    for count in range(1, 8):
        assert last_lines(tmp_path / "f", count) == lines[-count:]
    assert last_lines(tmp_path / "none", 3) == []
