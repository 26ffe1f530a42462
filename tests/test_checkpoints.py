"""Damaged checkpoints are known to be damaged, whatever byte it is; which epoch is the best."""

import math

import numpy as np
import pytest

from thaw import files
from thaw.training import checkpoints


@pytest.fixture
def state(tmp_path):
    path = tmp_path / checkpoints.STATE
    np.savez(path, **{"0": np.arange(20.0), "history": "[]", "by": '["a"]', "best": "0f"})
    return path


def content(path):
    with np.load(path) as state:
        return {name: state[name].tobytes() for name in state.files}


def test_a_byte_that_is_another_is_noticed_or_does_no_harm(state):
    whole, expected = state.read_bytes(), content(state)
    assert checkpoints._is_whole(state)
    believed = 0
    for place in range(len(whole)):
        for bit in (0x01, 0x10, 0x80):
            state.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            if checkpoints._is_whole(state):
                believed += 1
                assert content(state) == expected, place
    assert believed < len(whole)  # times and the like, of which nothing depends


@pytest.mark.parametrize("length", [0, 1, 100, 500])
def test_a_state_that_is_cut_off_is_noticed(state, length):
    state.write_bytes(state.read_bytes()[:length])
    assert not checkpoints._is_whole(state)


def test_a_state_that_cannot_be_read_is_not_taken_for_damaged(state, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(state))

    monkeypatch.setattr(type(state), "open", refuse)
    with pytest.raises(PermissionError):
        checkpoints._is_whole(state)


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 1.0, 2.0], 1), ([1.0, 1.0], 0), ([math.nan, 5.0, 4.0], 2), ([math.nan, math.nan], 0), ([2.0, math.inf], 0)],
)
def test_one_rule_says_which_epoch_is_the_best(losses, best):
    assert checkpoints.best_epoch([{"val_loss": loss} for loss in losses]) == best


@pytest.mark.parametrize("text", ["", "null", "5", "[]", "{}", '{"a": 1}', '{"a": 1, "sum": "00000000"}', "\xff"])
def test_json_without_its_own_checksum_is_damaged(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    assert files.read_json(tmp_path / "a.json") is None


def test_json_comes_back_as_it_was_and_every_flip_is_noticed(tmp_path):
    path, written = tmp_path / "a.json", {"lines": 12, "run": "abc", "loss": math.inf, "none": None}
    files.write_json(path, written)
    assert files.read_json(path) == written
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        assert files.read_json(path) in (None, written), place
