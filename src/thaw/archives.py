"""Safe extraction of untrusted archives: regular files and folders only, inside one folder, within limits."""

import bz2
import gzip
import lzma
import tarfile
import textwrap
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
AT_ONCE = 16 << 20  # bytes of a header of tar, which is read as a whole
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
LINK = object()  # in place of content, for links and devices
Member = tuple[str, IO[bytes] | object | None]  # name and content; None for a folder


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
    most_bytes, most_files = BYTES + TIMES * size, FILES + size // APART
    bytes_left, files_left = most_bytes, most_files
    bomb = ThawError(
        f"{called} looks like a decompression bomb: {size} bytes expand to more than {most_bytes} bytes or "
        f"{most_files} files; do not use it"
    )
    folder.mkdir()
    try:
        for name, content in _of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive, most_bytes, bomb):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name:
                raise ThawError(f"{called} would write {name} outside of its folder; do not use it")
            if content is LINK:
                raise ThawError(f"{called} contains {name}, a link or a device; only files and folders are extracted")
            files_left -= len(path.parts)  # each of its folders may be a new one
            if files_left < 0:
                raise bomb
            if content is None:
                (folder / path).mkdir(parents=True, exist_ok=True)
                continue
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with content, (folder / path).open("wb") as file:
                while block := content.read(BLOCK):
                    bytes_left -= file.write(block)
                    if bytes_left < 0:
                        raise bomb
    except (OSError, *DAMAGED) as error:  # RuntimeError: an encrypted zip file
        if getattr(error, "errno", None) in FULL:
            raise
        reason = textwrap.shorten(str(error), 200)
        raise ThawError(f"{called} is damaged, or not a zip or tar file ({reason}); check dataset.url") from error


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for each in opened.infolist():
            kind = each.external_attr >> 28  # of Unix, where that wrote it
            if kind not in (0, 0o4, 0o10):
                yield each.filename, LINK
            else:
                yield each.filename, None if each.is_dir() else opened.open(each)


def _of_tar(archive: Path, most: int, bomb: ThawError) -> Iterator[Member]:
    with _decompressed(archive) as file, tarfile.open(fileobj=_Bounded(file, 2 * most, bomb), mode="r:") as opened:
        for each in opened:
            if not (each.isreg() or each.isdir()):
                yield each.name, LINK
            else:
                yield each.name, opened.extractfile(each) if each.isreg() else None
            opened.members = []  # tarfile would keep every one
        _read_to_the_end(opened)


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        start = file.read(6)
    for magic, opened in COMPRESSED.items():
        if start.startswith(magic):
            return opened(archive)
    return archive.open("rb")


class _Bounded:
    """A decompressed file that raises before it fills the memory or goes on for ever, as headers may have it.

    Args:
        file: decompressed as it is read.
        most: bytes that may be read.
        error: what to raise beyond.
    """

    def __init__(self, file: IO[bytes], most: int, error: ThawError):
        self.file, self.left, self.error = file, most, error
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= AT_ONCE:
            raise self.error
        block = self.file.read(size)
        self.left -= len(block)
        if self.left < 0:
            raise self.error
        return block

    def seek(self, place: int) -> None:
        while self.tell() < place and self.read(min(BLOCK, place - self.tell())):
            pass
        if self.tell() > place:
            self.file.seek(place)


def _read_to_the_end(opened: tarfile.TarFile) -> None:
    """Refuse a tar file that has no end: `tarfile` takes a damaged header for it, and asks for no checksum behind."""
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off or is damaged")
    while opened.fileobj.read(tarfile.RECORDSIZE):
        pass
