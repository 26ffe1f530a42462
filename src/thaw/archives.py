"""Safe extraction of untrusted archives: regular files and folders only, inside one folder, within limits."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from thaw.errors import FULL, ThawError

BLOCK = 1 << 20  # bytes that are copied at a time
TIMES, BYTES = 200, 100_000_000  # an archive may expand to 200 times its size plus 100 MB
APART, FILES = 50, 10_000  # and to one file for each 50 bytes plus 10,000
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)

Member = tuple[str, IO[bytes] | None]  # name and content; None for a folder


def unpack(archive: Path, called: str, folder: Path) -> None:
    """Extract a zip or tar file; modes, owners and times are ignored.

    Args:
        archive: the file.
        called: its name in error messages.
        folder: where to; created.

    Raises:
        ThawError: it is damaged, contains links or devices, would write outside `folder`, or is a decompression bomb.
        OSError: the disk is full.
    """
    size = archive.stat().st_size
    bytes_left, files_left = BYTES + TIMES * size, FILES + size // APART
    folder.mkdir()
    try:
        for name, content in _members(archive):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ThawError(f"{called} would write {name} outside of its folder; do not use it")
            files_left -= 1
            if content is None:
                (folder / path).mkdir(parents=True, exist_ok=True)
                continue
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with content, (folder / path).open("wb") as file:
                while block := content.read(BLOCK):
                    bytes_left -= file.write(block)
                    if bytes_left < 0:
                        break
            if bytes_left < 0 or files_left < 0:
                raise ThawError(
                    f"{called} looks like a decompression bomb: {size} bytes expand to more than "
                    f"{BYTES + TIMES * size} bytes or {FILES + size // APART} files; do not use it"
                )
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ThawError(f"{called} is no whole zip or tar file ({error}); check dataset.url") from error
    except DAMAGED as error:  # RuntimeError: an encrypted zip file
        raise ThawError(f"{called} is no whole zip or tar file ({error}); check dataset.url") from error


def _members(archive: Path) -> Iterator[Member]:
    return _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive)


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for each in opened.infolist():
            kind = each.external_attr >> 28  # of Unix, where that wrote it
            if kind not in (0, 0o4, 0o10):
                raise zipfile.BadZipFile(
                    f"{each.filename} is a link or a device; only regular files and folders are extracted"
                )
            yield each.filename, None if each.is_dir() else opened.open(each)


def _of_tar(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as opened:
        for each in opened:
            if not (each.isreg() or each.isdir()):
                raise tarfile.TarError(
                    f"{each.name} is a link or a device; only regular files and folders are extracted"
                )
            yield each.name, opened.extractfile(each) if each.isreg() else None
            opened.members = []  # tarfile would keep every one
        _read_to_the_end(opened)


def _read_to_the_end(opened: tarfile.TarFile) -> None:
    """Refuse a tar file that has no end: `tarfile` takes a damaged header for it, and asks for no checksum behind."""
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off or is damaged")
    while opened.fileobj.read(tarfile.RECORDSIZE):
        pass
