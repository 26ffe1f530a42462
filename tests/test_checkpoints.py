"""Damaged checkpoints are known to be damaged, whatever byte it is; which epoch is the best."""

import math
import threading

import keras
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


@pytest.fixture
def writer(tmp_path):
    """The state of a small model whose first epoch has ended."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    history = [{"val_loss": 1.0}]
    state = checkpoints.State(tmp_path, history, ["run"], checkpoints.Best(tmp_path, history, ""))
    state.set_model(model)
    return state


def test_a_state_is_written_behind_training_and_complete_when_training_ends(writer, tmp_path, monkeypatch):
    may_write, savez, before = threading.Event(), np.savez, writer.model.get_weights()
    monkeypatch.setattr(np, "savez", lambda *given, **arrays: may_write.wait(60) and savez(*given, **arrays))
    with writer:
        writer.on_epoch_end(0)
        writer.model.set_weights([np.zeros_like(each) for each in before])  # the next epoch
        assert not (tmp_path / checkpoints.STATE).exists()
        may_write.set()
    with np.load(tmp_path / checkpoints.STATE) as state:
        np.testing.assert_array_equal(state["0"], before[0])


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_state_that_cannot_be_written_ends_training(writer, monkeypatch, epochs):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def train():
        with writer:
            for epoch in range(epochs):
                writer.on_epoch_end(epoch)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        train()


def test_an_interrupt_during_training_leaves_the_state_of_the_last_epoch(writer, tmp_path):
    def train():
        with writer:
            writer.on_epoch_end(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert (tmp_path / checkpoints.STATE).exists()
