"""What the addresses of a sweep hold; that MLflow shows it, `test_browser` sees."""

import json
import sqlite3
from urllib.parse import parse_qs, unquote

import pytest
from mlflow.exceptions import MlflowException

from thaw.tracking import pages
from thaw.tracking.pages import name_champion, sweep_pages
from thaw.tracking.store import connect
from thaw.workspace import Workspace


@pytest.fixture
def store(tmp_path):
    return connect(None, str(Workspace(tmp_path / "mlruns").create().root))


@pytest.fixture
def sweep(store):
    """A parent with two runs: the ids of the experiment and of the parent."""
    experiment = store.experiment("pets")
    parent = store.client.create_run(experiment, tags={"thaw.kind": "sweep", "swept.unfreeze": "0,20"}).info.run_id
    for depth, validation, test in (("0", 0.9, 0.5), ("20", 0.8, 0.7)):
        run = store.client.create_run(experiment, tags={"thaw.kind": "run", "mlflow.parentRunId": parent})
        store.client.log_param(run.info.run_id, "unfreeze", depth)
        store.client.log_metric(run.info.run_id, "kept_val_accuracy", validation)
        store.client.log_metric(run.info.run_id, "test_accuracy", test)
        store.client.set_terminated(run.info.run_id)
    return experiment, parent


def view(store, experiment, page):
    """The view behind an address."""
    query = parse_qs(page.partition("?")[2])
    assert query["workflowType"] == ["machine_learning"]
    tags = store.client.get_experiment(experiment).tags
    return json.loads(tags[f"mlflow.sharedViewState.{query['viewStateShareKey'][0]}"])


def test_each_address_has_a_view_and_nothing_that_would_hide_it(store, sweep):
    pages = sweep_pages(store, *sweep, ["unfreeze"])
    assert list(pages) == ["runs", "charts", "compare"]
    for page in pages.values():
        assert page.startswith(f"http://127.0.0.1:5000/#/experiments/{sweep[0]}/runs?")
        assert not {"searchFilter", "orderByKey", "orderByAsc"} & set(parse_qs(page.partition("?")[2]))
        assert view(store, sweep[0], page)["searchFilter"] == f"tags.mlflow.parentRunId = '{sweep[1]}'"
        assert view(store, sweep[0], page)["orderByKey"] == "metrics.`kept_val_accuracy`"


def test_the_table_has_what_was_swept_and_the_scores(store, sweep):
    table = view(store, sweep[0], sweep_pages(store, *sweep, ["unfreeze", "training.head.epochs"])["runs"])
    assert table["selectedColumns"] == [
        "metrics.`kept_val_accuracy`", "metrics.`test_accuracy`", "params.`unfreeze`",
        "params.`with.training.head.epochs`", "metrics.`training_seconds`",
    ]  # fmt: skip


def test_the_axes_end_with_validation_which_gives_the_color(store, sweep):
    (chart,) = view(store, sweep[0], sweep_pages(store, *sweep, ["unfreeze"])["compare"])["compareRunCharts"]
    assert (chart["selectedParams"], chart["selectedMetrics"]) == (["unfreeze"], ["test_accuracy", "kept_val_accuracy"])


def test_a_view_fits_into_a_tag(store, sweep):
    keys = [f"training.head.key{number}" for number in range(100)]
    assert list(sweep_pages(store, *sweep, keys)) == ["runs", "charts", "compare"]


def test_a_version_without_views_gets_the_sorted_table(store, sweep, monkeypatch):
    monkeypatch.setattr(pages, "__version__", "2.22.1")
    ((name, page),) = sweep_pages(store, *sweep, ["unfreeze"]).items()
    assert (name, parse_qs(page)["orderByKey"]) == ("runs", ["metrics.`kept_val_accuracy`"])
    assert f"parentRunId = '{sweep[1]}'" in unquote(page)


@pytest.mark.parametrize("error", [MlflowException("Permission denied"), ConnectionRefusedError(), sqlite3.Error()])
def test_who_cannot_save_a_view_gets_the_sorted_table(store, sweep, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(store.client, "set_experiment_tag", refuse)
    assert list(sweep_pages(store, *sweep, ["unfreeze"])) == ["runs"]


def test_the_champion_is_the_version_that_validated_best(store, sweep):
    client = store.client
    client.create_registered_model("pets-reader")
    runs = client.search_runs([sweep[0]], "tags.`thaw.kind` = 'run'")
    for run in runs:
        client.create_model_version("pets-reader", "file:///nowhere", run.info.run_id)
    name_champion(store, sweep[0])
    champion = client.get_model_version_by_alias("pets-reader", "champion")
    assert client.get_run(champion.run_id).data.params["unfreeze"] == "0"
