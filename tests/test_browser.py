"""The pages that Thaw makes and points to, in a real Chromium: do they open, and show what they should?"""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import ROOT, TINY

pytestmark = pytest.mark.browser
webdriver = pytest.importorskip("selenium.webdriver")
RUNS = [f"{backbone} unfreeze={depth}" for backbone in ("mobilenetv2", "effnetb0") for depth in (0, 2, 4)]
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WRONG = ("Something went wrong", "not found", "Error", "Failed")
WIDTH = 1400  # px of the window
# A row's cells lie in two containers, side by side.
ROWS = """
const rows = new Map();
for (const row of document.querySelectorAll('.ag-row[row-id]')) {
  const cells = rows.get(+row.getAttribute('row-index')) || {};
  for (const cell of row.querySelectorAll('.ag-cell[col-id]'))
    cells[cell.getAttribute('col-id')] = cell.innerText.trim().split('\\n').pop();
  rows.set(+row.getAttribute('row-index'), cells);
}
return [...rows.entries()].sort((one, other) => one[0] - other[0]).map(row => row[1]);
"""
COLUMNS = """
return [...document.querySelectorAll('.ag-header-cell[col-id]')]
  .map(cell => [cell.getBoundingClientRect(), cell.getAttribute('col-id')])
  .sort((one, other) => one[0].left - other[0].left).map(([box, name]) => [name, box.left, box.right]);
"""
CARDS = """
return [...document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')]
  .map(card => [card.innerText.trim().split('\\n')[0], card.querySelectorAll('.scatterlayer .trace').length,
                card.querySelectorAll('.barlayer .point').length]);
"""
AXES = """
const card = document.querySelector('[data-testid="experiment-view-compare-runs-card"]');
return [...card.querySelectorAll('text')].filter(each => /^[a-z_]+$/.test(each.textContent.trim()))
  .map(each => [each.getBoundingClientRect(), each.textContent.trim()]).filter(([box]) => box.width)
  .sort((one, other) => one[0].left - other[0].left).map(([box, name]) => name);
"""
OUTSIDE = """
const leaves = [...document.querySelectorAll('body *')].filter(each => !each.children.length && each.innerText?.trim());
return leaves.filter(each => !each.closest('[data-assistant-ui]') && !each.closest('pre, code') || each.closest('pre'))
  .filter(each => { const box = each.getBoundingClientRect();
                    return box.width && box.right > innerWidth && !each.closest('.ag-root, [data-assistant-ui]'); })
  .map(each => each.innerText.trim());
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A store with a tiny sweep, and the addresses that the command printed."""
    store = tmp_path_factory.mktemp("browser") / "mlruns"
    own = [each for each in TINY if not each.startswith(("backbone", "tracking.model"))]
    arguments = ["-m", "backbone=mobilenetv2,effnetb0", "unfreeze=0,2,4", *own, f"store={store}"]
    arguments.append("tracking.register_as=digits-reader")
    done = subprocess.run(
        [sys.executable, "train.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "not yet sent" not in done.stdout
    return store, dict(re.findall(r"^  (\w+): (http://\S+)$", done.stdout, re.M))


@pytest.fixture(scope="module")
def ui(sweep):
    """`make ui` on a free port: its addresses, by what they show."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "thaw.cli.ui", "--store", str(sweep[0]), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            printed = ""
            while "Ctrl-C" not in printed:
                printed += server.stdout.readline() or pytest.fail(f"make ui ended: {printed}")
            assert urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
            yield dict(re.findall(r"^  (\w+): (http://\S+)$", printed, re.M))
        finally:
            server.terminate()
            assert server.stdout.read() == "", "it is quiet once it has printed its addresses"


@pytest.fixture(scope="module")
def chromium():
    """A browser with an empty profile."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("there is no chromium or no chromedriver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for switch in (*SWITCHES, f"--window-size={WIDTH},1900", f"--user-data-dir={profile}"):
            options.add_argument(switch)
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        yield browser
        browser.quit()


def wait_for(holds, seconds=60):
    until, error = time.monotonic() + seconds, None
    while time.monotonic() < until:
        try:
            if holds():
                return
        except Exception as failed:
            error = failed
        time.sleep(0.3)
    raise AssertionError("it did not come to hold") from error


def text(browser):
    return browser.execute_script("return document.body.innerText")


def opened(browser, address, *words):
    """What the page shows once it shows these words."""
    browser.get("about:blank")
    browser.get(address)
    try:
        wait_for(lambda: all(word in text(browser) for word in words))
    except AssertionError:
        missing = [word for word in words if word not in text(browser)]
        pytest.fail(f"{address} lacks {missing}: {text(browser)}")
    shown = text(browser)
    assert not [word for word in WRONG if word in shown], shown
    return shown


def test_the_command_and_the_ui_print_the_same_addresses(sweep, ui):
    host = re.match(r"http://[^/]+", ui["runs"])[0]
    assert {name: address.replace("http://127.0.0.1:5000", host) for name, address in sweep[1].items()} == ui


@pytest.fixture(scope="module")
def recorded(sweep):
    """The runs of the sweep, best first, and their parent."""
    from thaw.tracking.store import connect

    client = connect(None, str(sweep[0])).client
    runs = client.search_runs(["1"], "tags.`thaw.kind` = 'run'")
    (parent,) = client.search_runs(["1"], "tags.`thaw.kind` = 'sweep'")
    return sorted(runs, key=lambda run: -run.data.metrics["kept_val_accuracy"]), parent


def shows(browser, script, holds):
    """What a script finds once that holds."""
    wait_for(lambda: holds(browser.execute_script(script)))
    return browser.execute_script(script)


def test_the_runs_open_as_a_table_of_choices_and_scores_best_first(ui, chromium, recorded):
    opened(chromium, ui["runs"], *RUNS, "6 matching runs")
    rows = shows(chromium, ROWS, lambda rows: len(rows) == 6 and "metrics.`test_accuracy`" in rows[0])
    seen = [(float(row["metrics.`kept_val_accuracy`"]), float(row["metrics.`test_accuracy`"])) for row in rows]
    keys = ("kept_val_accuracy", "test_accuracy")
    expected = [tuple(run.data.metrics[key] for key in keys) for run in recorded[0]]
    assert sorted(seen) == sorted(expected)
    assert [each[0] for each in seen] == [each[0] for each in expected]
    chosen = {(row["params.`backbone`"], row["params.`unfreeze`"]) for row in rows}
    assert chosen == {tuple(name.replace("unfreeze=", "").split()) for name in RUNS}
    by_name = {run.info.run_name: run.data.metrics["test_accuracy"] for run in recorded[0]}
    for row in rows:
        assert float(row["metrics.`test_accuracy`"]) == by_name[row["attributes.`Run Name`"]]
    columns = chromium.execute_script(COLUMNS)
    wanted = ["metrics.`kept_val_accuracy`", "metrics.`test_accuracy`", "params.`backbone`", "params.`unfreeze`"]
    assert [name for name, *_ in columns if name in wanted] == wanted
    assert all(0 < left < right < WIDTH for name, left, right in columns if name in wanted)
    assert not {"attributes.`Source`", "attributes.`Models`", "attributes.`Dataset`"} & {name for name, *_ in columns}


def test_the_charts_open_with_the_learning_curves_and_then_the_scores(ui, chromium):
    opened(chromium, ui["charts"], "Learning curves and accuracy", "(6)")
    titles = ["val_loss", "train_loss", "val_accuracy", "train_accuracy", "test_accuracy", "kept_val_accuracy"]
    cards = shows(chromium, CARDS, lambda cards: [each[0] for each in cards] == titles and cards[3][1] and cards[5][2])
    # MLflow draws a run's curve as one trace or, with its points, as two.
    assert all(lines in (6, 12) for _, lines, _ in cards[:4])
    assert [bars for _, _, bars in cards[4:]] == [6] * 2


def test_the_axes_are_what_was_swept_and_the_scores(ui, chromium):
    opened(chromium, ui["compare"], "Parallel Coordinates")
    shown = shows(chromium, AXES, lambda axes: "kept_val_accuracy" in axes)
    names = [each for each in dict.fromkeys(shown) if each not in ("effnetb0", "mobilenetv2")]
    assert names == ["backbone", "unfreeze", "test_accuracy", "kept_val_accuracy"]


def test_a_run_reads_well_by_itself(ui, chromium, recorded):
    best = recorded[0][0]
    host = ui["runs"].partition("#")[0]
    page = f"{host}#/experiments/1/runs/{best.info.run_id}?workflowType=machine_learning"
    shown = opened(chromium, page, "Test accuracy".lower(), "digits-reader", "Model training")
    for key in ("kept_val_accuracy", "test_accuracy"):
        assert f"{best.data.metrics[key]:.3f}" in shown
    assert "python train.py" in shown
    assert "digits (" in shown  # the dataset with its digest
    assert shown.index("\nseed") < shown.index("\nwith.")
    assert "\nNone\n" not in shown
    assert chromium.execute_script(OUTSIDE) == []


def test_the_sweep_tells_what_it_came_to(ui, chromium, recorded):
    best, parent = recorded[0][0], recorded[1]
    host = ui["runs"].partition("#")[0]
    page = f"{host}#/experiments/1/runs/{parent.info.run_id}?workflowType=machine_learning"
    shown = opened(chromium, page, "validation accuracy", "python", "kept_val_accuracy", "finished_runs")
    assert shown.count("effnetb0") >= 4  # in the command, and in a line for each depth
    assert f"{best.data.metrics['kept_val_accuracy']:.2f}"[:4] in shown
    assert "swept.unfreeze" in shown
    assert chromium.execute_script(OUTSIDE) == []


def test_models_are_registered_when_asked(ui, chromium):
    shown = opened(chromium, f"{ui['runs'].partition('#')[0]}#/models", "digits-reader")
    assert "Version 6" in shown


@pytest.fixture(scope="module")
def page(sweep, tmp_path_factory):
    """The report of the sweep."""
    folder = tmp_path_factory.mktemp("report")
    subprocess.run([sys.executable, "compare.py", "--store", str(sweep[0]), "--out", str(folder)], cwd=ROOT, check=True)
    return folder / "report.html"


def test_a_click_sorts_the_table_of_the_page(page, chromium):
    opened(chromium, page.as_uri(), *RUNS[0].split())
    column = "return [...document.querySelectorAll('#results tbody tr')].map(row => +row.cells[1].textContent)"
    heading = chromium.find_elements("css selector", "#results th button")[1]
    heading.click()
    assert chromium.execute_script(column) == [0, 0, 2, 2, 4, 4]
    arrow = "return getComputedStyle(document.querySelectorAll('#results th button')[arguments[0]], '::after').content"
    assert "▲" in chromium.execute_script(arrow, 1)
    assert "↕" in chromium.execute_script(arrow, 0)
    heading.click()
    assert chromium.execute_script(column) == [4, 4, 2, 2, 0, 0]
    cells = ["8 min 2 s", "76 s", "1 h 12 min", "20.5 k", "7.33 M", "1,764", "0.967 (0.938–0.982)", "xception", "–"]
    read = chromium.execute_script("return arguments[0].map(number)", cells)
    assert read == [482, 76, 4320, 20_500, 7_330_000, 1764, 0.967, None, None]


def test_the_page_fits_a_telephone(page, chromium, tmp_path):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        opened(chromium, page.as_uri(), "Results, best first")
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
        right = "return [...document.querySelectorAll('svg, table')].map(each => each.getBoundingClientRect().right)"
        assert max(chromium.execute_script(right)) <= 391
        picture = Path(tmp_path, "telephone.png")
        chromium.save_screenshot(str(picture))
        assert picture.stat().st_size > 10_000
    finally:
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_prints(page, chromium):
    chromium.get(page.as_uri())
    assert len(chromium.print_page()) > 10_000


def test_the_page_asks_for_nothing_from_outside(page, chromium):
    chromium.get(page.as_uri())
    asked = "return performance.getEntriesByType('resource').map(each => each.name)"
    assert [each for each in chromium.execute_script(asked) if not each.startswith("data:")] == []


def test_the_page_follows_a_dark_screen(page, chromium):
    media = "Emulation.setEmulatedMedia"
    chromium.execute_cdp_cmd(media, {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    try:
        opened(chromium, page.as_uri(), "Results, best first")
        colors = "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
        assert chromium.execute_script(colors) == ["rgb(22, 25, 29)", "rgb(230, 233, 236)"]
        assert "#1a1d21" not in chromium.execute_script("return document.querySelector('.charts').innerHTML")
    finally:
        chromium.execute_cdp_cmd(media, {"features": []})


def test_the_page_shows_data_classes_and_the_worst_images(page, chromium):
    shown = opened(chromium, page.as_uri(), "Data", "Commit", "precision")
    assert "40 train, 40 validation, 40 test images in 10 classes; digest " in shown
    loaded = "return [...document.querySelectorAll('#worst img')].filter(image => image.naturalWidth > 0).length"
    assert chromium.execute_script(loaded) == 12
    assert re.search(r"predicted \d, true \d, which it gave 0\.\d\d", shown)
