"""Nothing is removed but what Thaw made: the folders of commands, and what lies in a store that bears its mark."""

import argparse
import json
import sys

import pytest
from conftest import TINY

from thaw import workspace
from thaw.cli import command, prune, sync
from thaw.errors import ThawError
from thaw.tracking import journal
from thaw.workspace import Workspace


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
    assert err.startswith(
        f"{named.format(**places)} is not allowed, as the output folder is removed when a command ends"
    )
    assert content(precious) == before
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


@pytest.mark.slow
def test_a_journal_that_names_a_folder_elsewhere_removes_nothing_there(command, precious, tmp_path):
    before = content(precious)
    assert command("-m", *TINY, "unfreeze=0,3")[0] == 0
    (sweep,) = (tmp_path / "mlruns" / "sweeps").iterdir()
    lines = [line | ({"launch": str(precious)} if line["kind"] == "open" else {}) for line in journal.read(sweep)]
    (sweep / journal.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, _, err = command("-m", *TINY, "unfreeze=0,3")
    assert status == 0, err
    assert content(precious) == before


@pytest.mark.parametrize(("main", "name"), [(prune.main, "prune"), (sync.main, "sync")])
def test_a_folder_that_is_no_store_is_left_alone(precious, monkeypatch, capsys, main, name):
    before = content(precious)
    monkeypatch.setattr(sys, "argv", [name, "--store", str(precious)])
    assert main() == 1
    assert f"{precious} is not a Thaw store, as it has no {workspace.MARKER}" in capsys.readouterr().err
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
    assert Workspace(tmp_path).open().root == tmp_path
    assert not (tmp_path / workspace.MARKER).exists()  # who only reads may not be allowed to write
    Workspace(tmp_path).create()
    assert (tmp_path / workspace.MARKER).exists()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_where_nothing_was_recorded_yet_that_is_said(tmp_path, make):
    make(tmp_path / "mlruns")
    with pytest.raises(ThawError, match="Nothing is recorded in .*mlruns yet; train something first: python train.py"):
        Workspace(tmp_path / "mlruns").open()


def test_only_a_folder_among_the_launches_of_a_store_is_removed(tmp_path):
    store, elsewhere = Workspace(tmp_path / "mlruns").create().root, tmp_path / "launches" / "a"
    for folder in (store / "launches" / "a", store / "runs" / "a", elsewhere):
        folder.mkdir(parents=True)
        Workspace(store).remove_launch(folder)
    (store / "launches" / "b").symlink_to(elsewhere)
    Workspace(store).remove_launch(store / "launches" / "b")
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
    assert prune.main() == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_home_folder_is_found_where_the_shell_leaves_it_to_us(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = argparse.ArgumentParser()
    command.add_store(parser)
    assert parser.parse_args(["--store=~/runs"]).store == tmp_path / "runs"
