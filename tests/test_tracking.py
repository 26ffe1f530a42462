import contextlib
import errno
import os
import shlex
import sqlite3
import subprocess
import sys

import pytest
from mlflow.store.tracking import sqlalchemy_store
from sqlalchemy import Engine, event

from thaw import provenance
from thaw.config.overrides import command_line
from thaw.errors import ThawError, redact
from thaw.tracking import sqlite
from thaw.tracking.markdown import code_block
from thaw.tracking.store import connect
from thaw.workspace import Workspace


@pytest.mark.parametrize("uri", ["nonsense", "ftp://host/x", "/some/folder", "sqlite:/half"])
def test_a_malformed_address_is_refused(uri, tmp_path):
    with pytest.raises(ThawError, match=r"is no tracking store; give sqlite:///FILE"):
        connect(uri, str(tmp_path))


@pytest.mark.parametrize("uri", ["http://ann:secret@127.0.0.1:9", "postgresql://ann:secret@127.0.0.1:9/runs"])
def test_a_store_that_is_away_is_known_to_be_so(tmp_path, uri):
    store = connect(uri, str(tmp_path))
    assert store.unreachable == "nothing listens there"
    assert store.name == uri.replace("ann:secret", "***")


def test_a_database_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(ThawError, match=r"failed .*unable to open database file.*; fix it or give another"):
        connect(f"sqlite:///{tmp_path}", str(tmp_path))


def test_a_relative_database_is_the_same_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = connect("sqlite:///a.db", str(tmp_path / "mlruns"))
    assert store.name == f"sqlite:///{tmp_path / 'a.db'}"


def test_a_password_with_a_slash_stays_hidden(tmp_path):
    store = connect("postgresql://ann:s3cret/x@127.0.0.1:9/runs", str(tmp_path))
    assert "s3cret" not in f"{store.name} {store.unreachable}"


def test_an_experiment_that_was_deleted_is_refused(tmp_path):
    store = connect(None, str(Workspace(tmp_path).create().root))
    store.client.delete_experiment(store.experiment("pets"))
    with pytest.raises(ThawError, match="The MLflow experiment pets is deleted; restore it"):
        connect(None, str(tmp_path), "pets")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://ann:p@ss/w0rd@host/db", "postgresql://***@host/db"),
        ("tracking.uri=https://token@host x", "tracking.uri=https://***@host x"),
        ("http://host/a@b", "http://host/a@b"),
        ("postgresql://db/mlflow?user=ann&password=s3cret", "postgresql://db/mlflow?user=***&password=***"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
        ("postgresql://ann:two words@host/db", "postgresql://***@host/db"),
        ("http://host:5000 is away, ask me@x.org", "http://host:5000 is away, ask me@x.org"),
        ("http://a:b c@one and http://d:e f@two", "http://***@one and http://***@two"),
        ("postgresql://db/x?sslpassword=s3cret&sslmode=require", "postgresql://db/x?sslpassword=***&sslmode=require"),
        ("https://h/a?access_token=s3&api_key=s3&x=1", "https://h/a?access_token=***&api_key=***&x=1"),
        ("https://h/a.zip?sv=2024&sig=s3%2B", "https://h/a.zip?sv=2024&sig=***"),
        (
            "https://h/a?X-Amz-Credential=s3/x&X-Amz-Signature=s3&X-Amz-Security-Token=s3",
            "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Security-Token=***",
        ),
        ("https://h/a?AWSAccessKeyId=s3&Signature=s3", "https://h/a?AWSAccessKeyId=***&Signature=***"),
        ("http://host:8080/a@b/c.zip", "http://host:8080/a@b/c.zip"),
        ("https://host:443/p?q=a@b", "https://host:443/p?q=a@b"),
        ("http://[::1]:5000 is away, ask me@x.org", "http://[::1]:5000 is away, ask me@x.org"),
        ("postgresql://ann:12345@host/db", "postgresql://***@host/db"),
        ("https://h/a?key=AIza&auth=s3&pass=s3&sas=s3", "https://h/a?key=***&auth=***&pass=***&sas=***"),
        ("give --against KEY=VALUE", "give --against KEY=VALUE"),
        ("https://h/a?credentials=s3&sslpassphrase=s3", "https://h/a?credentials=***&sslpassphrase=***"),
        ("mssql://h/?odbc_connect=DRIVER;PWD=s3", "mssql://h/?odbc_connect=***"),
        ("host=db password='two words' x", "host=db password=*** x"),
        ("dataset.url=https://h/a.zip training.batch_size=8", "dataset.url=https://h/a.zip training.batch_size=8"),
    ],
)
def test_credentials_are_left_out(text, clean):
    assert redact(text) == clean


def test_long_texts_are_redacted_in_no_time():
    text = ".a" * 50_000
    assert redact(text) == text


