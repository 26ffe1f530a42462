"""Downloads that fail in seconds, rather than hang, where there is no network; archives, unpacked once."""

import contextlib
import hashlib
import lzma
import os
import shutil
import socket
import sys
import tarfile
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache, partial
from http.client import HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.parse import urlsplit

from thaw import durable, progress
from thaw.errors import ThawError, redact

REACH_SECONDS = 5.0  # for a first answer of a host
SILENCE_SECONDS = 60.0  # without a byte
LONGEST = 80  # signs of an archive's name; file systems take about 255, with what is added to it
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
CONTENT = "content"  # the folder for what was in an archive
KERAS_HOST = "storage.googleapis.com"  # where Keras keeps the weights of its applications


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Within it, downloads report their progress, and fail if the host is unreachable or falls silent."""

    def checked(request: urllib.request.Request, port: int) -> urllib.request.Request:
        asked = urlsplit(f"//{request.host}")
        if not reachable(asked.hostname, asked.port or port):
            raise URLError(f"{asked.hostname} cannot be reached")
        request.timeout = SILENCE_SECONDS
        return request

    with contextlib.ExitStack() as steps:

        def counted(response: HTTPResponse) -> HTTPResponse:
            megabytes = int(response.headers.get("Content-Length") or 0) / 1e6
            step = steps.enter_context(progress.reporter().step("downloading", megabytes or None, "MB"))
            read = response.read

            def read_and_count(*arguments):
                content = read(*arguments)
                step.advance(len(content) / 1e6)
                return content

            response.read = read_and_count
            return response

        class Secure(urllib.request.HTTPSHandler):
            def https_open(self, request):
                return counted(super().https_open(checked(request, 443)))

        class Plain(urllib.request.HTTPHandler):
            def http_open(self, request):
                return counted(super().http_open(checked(request, 80)))

        urllib.request.install_opener(urllib.request.build_opener(Secure, Plain))
        steps.callback(urllib.request.install_opener, None)
        steps.enter_context(_quiet_keras())
        yield


@contextlib.contextmanager
def _quiet_keras() -> Iterator[None]:
    """Keep Keras from printing where it downloads from, even if nothing is reached."""
    keras = sys.modules.get("keras")
    if keras is None or not keras.config.is_interactive_logging_enabled():
        yield
        return
    keras.config.disable_interactive_logging()
    try:
        yield
    finally:
        keras.config.enable_interactive_logging()


@cache
def reachable(host: str, port: int = 443) -> bool:
    """Whether the host takes a connection in time, asked once in a process.

    Looking up its name counts, which no socket timeout covers.
    """
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), REACH_SECONDS):
            connected.set()

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(REACH_SECONDS)
    return connected.is_set()


def is_unpacked(url: str, sha256: str | None) -> bool:
    """Whether `unpacked` downloads nothing for that archive."""
    return _place(url, sha256).is_dir()


def unpacked(url: str, sha256: str | None) -> Path:
    """The folder with what is in an archive: downloaded and unpacked into Keras' cache, unless it is there.

    Args:
        url: of a zip or tar file.
        sha256: of that file, 64 hexadecimal digits; None: not known.

    Raises:
        ThawError: it cannot be downloaded, is not the right one, is damaged, or would write elsewhere.
    """
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https", "ftp", "file") and address.port != 0 and not address.username
    except ValueError:  # of what is no port
        usable = False
    if not usable:
        raise ThawError(f"dataset.url={redact(url)} cannot be used; give https://HOST/FILE, without user and password")
    place = _place(url, sha256)
    try:
        return durable.made(place, partial(_fetch, url, sha256, _name(url))) / CONTENT
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ThawError(f"{place} cannot be written ({error.strerror}); set KERAS_HOME to a folder that can") from error


def _name(url: str) -> str:
    """Of the file."""
    return PurePosixPath(urlsplit(url).path).name[-LONGEST:]


def _place(url: str, sha256: str | None) -> Path:
    """The folder in Keras' cache."""
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
    digest = hashlib.sha256(f"{url} {sha256}".encode()).hexdigest()[:10]
    return cache / f"{_name(url).partition('.')[0]}-{digest}"


def _fetch(url: str, sha256: str | None, name: str, folder: Path) -> None:
    from keras.utils import get_file

    try:
        with hurried():
            archive = get_file(
                name, url, file_hash=sha256, hash_algorithm="sha256", cache_dir=folder, cache_subdir="archive"
            )
    except Exception as error:  # Keras raises plain ones
        reason = " ".join(str(error).split())
        raise ThawError(
            f"{url} cannot be downloaded ({reason}); give the command again, or another dataset.url"
            + (", or the dataset.sha256 of that file (null: none)" if sha256 else "")
        ) from error
    _unpack(Path(archive), url, folder / CONTENT)
    shutil.rmtree(folder / "archive")


def _unpack(archive: Path, url: str, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                outside = [each for each in opened.namelist() if each.startswith("/") or ".." in Path(each).parts]
                if outside:
                    raise ThawError(f"{url} would write {outside[0]}, which lies outside of its folder; do not use it")
                opened.extractall(folder)
        else:
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="data")
                _read_to_the_end(opened)
    except tarfile.FilterError as error:
        raise ThawError(f"{url} would write outside of its folder ({error}); do not use it") from error
    except (*DAMAGED, OSError, ValueError, RuntimeError) as error:  # the last for a zip file with a password
        raise ThawError(f"{url} is no whole zip or tar file ({error}); check dataset.url") from error


def _read_to_the_end(opened: tarfile.TarFile) -> None:
    """Refuse a tar file that has no end: `tarfile` takes a damaged header for it, and asks for no checksum behind."""
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off or is damaged")
    while opened.fileobj.read(tarfile.RECORDSIZE):
        pass
