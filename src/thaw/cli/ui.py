"""`make ui`: MLflow's UI on loopback, and the addresses of the newest sweeps."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

from thaw.cli import command
from thaw.cli.terminal import console, link

if TYPE_CHECKING:
    from thaw.tracking.store import Store

NEWEST = 3  # sweeps whose addresses are printed
PATIENCE = 60.0  # seconds for the server to answer


def main() -> int:
    """Start MLflow's server, print the addresses once it answers, and stay quiet until it ends."""
    parser = argparse.ArgumentParser(prog="make ui", description=__doc__)
    command.add_tracking(parser)
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    if not 0 < arguments.port < 65536:
        parser.error(f"--port {arguments.port} is not a port; give one from 1 to 65535")
    return command.run(lambda: _show(arguments))


def _show(arguments: argparse.Namespace) -> int:
    store = command.connect(arguments.uri, arguments.store)
    if store is None:
        return 1
    from thaw.tracking.sync import send_pending

    send_pending(store, arguments.store)
    if not store.artifacts:  # a server has pages of its own
        _print_addresses(store, store.host)
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", arguments.port))
        except OSError as error:
            print(f"Port {arguments.port} cannot be used ({error.strerror}); give another with PORT=", file=sys.stderr)
            return 1
    host = f"http://127.0.0.1:{arguments.port}"
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # two processes instead of fourteen
        "MLFLOW_BACKEND_STORE_URI": store.uri,  # may hold a password, which arguments would show
    }
    serve = [sys.executable, "-m", "mlflow", "server"]
    serve += ["--default-artifact-root", store.artifacts, "--host", "127.0.0.1", "--port", str(arguments.port)]
    serve += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    with tempfile.TemporaryFile("w+") as printed:
        server = subprocess.Popen(serve, stdout=printed, stderr=printed, env=environment)
        signal.signal(signal.SIGTERM, lambda *_: server.terminate())
        try:
            if not _answers(server, host):
                printed.seek(0)
                print(f"MLflow does not start:\n{printed.read()[-2000:]}", file=sys.stderr)
                return 1
            _print_addresses(store, host)
            print("Ctrl-C ends it.", flush=True)
            return max(0, server.wait())
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait()


def _answers(server: subprocess.Popen, host: str) -> bool:
    """Whether the server answers in time, before it ends."""
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            with urlopen(f"{host}/health", timeout=5):
                return True
        except (URLError, OSError):
            time.sleep(0.2)
    return False


def _print_addresses(store: "Store", host: str) -> None:
    from thaw.tracking.store import UI

    shown = console()
    for title, pages in newest_sweeps(store):
        shown.print(title)
        for what, page in pages.items():
            shown.print(link(shown, f"  {what}", page.replace(UI, host)))
    shown.print(f"All experiments: {host}/#/experiments")


def newest_sweeps(store: "Store") -> list[tuple[str, dict[str, str]]]:
    """The newest sweeps, each with its title and the addresses of its pages."""
    from thaw.tracking.names import NEWEST_FIRST, SWEEPS
    from thaw.tracking.pages import sweep_pages, swept_keys

    experiments = [each.experiment_id for each in store.client.search_experiments()]
    found = store.client.search_runs(experiments, SWEEPS, order_by=NEWEST_FIRST, max_results=NEWEST)
    return [
        (
            f"{run.info.run_name} ({run.info.status})",
            sweep_pages(store, run.info.experiment_id, run.info.run_id, swept_keys(run)),
        )
        for run in found
    ]


if __name__ == "__main__":
    sys.exit(main())
