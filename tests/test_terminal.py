"""What a terminal of 80 columns shows: progress on lines of their own, results that stay, and nothing wrapped."""

import io
import re
import time

import pytest
from rich.console import Console

from thaw import progress
from thaw.cli import manual, terminal
from thaw.runs.outcome import Outcome

LONG = "[12/96] inceptionv3 unfreeze=100 training.finetune.learning_rate=0.0001 augmentation=standard seed=3"


@pytest.fixture
def screen():
    """A terminal of 80 columns that keeps all that is written to it."""
    return Console(force_terminal=True, width=80, file=io.StringIO(), highlight=False)


def written(screen):
    """The lines that were written, without control sequences."""
    text = re.sub("\x1b\\]8;.*?\x1b" + re.escape("\\"), "", screen.file.getvalue())
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", text)]


def wait_for(screen, words):
    until = time.monotonic() + 10
    while not any(words in line for line in written(screen)):
        assert time.monotonic() < until, written(screen)
        time.sleep(0.05)


def test_a_sweep_is_shown_without_a_line_that_wraps(screen):
    with terminal.Display(screen) as display:
        display.begin_sweep(96)
        display.begin_run(LONG)
        display.phase("starting TensorFlow")
        wait_for(screen, "starting TensorFlow")
        display.plan(10)
        with display.step("frozen pass", 12_345, "images") as step:
            for _ in range(30):
                step.advance(100)
                time.sleep(0.01)
            wait_for(screen, "images ·")
        numbers = "loss 0.312 · accuracy 0.913 · validation loss 0.402 · validation accuracy 0.882"
        display.epoch("finetune 3/5", numbers, 8.0, 2.5)
        wait_for(screen, numbers)
        display.epoch("finetune 4/5", "", 8.5, 2.5)
        time.sleep(0.5)
        assert numbers in written(screen)[-2] + written(screen)[-1] + written(screen)[-3]  # until the next ones
        result = f"✓ {LONG} · validation 0.711 · test 0.656 · 1 h 12 min · head reused"
        display.end_run(result, trained=True)
    lines = written(screen)
    assert max(map(len, lines)) <= 80
    (kept,) = [line for line in lines if line.startswith("✓")]
    assert kept.endswith("… · val 0.711 · test 0.656 · 1 h 12 min · head reused")
    assert any("96 runs" in line and "left" in line for line in lines)


def test_without_a_terminal_there_is_a_line_for_each_thing_done(monkeypatch):
    monkeypatch.setattr(terminal, "LONG", 0.0)
    shown = Console(file=io.StringIO(), soft_wrap=True)
    with terminal.Display(shown) as display, progress.reporting_to(display):
        display.begin_run("[1/2] unfreeze=0")
        assert list(progress.counted("abc", "frozen pass", 3, "images")) == ["a", "b", "c"]
        display.epoch("head 1/1", "loss 1.000", 1.0, 0.5)
        display.end_epoch("head 1/1", "loss 1.000")
        display.end_run("✓ [1/2] unfreeze=0 · test 0.5", trained=True)
    lines = shown.file.getvalue().splitlines()
    assert lines[0].startswith("[1/2] unfreeze=0 · frozen pass · 3 images · ")
    assert lines[1].startswith("[1/2] unfreeze=0 · head 1/1 · loss 1.000")
    assert lines[2:] == ["✓ [1/2] unfreeze=0 · test 0.5"]


def test_an_address_is_whole_or_a_link(screen):
    short, long = "http://127.0.0.1:5000/#/x", "http://127.0.0.1:5000/#/" + "x" * 100
    assert terminal.link(screen, "runs", short).plain == f"runs: {short}"
    screen.print(terminal.link(screen, "runs", long))
    assert "8;id=" in screen.file.getvalue()
    assert long in screen.file.getvalue()
    assert max(map(len, written(screen))) <= 80
    piped = Console(file=io.StringIO(), soft_wrap=True)
    piped.print(terminal.link(piped, "runs", long))
    assert piped.file.getvalue() == f"runs: {long}\n"


