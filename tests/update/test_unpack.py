"""A release's environment is made of wheels alone, proved before it is tried, and refused with the reason."""

from __future__ import annotations

import subprocess
import zipfile

import msgspec
import pytest
from releases import agent_wheel, clean_environment

from edgekit.core.errors import BundleError, NoVariantError, StorageError
from edgekit.core.release import Lock
from edgekit.core.spec import AGENT, Manifest, Requires, Variant, VariantFile
from edgekit.update.release import environment_of, program_of, read_release, this_base
from edgekit.update.unpack import unpack

SHA = "a" * 64


@pytest.fixture(autouse=True)
def _only_installed(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return agent_wheel(tmp_path_factory.mktemp("wheels"), "0.2.0")


def bundle(folder, *wheels, version="0.2.0", arch=(), **lock):
    """Write a release's bundle as it is staged; return its folder."""
    (folder / "wheels").mkdir(parents=True)
    files = []
    for path in wheels:
        (folder / "wheels" / path.name).write_bytes(data := path.read_bytes())
        files.append(VariantFile(path=f"wheels/{path.name}", bytes=len(data), sha256=SHA))
    variant = Variant(
        id="any",
        backend=AGENT,
        files=tuple(files),
        requires=Requires(arch=arch),
        options=msgspec.to_builtins(Lock(**lock)),
    )
    manifest = Manifest(
        format=1, model=AGENT, version=version, task=AGENT, inputs=(), outputs=(), variants=(variant,)
    )
    (folder / "bundle.json").write_bytes(msgspec.json.encode(manifest))
    return folder


def small_wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_an_environment_has_the_releases_wheels_and_the_installations_libraries(tmp_path, wheel):
    more = small_wheel(
        tmp_path / "extra-1.0-py3-none-any.whl",
        {"extra.py": "x = 7\n", "extra-1.0.data/purelib/extra_too.py": "", "extra-1.0.data/scripts/run": ""},
    )
    staged = bundle(tmp_path / "b", wheel, more, python=">=3.10", needs={"msgspec": ">=0.18"})
    unpack(tmp_path, staged, "0.2.0", SHA)
    environment = environment_of(tmp_path, "0.2.0")
    release = read_release(environment)
    assert (release.version, release.sha256, release.base) == ("0.2.0", SHA, this_base())
    words = "import edgekit.version, msgspec, extra, extra_too; print(edgekit.version.__version__, extra.x)"
    done = subprocess.check_output(
        [program_of(environment), "-c", words], cwd=tmp_path, env=clean_environment(), text=True
    )
    assert done.split() == ["0.2.0", "7"]
    written = (environment / "release.json").stat().st_mtime_ns
    unpack(tmp_path, staged, "0.2.0", SHA)
    assert (environment / "release.json").stat().st_mtime_ns == written, "it is there already"


@pytest.mark.parametrize(
    ("lock", "reason"),
    [
        ({"python": ">=3.99"}, "needs Python >=3.99, found 3."),
        ({"needs": {"msgspec": ">=99"}}, "needs msgspec >=99, found 0."),
        ({"needs": {"not-there": ""}}, "needs not-there of any version, found none"),
        ({"arch": ("riscv64",)}, "needs riscv64, this device is "),
    ],
)
def test_a_lock_that_does_not_hold_is_a_reason(tmp_path, wheel, lock, reason):
    with pytest.raises(NoVariantError) as caught:
        unpack(tmp_path, bundle(tmp_path / "b", wheel, **lock), "0.2.0", SHA)
    assert reason in caught.value.reasons[0]


def test_a_release_that_cannot_be_imported_or_is_another_version_is_refused(tmp_path, wheel):
    broken = {"edgekit/agent/supervisor/supervisor.py": "\nimport edgekit.absent\n"}
    for name, version, file, reason in (
        ("a", "0.3.0", agent_wheel(tmp_path, "0.3.0", changes=broken), "No module named 'edgekit.absent'"),
        ("b", "0.4.0", wheel, "holds version 0.2.0"),
    ):
        with pytest.raises(BundleError, match=reason):
            unpack(tmp_path, bundle(tmp_path / name, file, version=version), version, SHA)
        assert read_release(environment_of(tmp_path, version)) is None


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"../../escaped.py": ""}, "leaves the bundle"),
        ({"/etc/escaped": ""}, "is absolute"),
        (None, "is not a wheel"),
    ],
)
def test_a_wheel_that_leaves_its_folder_or_is_none_is_refused(tmp_path, files, reason):
    path = tmp_path / "bad-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip") if files is None else small_wheel(path, files)
    with pytest.raises(BundleError, match=reason):
        unpack(tmp_path, bundle(tmp_path / "b", path), "0.2.0", SHA)


def test_a_wheel_that_does_not_fit_on_the_disk_is_not_unpacked(tmp_path, wheel, monkeypatch):
    monkeypatch.setattr("edgekit.update.unpack.RESERVE_BYTES", 1 << 62)
    with pytest.raises(StorageError, match="bytes unpacked, 0 are free"):
        unpack(tmp_path, bundle(tmp_path / "b", wheel), "0.2.0", SHA)
