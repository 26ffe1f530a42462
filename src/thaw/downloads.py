"""Downloads that fail in seconds, rather than hang, where there is no network."""

import contextlib
import socket
import threading
import urllib.request
from collections.abc import Iterator
from functools import cache
from urllib.error import URLError

REACH_SECONDS = 5.0  # for a first answer of a host
SILENCE_SECONDS = 60.0  # without a byte
KERAS_HOST = "storage.googleapis.com"  # where Keras keeps the weights of its applications


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """Within it, a download whose host cannot be reached in a few seconds fails."""

    class Hurried(urllib.request.HTTPSHandler):
        def https_open(self, request):
            host, _, port = request.host.partition(":")
            if not reachable(host, int(port or 443)):
                raise URLError(f"{host} cannot be reached")
            request.timeout = SILENCE_SECONDS
            return super().https_open(request)

    urllib.request.install_opener(urllib.request.build_opener(Hurried))
    try:
        yield
    finally:
        urllib.request.install_opener(None)


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
