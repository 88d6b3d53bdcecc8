"""What a pipeline's variants were excluded for outlives the agent."""

import json

from edgekit.agent.supervisor.excluded import MAX_BUNDLES, Excluded


def test_after_a_restart_the_same_variants_wait_again_and_the_next_wait_is_twice_as_long(tmp_path):
    path = tmp_path / "excluded" / "p.json"
    before = Excluded(path, 0.0, (5.0, 600.0))
    before.add("d1", "fast", "killed by SIGSEGV", 1000.0)
    before.add("d1", "fast", "killed by SIGSEGV", 1010.0)
    before.add("d1", "other", "pulled out", 1010.0)
    before.returned("d1", "other")
    after = Excluded(path, 7.0, (5.0, 600.0))
    assert after.reasons("d1") == {"fast": "killed by SIGSEGV"}
    assert after.reasons("d2") == {}
    assert after.rows["d1"]["fast"].due_s == 17.0
    after.add("d1", "fast", "again", 17.0)
    after.add("d1", "other", "again", 17.0)
    assert [row.wait_s for row in after.rows["d1"].values()] == [20.0, 10.0]


def test_what_is_cleared_stays_cleared_and_only_the_latest_bundles_are_kept(tmp_path):
    excluded = Excluded(tmp_path / "p.json", 0.0, (5.0, 600.0))
    for number in range(MAX_BUNDLES + 1):
        excluded.add(f"d{number}", "fast", "lost", 0.0)
    assert (len(json.loads((tmp_path / "p.json").read_text())), excluded.reasons("d0")) == (MAX_BUNDLES, {})
    excluded.forget()
    assert Excluded(tmp_path / "p.json", 0.0, (5.0, 600.0)).rows == {}


def test_a_damaged_file_and_one_that_cannot_be_written_are_logged_and_stop_nothing(tmp_path, caplog):
    path = tmp_path / "p.json"
    path.write_text("[")
    excluded = Excluded(path, 0.0, (5.0, 600.0))
    assert "p.json is not used, a restart begins with" in caplog.text
    path.unlink()
    path.mkdir()
    (path / "in the way").touch()
    excluded.add("d", "fast", "lost", 0.0)
    assert excluded.reasons("d") == {"fast": "lost"}
    assert "p.json cannot be written, a restart begins with" in caplog.text
