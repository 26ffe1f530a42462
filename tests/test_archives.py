import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile

import pytest

from thaw import archives
from thaw.errors import ThawError


@pytest.fixture
def unpack(tmp_path):
    """Unpack an archive of that content; the folder, and everything below `tmp_path` beforehand must stay."""

    def run(content):
        (tmp_path / "a.bin").write_bytes(content)
        archives.unpack(tmp_path / "a.bin", "it", tmp_path / "content")
        return tmp_path / "content"

    return run


def tar(*members, mode="w:gz"):
    """A tar file of `TarInfo`s, each with its content or None."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as opened:
        for member, content in members:
            if content is not None:
                member.size = len(content)
            opened.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


def entry(name, kind=tarfile.REGTYPE, target="", content=None):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, content


def zipped(**options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as opened:
        for number in range(2):
            opened.writestr(f"pets/{number}.txt", str(number))
    return file.getvalue()


def chain():
    """Links of which each adds to the path, until it is too long to be resolved: CVE-2025-4517."""
    long, path = "d" * 247, ""
    members = []
    for step in "abcdefghijklmnop":
        members += [
            entry(f"{path}{long}", tarfile.DIRTYPE),
            entry(f"{path}{step}", tarfile.SYMTYPE, long),
        ]
        path += f"{long}/"
    way = "/".join("abcdefghijklmnop")
    members += [
        entry(f"{way}/{'l' * 254}", tarfile.SYMTYPE, "../" * 16),
        entry("escape", tarfile.SYMTYPE, f"{way}/{'l' * 254}/../../outside"),
        entry("hard", tarfile.LNKTYPE, "escape/file"),
        entry("hard", content=b"x"),
    ]
    return tar(*members)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_and_folders_come_out(unpack, mode):
    content = tar(
        entry("pets", tarfile.DIRTYPE), entry("pets/a", content=b"1"), entry("./pets/b/c", content=b"2"), mode=mode
    )
    folder = unpack(content)
    assert {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()} == {
        "pets/a": b"1",
        "pets/b/c": b"2",
    }


def test_modes_are_not_taken_over(unpack):
    member, content = entry("a", content=b"1")
    member.mode = 0o6777
    mode = (unpack(tar((member, content))) / "a").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


LINKS = {
    "symbolic": tar(entry("a", tarfile.SYMTYPE, "/etc/passwd")),
    "symbolic, within": tar(entry("a", content=b"1"), entry("b", tarfile.SYMTYPE, "a")),
    "hard": tar(entry("a", tarfile.LNKTYPE, "/etc/passwd")),
    "pipe": tar(entry("a", tarfile.FIFOTYPE)),
    "device": tar(entry("a", tarfile.CHRTYPE)),
    "chain": chain(),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_and_devices_are_refused(unpack, tmp_path, kind):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("mine")
    with pytest.raises(ThawError, match="a link or a device; only files and folders are extracted"):
        unpack(LINKS[kind])
    assert (tmp_path / "outside/file").read_text() == "mine"
    assert not [each for each in tmp_path.rglob("*") if each.is_symlink()]


def test_a_link_in_a_zip_file_is_refused(unpack):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        link = zipfile.ZipInfo("a")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(ThawError, match="contains a, a link or a device"):
        unpack(file.getvalue())


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a/../b"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_outside_are_refused(unpack, tmp_path, name, kind):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr(name, "x")
    with pytest.raises(ThawError, match="outside of its folder; do not use it"):
        unpack(file.getvalue() if kind == "zip" else tar(entry(name, content=b"x")))
    assert not list(tmp_path.rglob("x"))


def test_a_bomb_of_bytes_is_refused_before_it_fills_the_disk(unpack, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "BYTES", 1_000_000)
    monkeypatch.setattr(archives, "BLOCK", 10_000)
    for content in (tar(entry("a", content=bytes(20_000_000))), _deflated(20_000_000)):
        with pytest.raises(
            ThawError, match="it looks like a decompression bomb: .* bytes expand to more than .* bytes or .* files"
        ):
            unpack(content)
        assert sum(each.stat().st_size for each in (tmp_path / "content").rglob("*")) < 7_000_000
        (tmp_path / "content" / "a").unlink()
        (tmp_path / "content").rmdir()


def _deflated(size):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a", bytes(size))
    return file.getvalue()


def test_a_bomb_of_files_is_refused(unpack, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FILES", 10)
    with pytest.raises(ThawError, match="decompression bomb"):
        unpack(tar(*(entry(f"{number}", content=b"") for number in range(3000))))
    assert len(list((tmp_path / "content").iterdir())) < 500


def test_a_zip_file_with_a_password_is_refused(unpack):
    content = bytearray(zipped())
    for place in (content.find(b"PK\3\4") + 6, content.find(b"PK\1\2") + 8):
        content[place] |= 1
    with pytest.raises(ThawError, match="is damaged, or not a zip or tar file .*password"):
        unpack(bytes(content))


def test_a_full_disk_is_no_damage(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(zipped())

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(OSError, match="No space left"):
        archives.unpack(tmp_path / "a.zip", "it", tmp_path / "content")


def test_a_header_that_claims_gigabytes_does_not_fill_the_memory(unpack):
    """GNU's long names and PAX headers are read as a whole."""
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    file = io.BytesIO()
    with gzip.open(file, "wb") as packed:
        packed.write(long.tobuf(tarfile.GNU_FORMAT))
        packed.write(bytes(1 << 20))
    with pytest.raises(ThawError, match="decompression bomb"):
        unpack(file.getvalue())


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_nothing_without_an_end_is_read_behind_the_last_file(unpack, monkeypatch, compress):
    monkeypatch.setattr(archives, "BYTES", 1_000_000)
    with pytest.raises(ThawError, match="decompression bomb"):
        unpack(compress(tar(entry("a", content=b"1"), mode="w") + bytes(30_000_000)))


def test_folders_count_as_files(unpack, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FILES", 20)
    with pytest.raises(ThawError, match="decompression bomb"):
        unpack(tar(*(entry("/".join([f"{number}"] * 90), content=b"") for number in range(20))))
    assert len([each for each in (tmp_path / "content").rglob("*") if each.is_dir()]) < 200
