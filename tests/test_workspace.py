"""Nothing is removed but what Thaw made: the folders of commands, and what lies in a store that bears its mark."""

import json
import sys

import pytest
from conftest import TINY

from thaw import journal, room, sync, workspace
from thaw.errors import ThawError


@pytest.fixture
def precious(tmp_path, monkeypatch):
    """A folder of somebody's own, which is the current one."""
    folder = tmp_path / "precious"
    for name in ("thesis.txt", "stages/one.txt", "launches/two.txt", "runs/three.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
    monkeypatch.chdir(folder)
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["hydra.run.dir=.", "unfreeze=-1"], "hydra.run.dir=."),
        (["hydra.run.dir={folder}"], "hydra.run.dir={folder}"),
        (["hydra.run.dir='${{store}}'"], "hydra.run.dir={store}"),
        (["hydra.run.dir='${{store}}/launches/another'"], "hydra.run.dir={store}/launches/another"),
        (["-m", "hydra.sweep.dir={folder}", "unfreeze=0,3"], "hydra.sweep.dir={folder}"),
        (["-m", "hydra.sweep.subdir={folder}", "unfreeze=0,3"], "hydra.sweep.subdir={folder}"),
    ],
)
def test_another_folder_for_a_command_is_refused_and_stays_as_it_is(command, precious, tmp_path, arguments, named):
    before, places = content(precious), {"folder": precious, "store": tmp_path / "mlruns"}
    status, _, err = command(*(each.format(**places) for each in arguments), *TINY)
    assert status == 1
    assert err.startswith(f"{named.format(**places)} is not allowed, as a command's own folder is removed when it ends")
    assert content(precious) == before
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_a_journal_that_names_a_folder_elsewhere_removes_nothing_there(command, precious, tmp_path):
    before = content(precious)
    assert command("-m", *TINY, "unfreeze=0,3")[0] == 0
    (sweep,) = (tmp_path / "mlruns" / "sweeps").iterdir()
    lines = [line | ({"launch": str(precious)} if line["kind"] == "open" else {}) for line in journal.read(sweep)]
    (sweep / journal.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, _, err = command("-m", *TINY, "unfreeze=0,3")
    assert status == 0, err
    assert content(precious) == before


@pytest.mark.parametrize(("main", "name"), [(room.main, "prune"), (sync.main, "sync")])
def test_a_folder_that_is_no_store_is_left_alone(precious, monkeypatch, capsys, main, name):
    before = content(precious)
    monkeypatch.setattr(sys, "argv", [name, "--store", str(precious)])
    assert main() == 1
    assert f"{precious} is no store of Thaw, as it has no {workspace.MARK}" in capsys.readouterr().err
    assert content(precious) == before


def test_a_folder_that_has_something_else_under_a_name_of_ours_becomes_no_store(command, precious):
    before = content(precious)
    status, _, err = command(*TINY, f"store={precious}")
    said = f"store={precious} has a runs/ that Thaw did not make; give an empty folder or a store"
    assert (status, err.splitlines()[-1]) == (1, said)
    assert content(precious) == before


def test_a_store_of_before_is_one_and_gets_its_mark(tmp_path):
    (tmp_path / "runs" / "a-0").mkdir(parents=True)
    (tmp_path / "runs" / "a-0" / "journal.jsonl").write_text("")
    assert workspace.existing(tmp_path) == tmp_path
    assert not (tmp_path / workspace.MARK).exists()  # who only reads may not be allowed to write
    workspace.opened(tmp_path)
    assert (tmp_path / workspace.MARK).exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_where_nothing_was_recorded_yet_that_is_said(tmp_path, make):
    make(tmp_path / "mlruns")
    with pytest.raises(ThawError, match="Nothing is recorded in .*mlruns yet; train something first: python train.py"):
        workspace.existing(tmp_path / "mlruns")


def test_only_a_folder_among_the_launches_of_a_store_is_removed(tmp_path):
    store, elsewhere = workspace.opened(tmp_path / "mlruns"), tmp_path / "launches" / "a"
    for folder in (store / "launches" / "a", store / "runs" / "a", elsewhere):
        folder.mkdir(parents=True)
        workspace.remove_launch(folder)
    (store / "launches" / "b").symlink_to(elsewhere)
    workspace.remove_launch(store / "launches" / "b")
    left = [folder.exists() for folder in (store / "launches" / "a", store / "runs" / "a", elsewhere)]
    assert left == [False, True, True]


def test_what_a_system_puts_into_folders_is_in_nobodys_way(command, tmp_path, monkeypatch, capsys):
    store = tmp_path / "mlruns"
    assert command(*TINY)[0] == 0
    for folder in ("runs", "stages", "activations", "sweeps", "launches"):
        (store / folder).mkdir(exist_ok=True)
        (store / folder / ".DS_Store").write_text("x")
    assert "finished before" in command(*TINY)[1]
    monkeypatch.setattr(sys, "argv", ["any", "--store", str(store)])
    assert sync.main() == 0
    assert room.main() == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_home_folder_is_found_where_the_shell_leaves_it_to_us(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workspace.place("~/runs") == tmp_path / "runs"
