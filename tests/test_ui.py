"""`make ui` where MLflow has a server of its own; with a database `test_browser` opens it."""

import socket
import sys
from types import SimpleNamespace

from thaw.cli import ui
from thaw.tracking import sync
from thaw.workspace import Workspace


def test_a_server_has_pages_of_its_own(tmp_path, monkeypatch, capsys):
    store = SimpleNamespace(
        unreachable=None,
        artifacts=None,
        host="https://mlflow.example.org",
        client=SimpleNamespace(search_experiments=list, search_runs=lambda *_, **__: []),
    )
    monkeypatch.setattr(sys, "argv", ["ui", "--store", str(tmp_path)])
    monkeypatch.setattr("thaw.tracking.store.connect", lambda *_: store)
    monkeypatch.setattr(sync, "send_pending", lambda *_: None)
    assert ui.main() == 0
    assert capsys.readouterr().out == "All experiments: https://mlflow.example.org/#/experiments\n"


def test_a_port_that_is_taken_is_one_sentence(tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["ui", "--store", str(Workspace(tmp_path).create().root), "--port", str(port)])
        assert ui.main() == 1
    assert f"Port {port} cannot be used (Address already in use); give another with PORT=" in capsys.readouterr().err
