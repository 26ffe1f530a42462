"""Pages of MLflow's UI that open on a sweep's results: its table, its learning curves and its parallel coordinates.

MLflow stores a view as JSON in a tag of the experiment, `mlflow.sharedViewState.KEY`, and opens it at an address with
that key. The address must not have filters or an order of its own: MLflow would then ignore the view.
"""

import json
import sqlite3
from urllib.parse import quote

from mlflow import __version__
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from thaw.tracking.names import COST, DETAIL, PARENT, SHORT, SWEPT, TEST, VALIDATION
from thaw.tracking.store import MODE, Store

OLDEST = 3  # major version of MLflow that has these views
CURVES = ("val_loss", "train_loss", "val_accuracy", "train_accuracy")
DRAWN = 50  # runs in a chart
OTHERS = "Model metrics"  # MLflow's name of the section for everything without a chart here
WIDTHS = {"attributes.`Run Name`": 200, "runDateAndNestInfo": 60, "duration": 80}


def sweep_pages(store: Store, experiment: str, parent: str, varied: list[str]) -> dict[str, str]:
    """The addresses that show a sweep: runs best first, learning curves side by side, choices against results.

    Args:
        store: that has it, and gets the views.
        experiment: its id.
        parent: the id of the sweep's run.
        varied: the swept keys.
    """
    if store.unreachable or not _knows_views(store):
        return {"runs": sorted_table(store, experiment, parent)}
    address = f"{store.host}/#/experiments/{experiment}/runs?{MODE}"
    params = [_param(key) for key in varied if _param(key)]
    found = {}
    for name, chart_mode, view in (
        ("runs", "", _table(parent, params)),
        ("charts", "&compareRunsMode=CHART", {**_table(parent, params), **_curves()}),
        ("compare", "&compareRunsMode=CHART", {**_table(parent, params), **_parallel(params)}),
    ):
        key = f"{parent[:8]}-{name}"
        try:
            store.client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{key}", json.dumps(view))
        except (MlflowException, OSError, sqlite3.Error):  # no permission, a hundred keys, or the server is gone
            return {"runs": sorted_table(store, experiment, parent)}
        found[name] = f"{address}{chart_mode}&viewStateShareKey={key}"
    return found


def sorted_table(store: Store, experiment: str, parent: str) -> str:
    """The address of a sweep's runs, flat and best first, for versions of MLflow without such views."""
    within, order = (quote(each, safe="") for each in (_within(parent), _metric(VALIDATION)))
    path = f"{store.host}/#/experiments/{experiment}/runs"
    return f"{path}?{MODE}&searchFilter={within}&orderByKey={order}&orderByAsc=false"


def swept_keys(run: Run) -> list[str]:
    """The swept keys of a recorded sweep."""
    return [key.removeprefix(SWEPT) for key in run.data.tags if key.startswith(SWEPT)]


def name_champion(store: Store, experiment: str) -> None:
    """Set the alias `champion` of each registered model to the version whose run has the best validation accuracy."""
    client = store.client
    models = client.search_registered_models()
    if not models:
        return
    finished = client.search_runs([experiment], "attributes.status = 'FINISHED'", max_results=1000)
    scores = {run.info.run_id: run.data.metrics.get(VALIDATION, -1.0) for run in finished}
    for model in models:
        versions = [each for each in client.search_model_versions(f"name = '{model.name}'") if each.run_id in scores]
        if versions:
            best = max(versions, key=lambda version: scores[version.run_id])
            client.set_registered_model_alias(model.name, "champion", best.version)


def _knows_views(store: Store) -> bool:
    version = __version__
    if store.uri.startswith("http"):
        try:
            version = http_request(get_default_host_creds(store.uri), "/version", "GET", timeout=5).text
        except Exception:  # then the sorted table, which works everywhere
            return False
    return version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= OLDEST


def _param(key: str) -> str:
    """The parameter that a swept key is recorded as; empty if it is not recorded."""
    if key in (*SHORT, "seed"):
        return key
    return f"{DETAIL}{key}" if "." in key else ""


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _within(parent: str) -> str:
    return f"tags.{PARENT} = '{parent}'"


def _table(parent: str, params: list[str]) -> dict:
    """The runs of a sweep, best first; columns are scores and swept keys."""
    columns = [_metric(VALIDATION), _metric(TEST), *(f"params.`{param}`" for param in params), _metric(COST)]
    return {
        "searchFilter": _within(parent),
        "orderByKey": _metric(VALIDATION),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": ["0", "attributes.`Run Name`", *columns, "runDateAndNestInfo", "duration"],
        "columnWidths": {**WIDTHS, **{column: 130 if column.startswith("metrics") else 100 for column in columns}},
        "runsHiddenMode": "SHOW_ALL",
    }


def _curves() -> dict:
    """Learning curves of validation and training, then scores."""
    lines = [
        {
            **_chart(f"curve-{name}", "LINE"), "metricKey": name, "selectedMetricKeys": [name], "lineSmoothness": 0,
            "xAxisScaleType": "linear", "scaleType": "linear", "xAxisKey": "step", "selectedXAxisMetricKey": "",
            "yAxisKey": "metric", "yAxisExpressions": [], "ignoreOutliers": False, "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True,
        }
        for name in CURVES
    ]  # fmt: skip
    bars = [{**_chart(f"score-{name}", "BAR"), "metricKey": name} for name in (TEST, VALIDATION)]
    return _charts("Learning curves and accuracy", [*lines, *bars], columns=2, height=230)


def _parallel(params: list[str]) -> dict:
    """Parallel coordinates of swept keys and scores; the last axis, validation, gives the color."""
    axes = {"selectedParams": params, "selectedMetrics": [TEST, VALIDATION], "showAllRuns": False}
    return _charts("Choices and results", [{**_chart("axes", "PARALLEL"), **axes}], 1, 370)


def _chart(name: str, kind: str) -> dict:
    return {
        "uuid": f"thaw-{name}", "type": kind, "runsCountToCompare": DRAWN, "metricSectionId": "thaw", "deleted": False,
        "isGenerated": False,
    }  # fmt: skip


def _charts(title: str, charts: list[dict], columns: int, height: int) -> dict:
    section = {"isReordered": True, "deleted": False}
    return {
        "runListHidden": True,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": False,
        "useGroupedValuesInCharts": True,
        "groupBy": None,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": "thaw", "name": title, "display": True, "isGenerated": False, "columns": columns,
             "cardHeight": height, **section},
            {"uuid": "thaw-others", "name": OTHERS, "display": False, "isGenerated": True, **section},
        ],
    }  # fmt: skip
