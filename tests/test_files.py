import errno
import os
import threading
import time

import pytest

from thaw import files
from thaw.locks import is_locked, locked


def test_what_is_written_appears_whole(tmp_path):
    path = tmp_path / "a"
    files.write_text(path, "one")
    with files.atomic_write(path) as partial:
        partial.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    files.write_text(tmp_path / "a", "one")
    with monkeypatch.context() as patch:
        patch.setattr(files, "flush", full)
        with pytest.raises(OSError, match="No space"):
            files.write_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one"
    files.write_text(tmp_path / "a", "three")
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_another_process_claims_is_waited_for(tmp_path):
    waited, order = [], []

    def work():
        with locked(tmp_path, lambda: waited.append(True)):
            order.append("second")

    with locked(tmp_path, lambda: waited.append(False)):
        assert is_locked(tmp_path)
        other = threading.Thread(target=work)
        other.start()
        while not waited:
            time.sleep(0.01)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert waited == [True]
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("fallocate", [True, False])
def test_room_is_reserved_without_a_change_of_what_is_there(tmp_path, monkeypatch, fallocate):
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.write(b"head")
        file.truncate(100_000)
    files.reserve(path)
    assert path.read_bytes() == b"head" + bytes(99_996)
    assert path.stat().st_blocks * 512 >= 100_000
