"""What a fleet keeps is readable by its owner only."""

import stat

from fleet_kit import RunningFleet, composed


def open_to_others(data):
    return [
        str(path.relative_to(data))
        for path in data.rglob("*")
        if path.lstat().st_mode & 0o077
        and "publisher" not in path.parts  # the test's own
        and not stat.S_ISLNK(path.lstat().st_mode)
    ]


def test_nothing_that_a_running_fleet_writes_is_readable_by_others(tmp_path):
    with RunningFleet(tmp_path) as fleet:
        fleet.claim()
        assert open_to_others(tmp_path) == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o066 == 0


def test_a_start_closes_what_an_earlier_version_left_open_except_mosquittos_own(tmp_path):
    tmp_path.chmod(0o755)
    for name in ("fleet.sqlite-old", "mosquitto/acl", "blobs/one"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, mode=0o755)
        path.write_bytes(b"")
        path.chmod(0o644)
    with composed(tmp_path):
        assert stat.S_IMODE((tmp_path / "fleet.sqlite-old").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "mosquitto/acl").stat().st_mode) == 0o644
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o711
