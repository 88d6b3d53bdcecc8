"""Writes a tree of files as one Debian package with dpkg-deb, the same bytes for the same tree."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from environment import Target
    from packages import Package


def write_deb(package: Package, target: Target, tree: Path, out: Path) -> Path:
    """Write ``tree``, whose ``DEBIAN/`` holds a control file, as a package; return its path.

    Its list of components is written beside it, too.
    """
    debian = tree / "DEBIAN"
    files = sorted(
        p for p in tree.rglob("*") if p.is_file() and not p.is_symlink() and debian not in p.parents
    )
    sums = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(tree)}" for p in files]  # noqa: S324 - dpkg's format
    (debian / "md5sums").write_text("\n".join(sums) + "\n")
    kib = sum(-(-p.stat().st_size // 1024) for p in files)
    control = debian / "control"
    control.write_text(control.read_text().replace("@INSTALLED_SIZE@", str(kib)))
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            is_script = path.parent == debian and path.name in ("postinst", "prerm", "postrm", "preinst")
            is_program = path.is_dir() or is_script or path.parent.name == "bin"
            path.chmod(0o755 if is_program else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    made = out / f"{package.name}_{target.release.version}_{target.arch}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zzstd", "-z10", "--build", str(tree), str(made)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    bill = tree / "usr" / "share" / "doc" / package.name / "sbom.cdx.json"
    made.with_suffix(".cdx.json").write_bytes(bill.read_bytes())
    return made


def write_sums(folder: Path, key: str | None = None) -> Path:
    """Write ``SHA256SUMS`` of packages and their components, and its signature by gpg's ``key`` beside it."""
    sums = folder / "SHA256SUMS"
    rows = [(hashlib.sha256(p.read_bytes()).hexdigest(), p.name) for p in _signed_files(folder)]
    sums.write_text("".join(f"{digest}  {name}\n" for digest, name in rows))
    signature = folder / "SHA256SUMS.gpg"
    signature.unlink(missing_ok=True)  # an older build's would be of other packages
    if key:
        command = ["gpg", "--batch", "--local-user", key, "--output", str(signature), "--detach-sign"]
        subprocess.run([*command, str(sums)], check=True)
    return sums


def _signed_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.deb"), *folder.glob("*.cdx.json")])
