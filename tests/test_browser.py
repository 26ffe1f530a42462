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
    assert "wait to be sent" not in done.stdout
    return store, dict(re.findall(r"^  (\w+): (http://\S+)$", done.stdout, re.M))


@pytest.fixture(scope="module")
def ui(sweep):
    """`make ui` on a free port: its addresses, by what they show."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "thaw.ui", "--store", str(sweep[0]), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            printed = ""
            while len(re.findall(r"^  (?:runs|charts|compare): ", printed, re.M)) < 3:
                printed += server.stdout.readline() or pytest.fail(f"make ui ended: {printed}")
            wait_for(lambda: urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
            yield dict(re.findall(r"^  (\w+): (http://\S+)$", printed, re.M))
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def chromium():
    """A browser with an empty profile."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("there is no chromium or no chromedriver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for switch in (*SWITCHES, "--window-size=1500,1200", f"--user-data-dir={profile}"):
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


def test_the_runs_of_the_sweep_are_listed_best_first(ui, chromium):
    shown = opened(chromium, ui["runs"], *RUNS, "test_accuracy")
    assert "6 matching runs" in shown


def test_the_charts_show_every_run(ui, chromium):
    shown = opened(chromium, ui["charts"], *RUNS, "val_accuracy", "test_accuracy")
    assert "6 matching runs" in shown


def test_the_compare_page_draws_what_varies_against_the_accuracy(ui, chromium):
    opened(chromium, ui["compare"], *RUNS, "Parallel Coordinates Plot")
    axes = "return [...document.querySelectorAll('.js-plotly-plot .axis-title')].map(each => each.textContent)"
    wait_for(lambda: chromium.execute_script(axes))
    shown = chromium.execute_script(axes)
    assert shown[:2] == ["backbone", "unfreeze"]
    assert shown[-1] == "val_accuracy"


def test_a_run_reads_well_by_itself(sweep, ui, chromium):
    from thaw import tracking

    client = tracking.connect(None, str(sweep[0])).client
    best = client.search_runs(["1"], "tags.`thaw.kind` = 'run'", order_by=["metrics.test_accuracy DESC"])[0]
    host = ui["runs"].partition("#")[0]
    shown = opened(chromium, f"{host}#/experiments/1/runs/{best.info.run_id}", "Test accuracy", "digits-reader")
    assert f"{best.data.metrics['test_accuracy']:.3f}" in shown
    assert "python train.py" in shown
    assert "digits (" in shown  # the dataset with its digest
    assert shown.index("\nseed") < shown.index("\nwith.")


def test_the_sweep_tells_what_it_came_to(sweep, ui, chromium):
    from thaw import tracking

    (parent,) = tracking.connect(None, str(sweep[0])).client.search_runs(["1"], "tags.`thaw.kind` = 'sweep'")
    host = ui["runs"].partition("#")[0]
    shown = opened(chromium, f"{host}#/experiments/1/runs/{parent.info.run_id}", "validation accuracy", "python")
    assert shown.count("effnetb0") >= 4  # in the command, and in a line for each depth


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
    heading.click()
    assert chromium.execute_script(column) == [4, 4, 2, 2, 0, 0]


def test_the_page_fits_a_telephone(page, chromium, tmp_path):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        opened(chromium, page.as_uri(), "Results, best first")
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= 390
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
