import socket
import threading
import time

from thaw import downloads


def test_a_host_that_never_answers_is_given_up_after_its_time(monkeypatch):
    asked = threading.Event()

    def hang(address, timeout):
        asked.set()
        time.sleep(60)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(downloads, "REACH_SECONDS", 0.2)
    began = time.monotonic()
    assert not downloads.reachable("nowhere.invalid")
    assert asked.is_set()
    assert time.monotonic() - began < 10


def test_a_host_that_answers_is_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert downloads.reachable("127.0.0.1", server.getsockname()[1])
