"""Pictures that are put into a folder are taken once each: whole, in order, over kills and restarts."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from deep_folders import deep_folders
from pipeline_fakes import ListSink, make_predictor
from single_model import write_image_bundle

from edgekit.core.errors import SourceError, StorageError
from edgekit.pipeline.done_list import DoneList
from edgekit.pipeline.loop import Loop
from edgekit.pipeline.sources import SourceContext, make_source
from edgekit.pipeline.sources.folder import MOST_TRIES, FolderOptions

PICTURE = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


def put(folder, *names, data=PICTURE):
    """Write pictures as a careful program does: whole, under another name, then renamed."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / ".part").write_bytes(data)
        (folder / ".part").rename(folder / name)


class Raiser:
    """Raises an error, whatever it is called with."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_):
        raise self.error


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def source_of(folder, **options):
    options = {"poll_s": 0.01, "settle_s": 0.0, **options}
    return make_source(
        "folder", FolderOptions(uri=str(folder), **options), SourceContext(state=folder.parent / "state")
    )


def opened(folder, **options):
    source = source_of(folder, **options)
    source.open()
    return source


def names(source, count, *, are_finished=True):
    """Read so many pictures; return their files."""
    read = []
    for _ in range(count):
        frame = source.read()
        read.append(frame.meta["file"])
        if are_finished:
            source.finished(frame.meta["identity"])
    return read


def rest(source):
    """Return what a source still has at once."""
    threading.Timer(0.15, source.close).start()
    read = []
    while (frame := source.read()) is not None:
        read.append(frame.meta["file"])
    return read


def test_what_comes_is_taken_once_the_oldest_first_and_again_only_when_it_is_written_anew(inbox):
    put(inbox, "10.png", "9.png")
    for name, second in (("10.png", 2), ("9.png", 1)):
        os.utime(inbox / name, (second, second))
    source = opened(inbox)
    assert names(source, 2) == ["9.png", "10.png"]
    put(inbox, "cat/1.png", ".hidden.png", "notes.txt")
    assert names(source, 1) == ["cat/1.png"]
    put(inbox, "9.png")
    assert names(source, 1) == ["9.png"]
    assert rest(source) == []


def test_after_a_restart_only_what_was_not_finished_is_taken_again(inbox):
    put(inbox, "1.png", "2.png", "3.png")
    source = opened(inbox)
    first = names(source, 2)
    in_work = names(source, 1, are_finished=False)
    source.close()
    put(inbox, "4.png")
    again = opened(inbox)
    assert sorted(names(again, 2)) == sorted([*in_work, "4.png"])
    assert rest(again) == []
    assert len(first) == 2


def test_what_was_in_work_comes_first_after_a_restart_and_sinks_are_told(inbox):
    put(inbox, "1.png", "2.png")
    source = opened(inbox)
    names(source, 2, are_finished=False)
    source.close()
    put(inbox, "0.png")
    os.utime(inbox / "0.png", (1, 1))
    again = opened(inbox)
    frames = [again.read() for _ in range(3)]
    assert [frame.meta["file"] for frame in frames] == ["1.png", "2.png", "0.png"]
    assert [frame.meta.get("is_again", False) for frame in frames] == [True, True, False]


def read_until(source, name):
    """Read and finish pictures until this one, which is not finished, as if it ended the process."""
    read = []
    while read[-1:] != [name]:
        frame = source.read()
        read.append(frame.meta["file"])
        if read[-1] != name:
            source.finished(frame.meta["identity"])
    return read


def test_a_picture_that_ends_the_process_comes_last_and_is_left_out_at_last(inbox, monkeypatch, caplog):
    monkeypatch.setattr("edgekit.pipeline.sources.folder.MOST_TRIES", 5)
    put(inbox, "bad.png")
    os.utime(inbox / "bad.png", (1, 1))
    runs = []
    for run in range(5):
        put(inbox, f"{run}.png")
        runs.append(read_until(opened(inbox), "bad.png"))
    first = [["bad.png"]] * 3
    assert runs == [*first, ["0.png", "1.png", "2.png", "3.png", "bad.png"], ["4.png", "bad.png"]]
    put(inbox, "5.png")
    source = opened(inbox)
    assert rest(source) == ["5.png"]
    assert source.counts()["unreadable"] == 1
    assert "bad.png: the process ended 5 times while this picture was in work" in caplog.text
    put(inbox, "bad.png")  # written anew it is another one
    assert names(opened(inbox), 2) == ["5.png", "bad.png"]


def test_a_run_that_ends_in_order_counts_against_no_picture(inbox):
    put(inbox, "1.png")
    for _ in range(MOST_TRIES + 2):
        source = opened(inbox)
        assert source.read().meta["file"] == "1.png"
        source.close()


def test_a_crash_is_remembered_over_an_end_in_order_without_the_picture(tmp_path):
    for ends in ([False] * 3, [True] * 3):
        for is_in_order in ends:
            done = DoneList(tmp_path / "d", 10)
            done.open()
            done.begin(7 if not is_in_order else 8)
            if is_in_order:
                done.put_back()
    last = DoneList(tmp_path / "d", 10)
    last.open()
    assert (last.begun(7), last.begun(8), last.begun(9)) == (3, 1, 0)


def test_pictures_that_are_there_at_the_very_first_start_may_be_left_out(inbox):
    put(inbox, "old.png")
    source = opened(inbox, existing=False)
    put(inbox, "new.png")
    assert names(source, 1) == ["new.png"]
    source.close()
    put(inbox, "while-away.png")
    assert names(opened(inbox, existing=False), 1) == ["while-away.png"]


def test_a_file_that_is_still_being_written_is_awaited(inbox):
    source = opened(inbox, settle_s=0.1)
    read = []
    thread = threading.Thread(target=lambda: read.extend(names(source, 1)))
    thread.start()
    with (inbox / "slow.png").open("wb", buffering=0) as file:
        for at in range(0, len(PICTURE), 16):
            file.write(PICTURE[at : at + 16])
            time.sleep(0.03)
        assert not read
    thread.join(10)
    assert read == ["slow.png"]
    assert source.counts()["unreadable"] == 0


def test_a_broken_picture_is_counted_once_and_taken_when_it_is_mended(inbox, caplog):
    put(inbox, "a.png", data=PICTURE[:40])
    source = opened(inbox)
    put(inbox, "b.png")
    assert names(source, 1) == ["b.png"]
    assert (source.next_seq, source.counts()["unreadable"]) == (2, 1)
    assert "a.png: cannot be read" in caplog.text
    put(inbox, "a.png")
    assert names(source, 1) == ["a.png"]


def test_a_folder_that_vanishes_is_waited_for_and_nothing_is_taken_twice(inbox):
    put(inbox, "1.png")
    source = opened(inbox)
    assert names(source, 1) == ["1.png"]
    inbox.rename(inbox.with_name("away"))
    read = []
    thread = threading.Thread(target=lambda: read.extend(names(source, 1)))
    thread.start()
    while not source.reopener.is_waiting:
        time.sleep(0.005)
    put(inbox.with_name("away"), "2.png")
    inbox.with_name("away").rename(inbox)
    thread.join(10)
    assert read == ["2.png"]
    assert source.reopener.reopened == 1
    source.close()


def test_what_waited_when_a_folder_vanished_is_taken_when_it_returns(inbox):
    """A stick is pulled out with pictures on it that were seen and not yet read."""
    put(inbox, "1.png", "2.png", "3.png")
    source = opened(inbox)
    (first,) = names(source, 1)
    inbox.rename(inbox.with_name("away"))
    read = []
    thread = threading.Thread(target=lambda: read.extend(names(source, 2)))
    thread.start()
    while not source.reopener.is_waiting:
        time.sleep(0.005)
    inbox.with_name("away").rename(inbox)
    thread.join(10)
    assert sorted([first, *read]) == ["1.png", "2.png", "3.png"]
    assert source.next_seq == 3
    assert source.counts() == {"unreadable": 0, "gone": 0, "not_noted": 0}
    source.close()


def test_what_a_disk_does_not_give_is_tried_again_when_the_folder_returns(inbox, monkeypatch, caplog):
    put(inbox, "1.png")
    source = opened(inbox)
    broken = OSError(errno.EIO, os.strerror(errno.EIO))
    with monkeypatch.context() as patch:
        patch.setattr("edgekit.pipeline.sources.folder.picture_bytes", Raiser(broken))
        put(inbox, "2.png")
        threading.Timer(0.1, lambda: inbox.rename(inbox.with_name("away"))).start()
        thread = threading.Thread(target=source.read)
        thread.start()
        while not source.reopener.is_waiting:
            time.sleep(0.005)
    assert source.counts()["unreadable"] == 2
    assert "2.png: cannot be read: Input/output error" in caplog.text
    inbox.with_name("away").rename(inbox)
    thread.join(10)
    assert len(names(source, 1)) == 1
    source.close()


def test_a_picture_that_is_moved_away_or_written_anew_while_it_waits_is_not_taken_for_the_old_one(inbox):
    put(inbox, "1.png", "2.png", "3.png")
    source = opened(inbox)
    names(source, 1)
    waiting = sorted(path.name for path in inbox.iterdir())[1:]
    (inbox / waiting[0]).unlink()
    (inbox / waiting[1]).rename(inbox / ".old")
    put(inbox, waiting[1], data=PICTURE + b"anew")
    assert names(source, 1) == [waiting[1]]
    (inbox / ".old").rename(inbox / waiting[1])
    assert names(source, 1) == [waiting[1]]
    assert rest(source) == []
    assert (source.next_seq, source.counts()["gone"], source.counts()["unreadable"]) == (3, 1, 0)


@pytest.mark.timeout(60)
def test_what_is_no_file_in_it_and_folders_of_any_depth_stop_nothing(inbox):
    os.mkfifo(inbox / "1.png")
    (inbox / "2.png").symlink_to("2.png")
    (inbox / "3.png").symlink_to("/dev/zero")
    put(inbox, "4.png")
    with deep_folders(inbox, 1_100, "d", PICTURE):
        source = opened(inbox)
        assert sorted(names(source, 2)) == ["4.png", "d/" * 1_100 + "1.png"]
        assert rest(source) == []


def test_a_folder_in_it_that_cannot_be_read_is_named_once_and_the_others_are_read(inbox, caplog):
    with deep_folders(inbox, 24, "d" * 200, PICTURE):
        source = opened(inbox)
        put(inbox, "1.png")
        assert names(source, 1) == ["1.png"]
        put(inbox, "2.png")
        assert names(source, 1) == ["2.png"]
    assert caplog.text.count("cannot be read and is left out: File name too long") == 1
    source.close()


def test_a_folder_that_does_not_come_back_or_never_was_is_an_error(inbox):
    with pytest.raises(SourceError, match=r"none'?: cannot be read: No such file"):
        opened(inbox / "none")
    source = opened(inbox, give_up_s=0.1)
    inbox.rmdir()
    with pytest.raises(SourceError, match="vanished and did not come back"):
        source.read()


def test_a_pipeline_marks_what_its_sinks_have_and_what_failed(inbox):
    put(inbox, *(f"{n}.png" for n in range(6)))
    sink = ListSink(on_write=lambda result: len(sink.results) == 4 and loop.stop())
    source = source_of(inbox)
    loop = Loop("test", source, make_predictor(), [sink])
    loop.run()
    seen = [result.frame.meta["file"] for result in sink.results]
    left = rest(opened(inbox))
    assert sorted(seen + left) == [f"{n}.png" for n in range(6)]


def test_each_picture_is_in_the_results_once_over_kills(inbox, tmp_path):
    """``edgekit run`` is killed twice while pictures arrive."""
    write_image_bundle(tmp_path / "tiny", latency_ms=20)
    (tmp_path / "p.toml").write_text(
        '[pipeline]\nname = "p"\nmodel = "tiny"\n[source]\nkind = "folder"\nuri = "in"\npoll_s = 0.02\n'
        'settle_s = 0.05\n[[sink]]\nkind = "jsonl"\npath = "out.jsonl"\n'
    )
    results = tmp_path / "out.jsonl"
    environment = {**os.environ, "EDGEKIT_STATE": str(tmp_path / "s"), "EDGEKIT_CACHE": str(tmp_path / "c")}

    def seen():
        return (
            [json.loads(line)["file"] for line in results.read_text().splitlines()]
            if results.exists()
            else []
        )

    for run in range(3):
        put(inbox, *(f"{run}-{n}.png" for n in range(8)))
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli.main", "run", str(tmp_path / "p.toml")], env=environment
        )
        while len(seen()) < (8 * run + 4 if run < 2 else 24) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert sorted(seen()) == sorted(f"{run}-{n}.png" for run in range(3) for n in range(8))


# -- the list of what is done


def test_what_is_done_is_known_after_a_cut_within_a_line(tmp_path):
    done = DoneList(tmp_path / "s/d", 100)
    assert done.open()
    done.add(1, 2)
    with (tmp_path / "s/d").open("ab") as file:
        file.write(b"00000000")  # half of a number
    again = DoneList(tmp_path / "s/d", 100)
    assert not again.open()
    again.add(3)
    third = DoneList(tmp_path / "s/d", 100)
    third.open()
    assert [key for key in range(5) if third.has(key)] == [1, 2, 3]


def test_what_was_begun_is_known_until_it_is_done_and_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.pipeline.done_list.MOST_BEGUN", 3)
    done = DoneList(tmp_path / "d", 4)
    done.open()
    for key in range(6):
        done.begin(key)
    done.add(4, *range(10, 20))
    done.trim(in_use=1)
    again = DoneList(tmp_path / "d", 4)
    again.open()
    assert [key for key in range(20) if again.begun(key)] == [2, 3, 5]
    assert not again.has(5)


def test_the_list_keeps_a_bounded_number_and_all_that_are_in_use(tmp_path):
    done = DoneList(tmp_path / "d", 10)
    done.open()
    done.add(*range(12))
    done.trim(in_use=2)
    assert [key for key in range(12) if done.has(key)] == list(range(7, 12))
    done.add(*range(20, 60))
    done.trim(in_use=20)
    assert done.has(59)
    assert (tmp_path / "d").stat().st_size == 17 * 45


def test_a_list_that_cannot_be_written_says_so_at_the_start_and_counts_later(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        DoneList(tmp_path / "file/d", 10).open()
    done = DoneList(tmp_path / "d", 10)
    done.open()
    (tmp_path / "d").unlink()
    (tmp_path / "d").symlink_to("/dev/full")
    done.add(1)
    done.add(2)
    assert (done.not_noted, done.has(1), caplog.text.count("cannot be noted")) == (2, True, 1)
