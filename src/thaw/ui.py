"""`make ui`: MLflow's own UI on loopback, and the addresses that show what one wants."""

import argparse
import os
import sys
from pathlib import Path

from thaw import delivery, tracking
from thaw.errors import ThawError

NEWEST = 3  # sweeps whose addresses are printed


def main() -> None:
    """Print the addresses and become `mlflow ui`."""
    parser = argparse.ArgumentParser(prog="make ui", description=__doc__)
    parser.add_argument("--store", default="mlruns", help="folder that runs leave their files in")
    parser.add_argument("--port", type=int, default=5000)
    arguments = parser.parse_args()
    try:
        store = tracking.connect(os.environ.get("MLFLOW_TRACKING_URI"), arguments.store)
    except ThawError as error:
        sys.exit(str(error))
    delivery.sync(store, Path(arguments.store))
    host = f"http://127.0.0.1:{arguments.port}"
    print(f"All experiments:\n  {host}/#/experiments")
    for title, pages in newest_sweeps(store):
        print(f"\n{title}")
        for what, page in pages.items():
            print(f"  {what}: {page.replace(tracking.UI, host)}")
    sys.stdout.flush()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # two processes in place of fourteen
    uri = ["--backend-store-uri", store.uri, "--default-artifact-root", store.artifacts or Path("mlruns").as_uri()]
    serve = ["server", *uri, "--host", "127.0.0.1", "--port", str(arguments.port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *serve])


def newest_sweeps(store: tracking.Store) -> list[tuple[str, dict[str, str]]]:
    """The newest sweeps, each with its title and the addresses of its runs and of their curves."""
    experiments = [each.experiment_id for each in store.client.search_experiments()]
    found = store.client.search_runs(
        experiments, "tags.`thaw.kind` = 'sweep'", order_by=["start_time DESC"], max_results=NEWEST
    )
    return [
        (f"{run.info.run_name} ({run.info.status})", store.pages(run.info.experiment_id, run.info.run_id))
        for run in found
    ]


if __name__ == "__main__":
    main()
