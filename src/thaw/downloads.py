"""Downloads that fail in seconds, rather than hang, where there is no network; datasets, downloaded once."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import sys
import threading
import urllib.request
from collections.abc import Iterator
from functools import cache, partial
from http.client import HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import url2pathname

from thaw import archives, durable, progress, runtime
from thaw.errors import FULL, ThawError, redact

REACH_SECONDS = 5.0  # for a first answer of a host
SILENCE_SECONDS = 60.0  # without a byte
LONGEST = 80  # signs of an archive's name; file systems take about 255, with what is added to it
SIGNATURE = r"(?i)(sig|se|signature|expires|awsaccesskeyid|key-pair-id|policy|x-(amz|goog)-[\w-]+)="  # of clouds
LARGEST = 1_000_000_000_000  # bytes of a download; a larger one is taken for endless
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
            read, done = response.read, 0

            def read_and_count(*arguments):
                nonlocal done
                content = read(*arguments)
                done += len(content)
                if done > LARGEST:
                    raise URLError(f"it exceeds {LARGEST / 1e9:g} GB")
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
    if address.scheme == "file" and not _is_file(address.path):
        raise ThawError(f"dataset.url={redact(url)} is not a regular file; expected the address of a zip or tar file")
    place = _place(url, sha256)
    try:
        return durable.made(place, partial(_fetch, url, sha256, _name(url))) / CONTENT
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ThawError(f"{place} cannot be written ({error.strerror}); set KERAS_HOME to a folder that can") from error


def _is_file(path: str) -> bool:
    """Whether it is a regular file, in contrast to /dev/zero, which has no end."""
    try:
        return stat.S_ISREG(os.stat(url2pathname(path)).st_mode)
    except (OSError, ValueError):
        return False


def _name(url: str) -> str:
    """Of the file."""
    return PurePosixPath(urlsplit(url).path).name[-LONGEST:]


def _place(url: str, sha256: str | None) -> Path:
    """The folder in Keras' cache."""
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
    parts = urlsplit(url)
    query = "&".join(each for each in parts.query.split("&") if not re.match(SIGNATURE, each))
    unsigned = parts._replace(query=query).geturl()  # signed anew it is the same file
    digest = hashlib.sha256(f"{unsigned} {sha256}".encode()).hexdigest()[:10]
    return cache / f"{_name(url).partition('.')[0]}-{digest}"


def _fetch(url: str, sha256: str | None, name: str, folder: Path) -> None:
    with runtime.quiet():
        from keras.utils import get_file

    try:
        with hurried():
            archive = get_file(
                name, url, file_hash=sha256, hash_algorithm="sha256", cache_dir=folder, cache_subdir="archive"
            )
    except Exception as error:  # Keras raises plain ones
        if getattr(error, "errno", None) in FULL:
            raise
        reason = " ".join(str(error).split())
        raise ThawError(
            f"{redact(url)} cannot be downloaded ({reason}); give the command again, or another dataset.url"
            + (", or the dataset.sha256 of that file (null: none)" if sha256 else "")
        ) from error
    archives.unpack(Path(archive), redact(url), folder / CONTENT)
    shutil.rmtree(folder / "archive")
