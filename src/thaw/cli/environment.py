"""The process environment: variables and log levels to set before importing TensorFlow or MLflow, and signals."""

import faulthandler
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from thaw import runtime

DEFAULTS = {
    "HYDRA_FULL_ERROR": "1",  # Hydra lets exceptions through, to be explained here
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # An unreachable server is reported in seconds; MLflow's own patience is four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a journal is sent again as a whole
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


def prepare() -> None:
    """Set the environment and the log levels of libraries; variables that are set stay."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the password of an address
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # an unreachable server is reported once
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # where native code crashed
    try:
        Path.home()
    except RuntimeError:  # a user without a name, as in a container; MLflow cannot be imported without a home folder
        home = Path(tempfile.gettempdir(), f"thaw-{os.getuid()}")
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home if home.stat().st_uid == os.getuid() else tempfile.mkdtemp())


def interruptible() -> None:
    """Have SIGTERM, which says that a node is taken away, interrupt as Ctrl-C does.

    Sets `runtime.interrupted`, as TensorFlow swallows exceptions in Python code that it calls itself; while that is
    polled, only a second signal raises at once.
    """

    def interrupt(number, frame):
        is_second = runtime.interrupted.is_set()
        runtime.interrupted.set()
        if is_second or not runtime.is_polled():
            raise KeyboardInterrupt

    runtime.interrupted.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
