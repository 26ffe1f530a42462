"""`make ui` where MLflow has a server of its own; with a database `test_browser` opens it."""

import sys
from types import SimpleNamespace

from thaw import sync, tracking, ui


def test_a_server_has_pages_of_its_own(tmp_path, monkeypatch, capsys):
    store = SimpleNamespace(
        away=None,
        artifacts=None,
        host="https://mlflow.example.org",
        client=SimpleNamespace(search_experiments=list, search_runs=lambda *_, **__: []),
    )
    monkeypatch.setattr(sys, "argv", ["ui", "--store", str(tmp_path)])
    monkeypatch.setattr(tracking, "connect", lambda *_: store)
    monkeypatch.setattr(sync, "send_pending", lambda *_: None)
    assert ui.main() == 0
    assert capsys.readouterr().out == "All experiments: https://mlflow.example.org/#/experiments\n"
