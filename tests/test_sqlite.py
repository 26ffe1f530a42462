from pathlib import Path

import pytest

from thaw.tracking import sqlite


@pytest.mark.parametrize("path", ["/plain/a.db", "/two words/a.db", "/50%41/a.db", "/why?/#1.db", "/ü [x] 'y'/a.db"])
def test_an_address_leads_back_to_its_file(path):
    assert sqlite.file(sqlite.address(Path(path))) == Path(path)
    assert sqlite.resolved(sqlite.address(Path(path))) == sqlite.address(Path(path))


def test_a_usual_path_has_its_usual_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sqlite.address(Path("/a/b.db")) == "sqlite:////a/b.db"
    assert sqlite.resolved("sqlite:///a.db?timeout=3") == f"sqlite:///{tmp_path}/a.db?timeout=3"
