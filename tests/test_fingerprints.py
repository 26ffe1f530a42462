import hashlib
import os

import pytest

from thaw.data import fingerprints


@pytest.fixture
def read(monkeypatch):
    """The paths of the files that were read."""
    paths, examined = [], fingerprints._examine
    monkeypatch.setattr(
        fingerprints, "_examine", lambda state, validator: paths.append(state[0]) or examined(state, validator)
    )
    return paths


def test_a_file_is_read_once_as_long_as_it_stays_the_same(tmp_path, read):
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        file.write_text(file.name)
    expected = [hashlib.sha256(file.name.encode()).digest() for file in files]
    assert fingerprints.digests(files, tmp_path / "store") == expected
    assert fingerprints.digests([*files, *reversed(files)], tmp_path / "store") == [*expected, *reversed(expected)]
    assert sorted(read) == sorted(map(str, files))


def test_a_file_that_changed_is_read_again(tmp_path, read):
    file = tmp_path / "a"
    file.write_text("one")
    before = fingerprints.digests([file], tmp_path / "store")
    file.write_text("two")
    os.utime(file, ns=(0, 0))
    assert fingerprints.digests([file], tmp_path / "store") != before
    assert len(read) == 2


def test_ten_thousand_files_are_remembered(tmp_path, read):
    files = [tmp_path / f"{number}" for number in range(10_000)]
    for file in files:
        file.touch()
    fingerprints.digests(files, tmp_path / "store")
    read.clear()
    assert len(set(fingerprints.digests(files, tmp_path / "store"))) == 1
    assert not read


def test_what_is_said_of_a_content_is_remembered_wherever_it_lies(tmp_path, read):
    for name in ("one", "two"):
        (tmp_path / name).write_text("same")
    asked = []
    judge = lambda content: asked.append(content) or "fine"  # noqa: E731
    for rules in ("a", "a", "b"):
        said = fingerprints.validated([tmp_path / "one"], tmp_path / "store", rules, judge)
        assert said == [(hashlib.sha256(b"same").digest(), "fine")]
    assert len(asked) == 2


def test_a_file_that_cannot_be_read_is_said_to_be_so_and_not_remembered(tmp_path, monkeypatch):
    file = tmp_path / "a"
    file.write_text("one")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(fingerprints.Path, "read_bytes", refuse)
        said = fingerprints.validated([file], tmp_path / "store", "a", lambda content: "")
        assert said == [(b"", "cannot be read (Permission denied)")]
    assert fingerprints.validated([file], tmp_path / "store", "a", lambda content: "")[0][1] == ""


def test_a_damaged_memory_is_begun_anew(tmp_path, read):
    file = tmp_path / "a"
    file.write_text("one")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "fingerprints.db").write_bytes(b"no database, and long enough to be taken for one" * 50)
    assert fingerprints.digests([file], tmp_path / "store") == [hashlib.sha256(b"one").digest()]
