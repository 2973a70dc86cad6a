"""Property: an archive that is not what honest archives are is refused, by name, and nothing is ever
written."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from gentool.data.archive import open_tree, scan_tree
from gentool.errors import CorruptError

NAMES = {
    "/etc/passwd": "absolute",
    "../../evil.png": r"'\.\.'",
    "a/../../b.png": r"'\.\.'",
    "C:\\x.png": "absolute",
}


@pytest.fixture(autouse=True)
def nothing_is_written(tmp_path: Path):  # type: ignore[no-untyped-def]
    yield
    assert {p.name for p in tmp_path.iterdir()} <= {"a.zip", "a.tar", "a.tar.gz", "link"}


def tar_with(path: Path, *members: tarfile.TarInfo, data: bytes = b"x") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_names_that_leave_the_folder(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / kind
    if kind == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
            archive.writestr("good.png", b"x")
    else:
        tar_with(path, tarfile.TarInfo(name), tarfile.TarInfo("good.png"))
    with pytest.raises(CorruptError, match=NAMES[name]) as caught:
        open_tree(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    assert scan_tree(path).names == ["good.png"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("a.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(CorruptError, match=r"a\.png: a link(,| or) device"):
        open_tree(tar_with(tmp_path / "a.tar", member))


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(CorruptError, match=r"a\.png: a link(,| or) device"):
        open_tree(tmp_path / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_the_same_name_twice(tmp_path: Path, kind: str) -> None:
    if kind == "a.zip":
        with zipfile.ZipFile(tmp_path / kind, "w") as archive:
            archive.writestr("a.png", b"1")
            archive.writestr("a.png", b"2")
    else:
        tar_with(tmp_path / kind, tarfile.TarInfo("a.png"), tarfile.TarInfo("a.png"))
    with pytest.raises(CorruptError, match=r"a\.png: the same name twice"):
        open_tree(tmp_path / kind)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path, kind: str) -> None:
    zeros = bytes(20 << 20)
    if kind == "a.zip":
        with zipfile.ZipFile(tmp_path / kind, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.png", zeros)
    else:
        tar_with(tmp_path / kind, tarfile.TarInfo("a.png"), data=zeros)
    with pytest.raises(CorruptError, match=r"a\.png: unpacks to"):
        open_tree(tmp_path / kind)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_truncated_archive_is_corrupt(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    noise = os.urandom(50_000)
    if kind == "a.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", noise)
    else:
        tar_with(path, tarfile.TarInfo("a.png"), data=noise)
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(CorruptError, match=rf"{kind}"):
        open_tree(path).read("a.png")


def test_changed_bytes_in_a_zip_are_noticed_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"A" * 1000)
    path.write_bytes(path.read_bytes().replace(b"A" * 500, b"B" * 500, 1))
    with pytest.raises(CorruptError, match=r"a\.zip:a\.png: cannot be unpacked"):
        open_tree(path).read("a.png")


def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    tar_with(tmp_path / "a.tar", tarfile.TarInfo("x"))
    assert open_tree(tmp_path).names == ["a.tar"]
