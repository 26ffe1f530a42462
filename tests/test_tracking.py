import subprocess
import sys

import pytest

from thaw import tracking
from thaw.errors import ThawError, redact


@pytest.fixture
def record(tmp_path):
    store = tracking.connect(None, str(tmp_path / "mlruns"))
    return tracking.Record(store, store.experiment("pets"), "vgg16", None, {"thaw.kind": "run"}, tmp_path / "record")


def test_a_run_that_ends_well_is_finished(record):
    with record:
        record.params({"backbone": "vgg16", "unfreeze": 4})
        record.metrics({"loss": 1.5, "accuracy": 0.5}, step=0)
        record.metrics({"loss": 1.0, "accuracy": 0.75}, step=1)
    run = record.client.get_run(record.run)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"backbone": "vgg16", "unfreeze": "4"}
    assert [point.value for point in record.client.get_metric_history(record.run, "loss")] == [1.5, 1.0]


def test_a_run_that_fails_is_failed_with_the_reason(record):
    with pytest.raises(ThawError), record:
        raise ThawError("no such folder; give another")
    run = record.client.get_run(record.run)
    assert run.info.status == "FAILED"
    assert run.data.tags["thaw.error"] == "no such folder; give another"


def test_an_interrupted_run_is_killed(record):
    with pytest.raises(KeyboardInterrupt), record:
        raise KeyboardInterrupt
    assert record.client.get_run(record.run).info.status == "KILLED"


def test_long_and_many_params_are_recorded(record):
    record.params({f"p{i}": "x" * 100 for i in range(250)})
    assert len(record.client.get_run(record.run).data.params) == 250


def test_children_nest_under_their_parent(record, tmp_path):
    child = tracking.Record(record.store, record.experiment, "child", record.run, {}, tmp_path / "child")
    assert child.client.get_run(child.run).data.tags["mlflow.parentRunId"] == record.run


@pytest.mark.parametrize("uri", ["nonsense", "ftp://host/x", "/some/folder", "sqlite:/half"])
def test_a_malformed_address_is_refused(uri, tmp_path):
    with pytest.raises(ThawError, match=r"is no tracking store; give sqlite:///FILE"):
        tracking.connect(uri, str(tmp_path))


def test_an_address_that_does_not_answer_is_refused_without_its_password(tmp_path):
    with pytest.raises(ThawError, match=r"does not answer") as refusal:
        tracking.connect("http://ann:secret@127.0.0.1:9", str(tmp_path))
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://ann:p@ss/w0rd@host/db", "postgresql://***@host/db"),
        ("tracking.uri=https://token@host x", "tracking.uri=https://***@host x"),
        ("http://host/a@b", "http://host/a@b"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_credentials_are_left_out(text, clean):
    assert redact(text) == clean


def test_the_command_is_recorded_without_credentials(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "-m", "unfreeze=0,20", "tracking.uri=http://a:b@host"])
    assert tracking.command() == "python train.py -m unfreeze=0,20 'tracking.uri=http://***@host'"


def test_the_commit_and_the_state_of_the_tree_are_known(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert tracking.git_tags(tmp_path) == {}
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    assert tracking.git_tags(tmp_path)["thaw.git_clean"] == "true"
    assert len(tracking.git_tags(tmp_path)["mlflow.source.git.commit"]) == 40
    (tmp_path / "a").write_text("2")
    assert tracking.git_tags(tmp_path)["thaw.git_clean"] == "false"


def test_eight_processes_may_meet_a_fresh_database(tmp_path):
    program = (
        "import sys; from thaw import tracking\n"
        "store = tracking.connect(None, sys.argv[1]); print(store.experiment('pets'))"
    )
    starts = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    answers = [start.communicate(timeout=300)[0].strip() for start in starts]
    assert [start.returncode for start in starts] == [0] * 8
    assert set(answers) == {"1"}


def test_pages_are_those_that_the_ui_understands(record):
    page = record.store.page("1", "abc", charts=True)
    assert page.startswith("http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&searchFilter=tags")
    assert page.endswith("&orderByKey=metrics.%60test_accuracy%60&orderByAsc=false&compareRunsMode=CHART")
