"""Kept clips: newest first, found by what one of their events says, and nothing outside their folder."""

import json
import os

from edgekit.pipeline.kept_clips import MOST, KeptClips


def keep(folder, name, *events, at_s=0):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.mp4"
    path.write_bytes(b"video")
    if events:
        path.with_suffix(".json").write_text(json.dumps(events))
    os.utime(path, (at_s, at_s))


def test_words_are_looked_for_in_one_event_at_a_time_and_the_newest_comes_first(tmp_path):
    person = {"kind": "appeared", "label": "person"}
    keep(
        tmp_path, "a", person, {"kind": "crossed", "label": "dog", "line": "door", "direction": "in"}, at_s=10
    )
    keep(tmp_path, "b", person, at_s=20)
    keep(tmp_path, "c", at_s=30)
    clips = KeptClips(tmp_path)

    def names(words):
        return [clip["name"] for clip in clips.newest(words)]

    assert names("") == ["c", "b", "a"]
    assert names("PERSON appeared") == ["b", "a"]
    assert names("dog door in") == ["a"]
    assert names("person door") == []  # no one event says both
    assert names("c") == ["c", "a"]  # the name, and "crossed"
    newest = clips.newest("")[0]
    assert (newest["unix_ms"], newest["bytes"], newest["events"]) == (30_000, 5, [])


def test_there_may_be_no_folder_and_a_damaged_list_of_events_hides_no_clip(tmp_path):
    assert KeptClips(tmp_path / "none").newest() == []
    keep(tmp_path, "a")
    (tmp_path / "a.json").write_text("{")
    assert [clip["name"] for clip in KeptClips(tmp_path).newest()] == ["a"]


def test_an_answer_is_bounded(tmp_path):
    for number in range(MOST + 5):
        keep(tmp_path, f"n{number}", at_s=number)
    assert len(KeptClips(tmp_path).newest()) == MOST


def test_only_a_clip_of_the_folder_has_a_path(tmp_path):
    keep(tmp_path / "clips", "a")
    keep(tmp_path, "secret")
    clips = KeptClips(tmp_path / "clips")
    assert clips.path("a") == tmp_path / "clips/a.mp4"
    for name in ("../secret", "/etc/passwd", "b", "", ".", "a\0", "a/../a"):
        assert clips.path(name) is None, name
