"""Downloads that report their progress, and fail in seconds without a network instead of hanging."""

import contextlib
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from functools import cache
from http.client import HTTPResponse
from urllib.error import URLError
from urllib.parse import urlsplit

from thaw import progress

REACH_SECONDS = 5.0  # for the first answer of a host
SILENCE_SECONDS = 60.0  # without a byte
LARGEST = 1_000_000_000_000  # bytes; a larger download is assumed to be endless
KERAS_HOST = "storage.googleapis.com"  # where Keras keeps the weights of its applications


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Have urllib report progress and fail if the host is unreachable or falls silent, while the context lasts."""

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

            response.read = read_and_count  # type: ignore[method-assign]
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
    """Keep Keras from printing the address, even if nothing is downloaded."""
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
    """Whether the host accepts a connection in time; asked once per process.

    Includes the name lookup, which no socket timeout covers.
    """
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((host, port), REACH_SECONDS):
            connected.set()

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(REACH_SECONDS)
    return connected.is_set()
