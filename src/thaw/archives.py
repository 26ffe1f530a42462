"""Safe extraction of untrusted archives: regular files and folders only, inside one folder, within limits.

`tarfile`'s filters differ between the versions of Python 3.11 and have had holes (CVE-2025-4517).
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from thaw.errors import FULL, ThawError, one_line

BLOCK = 1 << 20  # bytes copied at a time
TIMES, BYTES = 200, 100_000_000  # an archive may expand to 200 times its size plus 100 MB
APART, FILES = 50, 10_000  # and to one file for each 50 bytes plus 10,000
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)
AT_ONCE = 16 << 20  # bytes; tar headers are read whole
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
Member = tuple[str, IO[bytes] | Literal["link"] | None]  # name and content; None: a folder, "link": a link or a device


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
            if content == "link":
                raise ThawError(f"{called} contains {name}, a link or a device; only files and folders are extracted")
            files_left -= len(path.parts)  # each of its folders may be new
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
        reason = one_line(error, 200)
        raise ThawError(f"{called} is damaged, or not a zip or tar file ({reason}); check dataset.url") from error


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for each in opened.infolist():
            kind = each.external_attr >> 28  # the Unix file type, if recorded
            if kind not in (0, 0o4, 0o10):
                yield each.filename, "link"
            else:
                yield each.filename, None if each.is_dir() else opened.open(each)


def _of_tar(archive: Path, most: int, bomb: ThawError) -> Iterator[Member]:
    with _decompressed(archive) as file:
        bounded: Any = _Bounded(file, 2 * most, bomb)  # what tarfile needs of a file
        opened = tarfile.TarFile(fileobj=bounded, mode="r")
        for each in opened:
            if not (each.isreg() or each.isdir()):
                yield each.name, "link"
            else:
                yield each.name, opened.extractfile(each) if each.isreg() else None
            opened.members = []  # type: ignore[attr-defined]  # tarfile would keep every one
        _read_to_the_end(opened, bounded)


def _decompressed(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        start = file.read(6)
    for magic, opened in COMPRESSED.items():
        if start.startswith(magic):
            return opened(archive)
    return archive.open("rb")


class _Bounded:
    """A decompressed file that raises before it fills the memory or never ends, as headers may claim.

    Args:
        file: decompressed as it is read.
        most: bytes that may be read.
        error: raised beyond.
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


def _read_to_the_end(opened: tarfile.TarFile, file: "_Bounded") -> None:
    """Refuse a tar file without an end: `tarfile` takes a damaged header for it and does not verify the rest."""
    file.seek(opened.offset)
    if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is truncated or damaged")
    while file.read(tarfile.RECORDSIZE):
        pass
