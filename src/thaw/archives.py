"""Archives from strangers, unpacked: regular files and folders only, within their folder and within bounds."""

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from thaw.errors import FULL, ThawError

BLOCK = 1 << 20  # bytes that are copied at a time
TIMES, BYTES = 200, 100_000_000  # what comes out may have 200 times the archive's bytes, and these
APART, FILES = 50, 10_000  # of so many bytes of the archive one file may come out, and these
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)

Member = tuple[str, IO[bytes] | None]  # its name, and what it holds; None for a folder


def unpack(archive: Path, called: str, folder: Path) -> None:
    """Unpack a zip or tar file. Modes, owners and times are not taken over.

    Args:
        archive: the file.
        called: what to call it in a sentence.
        folder: is made.

    Raises:
        ThawError: it is damaged, holds links or devices, would write elsewhere, or is made to fill the disk.
        OSError: the disk is full.
    """
    size = archive.stat().st_size
    bytes_left, files_left = BYTES + TIMES * size, FILES + size // APART
    folder.mkdir()
    try:
        for name, content in _members(archive):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ThawError(f"{called} would write {name}, which lies outside of its folder; do not use it")
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
                    f"{called} has {size} bytes, of which more than {BYTES + TIMES * size} bytes or "
                    f"{FILES + size // APART} files would come; do not use it"
                )
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ThawError(f"{called} is no whole zip or tar file ({error}); check dataset.url") from error
    except DAMAGED as error:  # RuntimeError is a zip file's with a password
        raise ThawError(f"{called} is no whole zip or tar file ({error}); check dataset.url") from error


def _members(archive: Path) -> Iterator[Member]:
    return _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive)


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for each in opened.infolist():
            kind = each.external_attr >> 28  # of Unix, where that wrote it
            if kind not in (0, 0o4, 0o10):
                raise zipfile.BadZipFile(f"{each.filename} is a link or a device, and files and folders are taken")
            yield each.filename, None if each.is_dir() else opened.open(each)


def _of_tar(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as opened:
        for each in opened:
            if not (each.isreg() or each.isdir()):
                raise tarfile.TarError(f"{each.name} is a link or a device, and files and folders are taken")
            yield each.name, opened.extractfile(each) if each.isreg() else None
            opened.members = []  # of which it would keep all
        _read_to_the_end(opened)


def _read_to_the_end(opened: tarfile.TarFile) -> None:
    """Refuse a tar file that has no end: `tarfile` takes a damaged header for it, and asks for no checksum behind."""
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off or is damaged")
    while opened.fileobj.read(tarfile.RECORDSIZE):
        pass