def test_the_time_left_counts_what_is_known_and_not_the_first_steps():
    left = terminal.TimeLeft()
    left.runs = 3
    left.begin_run()
    left.epochs = 10
    assert left.of_all() is None
    left.epochs_done, left.seconds_per_epoch = 4.0, 2.0
    assert left.of_all() == pytest.approx(12 + 2 * 12, abs=1)
    left.end_run(trained=True)
    left.times = [30.0]
    left.begin_run()
    assert left.of_all() == pytest.approx(30 + 30, abs=1)
    left.end_run(trained=False)  # found finished: it says nothing of the others
    left.begin_run()
    assert left.times == [30.0]
    assert left.of_all() == pytest.approx(30, abs=1)


def test_the_time_left_does_not_jump():
    left = terminal.TimeLeft()
    left.begin_run()
    left.epochs, left.seconds_per_epoch = 10, 10.0
    assert left.smoothed() == pytest.approx(100)
    left.seconds_per_epoch = 1.0
    assert left.smoothed() == pytest.approx(91, abs=1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "✓ a · validation 0.711 · test 0.656 · 12 s"),
        ({"reused": "finished before"}, "✓ a · validation 0.711 · test 0.656 · 12 s · finished before"),
        (
            {"reused": "head resumed after 3"},
            "✓ a · validation 0.711 · test 0.656 · 12 s · head resumed after 3",
        ),
        ({"note": "x"}, "✓ a · validation 0.711 · test 0.656 · 12 s · fine-tuning did not lower the loss"),
        ({"status": "FAILED", "error": "no"}, "✗ a · failed: no"),
        ({"status": "KILLED"}, "✗ a · killed"),
    ],
)
def test_a_run_ends_in_one_line(changes, line):
    numbers = {"val_accuracy": 0.7114, "test_accuracy": 0.6559, "wall_seconds": 12.2}
    assert Outcome(**{"name": "a", "status": "FINISHED", "choices": {}, **numbers, **changes}).summary("a") == line


def test_the_manual_has_every_key_with_its_comment_and_every_option(capsys, monkeypatch):
    assert manual.main(["--help", "backbone=mobilenetv2"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    keys = out.partition("\nKEYS\n")[2].splitlines()
    bare = [line for line in keys if "#" not in line and not line.endswith(":") and "${oc.env" not in line]
    assert [line.split(":")[0].strip() for line in bare] == ["store"]
    assert re.search(r"alpha: 1.0 +# width: ImageNet weights exist", out)
    assert re.search(r"evaluate: best +# best | last_stage | last", out)
    for group, options in manual.groups().items():
        for option in options:
            assert re.search(rf"\b{option}\b", out), (group, option)


def test_a_wrong_option_is_answered_by_the_manual_as_by_the_command(capsys, monkeypatch):
    assert manual.main(["--help", "backbone=vgg61"]) == 1
    assert "did you mean vgg16?" in capsys.readouterr().err


def test_the_manual_leaves_a_list_of_values_out(capsys, monkeypatch):
    assert manual.main(["-m", "backbone=effnetb0,xception", "unfreeze=0,20", "seed=7", "--help"]) == 0
    assert "\n  seed: 7" in capsys.readouterr().out


def test_a_terminal_without_control_sequences_gets_lines():
    shown = Console(force_terminal=True, file=io.StringIO(), _environ={"TERM": "dumb"}, width=80)
    with terminal.Display(shown) as display:
        display.begin_run("a")
        display.epoch("head 1/2", "loss 1.000", 1.0, 2.0)
        display.end_epoch("head 1/2", "loss 1.000")
    assert shown.file.getvalue().startswith("a · head 1/2 · loss 1.000")
    assert "\x1b" not in shown.file.getvalue()
    assert terminal.link(shown, "runs", "http://" + "x" * 100).plain == f"runs: http://{'x' * 100}"


@pytest.mark.parametrize(
    ("reused", "trained"),
    [(None, True), ("head reused", True), ("finished before", False), ("trained by another process", False)],
)
def test_a_run_that_was_finished_before_says_nothing_of_how_long_others_take(reused, trained):
    assert Outcome("a", "FINISHED", {}, reused=reused).was_trained == trained
    assert not Outcome("a", "FAILED", {}, reused=reused).was_trained
