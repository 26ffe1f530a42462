import errno
import json

import pytest

from thaw.errors import ThawError
from thaw.tracking import journal


def record(folder, **changes):
    opening = {"uri": "", "experiment": "pets", "name": "vgg16", "parent": None, "tags": {}}
    return journal.Record(folder, **opening | changes)


def kinds(folder):
    return [line["kind"] for line in journal.read(folder)]


def test_a_run_is_finished_when_its_last_line_says_so(tmp_path):
    with record(tmp_path) as run:
        assert journal.finished(tmp_path) is None
        run.outcome = {"test_accuracy": 0.5}
    assert journal.finished(tmp_path) == {"test_accuracy": 0.5}
    record(tmp_path)
    assert journal.finished(tmp_path) is None


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ThawError("no such folder; give another"), "FAILED", "no such folder; give another"),
        (ValueError("at http://ann:secret@host"), "FAILED", "ValueError: at http://***@host"),
        (KeyboardInterrupt(), "KILLED", ""),
    ],
)
def test_how_a_run_ended_is_known(tmp_path, error, status, reason):
    with pytest.raises(type(error)), record(tmp_path):
        raise error
    last = journal.read(tmp_path)[-1]
    assert (last["status"], last["reason"]) == (status, reason)


def test_what_was_recorded_before_a_kill_is_not_recorded_again(tmp_path):
    first = record(tmp_path)
    first.params({"backbone": "vgg16"})
    first.metrics({"loss": 1.5}, 0)
    again = record(tmp_path)
    again.params({"backbone": "other", "seed": 0})
    again.metrics({"loss": 1.25}, 0)
    again.metrics({"loss": 1.0}, 1)
    assert kinds(tmp_path) == ["open", "params", "metrics", "open", "params", "metrics"]
    assert [line["values"] for line in journal.read(tmp_path)[4:]] == [{"seed": "0"}, {"loss": 1.0}]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_half_written_is_dropped(tmp_path, cut):
    record(tmp_path).metrics({"loss": 1.5}, 0)
    path = tmp_path / journal.NAME
    path.write_bytes(path.read_bytes()[:-cut])
    assert kinds(tmp_path) == ["open"]
    record(tmp_path).metrics({"loss": 1.5}, 0)
    assert kinds(tmp_path) == ["open", "open", "metrics"]
    assert path.read_bytes().count(b"\n") == 3


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = record(tmp_path)
    monkeypatch.setattr(journal, "append", full)
    with pytest.raises(ThawError), run:
        raise ThawError("no")
    assert kinds(tmp_path) == ["open"]


def test_a_password_is_not_written(tmp_path):
    record(tmp_path).params({"tracking.uri": "postgresql://ann:secret@host/db"})
    assert b"secret" not in (tmp_path / journal.NAME).read_bytes()


def test_a_damaged_line_keeps_its_place_and_every_flip_is_noticed(tmp_path):
    run = record(tmp_path)
    run.metrics({"loss": 1.5}, 0)
    run.end("FINISHED")
    path, lines = tmp_path / journal.NAME, journal.read(tmp_path)
    whole = path.read_bytes()
    middle = range(whole.index(b"\n") + 1, whole.index(b"\n", whole.index(b"\n") + 1))
    for place in middle:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        found = journal.read(tmp_path)
        assert found in (lines, [lines[0], journal.DAMAGED, lines[2]]), place


def test_a_journal_of_a_version_without_checksums_is_read(tmp_path):
    record(tmp_path).metrics({"loss": 1.5}, 0)
    path, lines = tmp_path / journal.NAME, journal.read(tmp_path)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert journal.read(tmp_path) == lines


@pytest.mark.parametrize("text", ["5\n", "null\n", "garbage\n", '{"kind": "open"}\n'])
def test_a_journal_whose_first_line_is_damaged_is_lost(tmp_path, text):
    record(tmp_path)
    path = tmp_path / journal.NAME
    assert not journal.is_lost(tmp_path)
    path.write_text(text + path.read_text())
    assert journal.is_lost(tmp_path)
    assert journal.read(tmp_path) == []
    assert journal.finished(tmp_path) is None