@pytest.mark.parametrize(
    "uri",
    ["sqlite://", "sqlite:///", "sqlite+pysqlite://", "sqlite:///:memory:", "sqlite://user@h/x.db", "sqlite://a:b:c/x"],
)
def test_an_address_of_sqlite_that_names_no_file_is_refused(tmp_path, uri):
    with pytest.raises(ThawError, match="is no tracking store; give sqlite:///FILE"):
        connect(uri, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_command_is_recorded_without_credentials():
    swept = command_line(["-m", "unfreeze=0,20", "tracking.uri=http://a:b@host"])
    assert swept == "python train.py -m unfreeze=0,20 'tracking.uri=http://***@host'"
    alone = command_line(["unfreeze=20", "tracking.uri=http://a:b@host"])
    assert alone == "python train.py unfreeze=20 'tracking.uri=http://***@host'"


def test_the_commit_and_the_state_of_the_tree_are_known(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert provenance.git_state(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    commit, clean = provenance.git_state(tmp_path)
    assert (len(commit), clean) == (40, True)
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path) == (commit, False)


@pytest.mark.slow
def test_eight_processes_may_meet_a_fresh_database(tmp_path):
    program = (
        "import sys, pathlib; from thaw.tracking.store import connect; from thaw.workspace import Workspace\n"
        "root = Workspace(pathlib.Path(sys.argv[1])).create().root\n"
        "print(connect(None, root).experiment('pets'))"
    )
    temporaries = [tmp_path / f"tmp{number}" for number in range(8)]  # as those of users of a cluster differ
    for each in temporaries:
        each.mkdir()
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        for temporary in temporaries
    ]
    answers = [start.communicate(timeout=300)[0].strip() for start in starts]
    assert [start.returncode for start in starts] == [0] * 8
    assert set(answers) == {"1"}


def test_a_command_in_a_description_is_short_lines_that_a_shell_takes_as_one():
    command = "python train.py -m " + " ".join(f"'group{number}.key=some value {number}'" for number in range(20))
    fence, *lines, end = code_block(command).splitlines()
    assert (fence, end) == ("```", "```")
    assert max(map(len, lines)) <= 64
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)


KILLED_AT = """
import os, pathlib, sys
import sqlalchemy
from thaw.tracking.store import connect
from thaw.workspace import MARKER, Workspace

root = pathlib.Path(sys.argv[1])
real = os.replace
for moment in ("statement 1", "statement 40", "statement 200", "rename"):
    store = Workspace(root / moment.replace(" ", "")).create().root
    child = os.fork()
    if not child:
        done = 0

        def count(*_):
            global done
            done += 1
            if moment == f"statement {done}":
                os._exit(9)

        def place(source, target):
            if moment == "rename" and str(target).endswith("mlflow.db"):
                os._exit(9)
            real(source, target)

        os.replace = place
        sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", count)
        connect(None, store)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9, moment
    assert connect(None, store).experiment("pets") == "1", moment
    left = {each.name for each in store.iterdir()}
    assert left <= {"mlflow.db", "mlflow.db.lock", MARKER}, left
"""


def test_a_database_has_its_name_only_once_every_statement_is_done(tmp_path, creates_tables):
    """So that a kill at whichever leaves nothing that could be taken for one."""
    store, statements = Workspace(tmp_path / "store").create().root, []

    def note(*_):
        statements.append((store / "mlflow.db").exists())

    event.listen(Engine, "before_cursor_execute", note)
    try:
        connect(None, str(store))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    made = statements.index(True) if True in statements else len(statements)
    assert made > 100
    assert not any(statements[:made])


@pytest.mark.slow
def test_a_kill_at_any_moment_while_the_database_is_made_costs_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED_AT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def half_made(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE secrets (id INTEGER)")


@pytest.mark.parametrize("spoil", [half_made, lambda path: path.write_bytes(b"")])
def test_a_database_that_was_left_half_made_is_made_anew(tmp_path, spoil, caplog):
    spoil(Workspace(tmp_path).create().root / "mlflow.db")
    assert connect(None, str(tmp_path)).experiment("pets") == "1"
    assert "was incomplete, as a command died while creating it" in caplog.text
    assert (tmp_path / "mlflow.db.half-made").exists()


def test_another_database_is_never_set_aside(tmp_path):
    half_made(tmp_path / "mine.db")
    with pytest.raises(ThawError, match="failed"):
        connect(f"sqlite:///{tmp_path / 'mine.db'}", str(tmp_path))
    assert not list(tmp_path.glob("*.half-made"))


def test_a_full_disk_while_the_database_is_made_is_said_to_be_one(tmp_path, monkeypatch, creates_tables):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    Workspace(tmp_path).create()
    with monkeypatch.context() as patch:
        patch.setattr(sqlalchemy_store, "SqlAlchemyStore", fill)
        with pytest.raises(ThawError, match="The disk is full; free some space"):
            connect(None, str(tmp_path))
    assert connect(None, str(tmp_path)).experiment("pets") == "1"


def test_a_database_that_is_there_is_opened_without_its_lock(tmp_path, monkeypatch):
    """Who may only read a store cannot take it."""
    connect(None, str(Workspace(tmp_path).create().root))
    monkeypatch.setattr(sqlite, "FileLock", lambda *_, **__: pytest.fail("locked"))
    assert connect(None, str(tmp_path)).unreachable is None


def test_a_database_in_no_folder_is_refused_and_makes_none(tmp_path):
    with pytest.raises(ThawError, match=r"failed \(there is no folder .*/nowhere\); fix it or give another"):
        connect(f"sqlite:///{tmp_path / 'nowhere' / 'a.db'}", str(tmp_path))
    assert not (tmp_path / "nowhere").exists()
