"""Tasks of Ray, on a running cluster or on one of this machine."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import Field

from thaw.config.values import Section
from thaw.errors import ThawError, one_line

PATIENCE = 20.0  # seconds for a run that is stopped to record that
FORWARDED_ENV = ("MLFLOW_", "AWS_", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL")  # prefixes of variables for the workers
logger = logging.getLogger(__name__)


class Settings(Section):
    """The keys of `hydra/launcher=ray`."""

    address: str | None = Field(pattern=r"^(auto|local|ray://.+|[^:/]+:\d+)$")
    num_cpus: int = Field(ge=1, le=1024)
    num_gpus: float | None = Field(ge=0, le=1024)
    memory: int | None = Field(ge=1, le=2**50)


def run(
    calls: list[Callable[[], dict | None]], folder: Path, address: str | None, **resources
) -> Iterator[tuple[int, dict | Exception | None]]:
    """Run calls as tasks.

    Args:
        calls: what to run.
        folder: unused; what a task prints goes to Ray's own files.
        address: of the cluster; None: the one on this machine, or a new one that ends with the command.
        resources: of each task: num_cpus, num_gpus, memory (bytes).

    Raises:
        ThawError: no cluster answers at the address.
    """
    import ray as engine

    try:
        engine.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ThawError(
            f"hydra.launcher.address={address}: Ray does not start ({one_line(error, 200)}); start it, or give null"
        ) from error
    needs = {key: value for key, value in resources.items() if value is not None}
    if not any(_fits(needs, node["Resources"]) for node in engine.nodes() if node["Alive"]):
        wanted = ", ".join(f"{key}={value}" for key, value in needs.items())
        logger.warning(f"No node of the Ray cluster has {wanted}; waiting for one (Ctrl-C ends it)")
    # A process for each task, as TensorFlow's threads and GPU memory stay with a process.
    task = engine.remote(max_calls=1, max_retries=0, **needs)(_call)
    # Sent with the call, since Ray logs the environment that it sets itself, passwords included.
    environment = {key: value for key, value in os.environ.items() if key.startswith(FORWARDED_ENV)}
    left = {task.remote(environment, call): number for number, call in enumerate(calls)}
    try:
        while left:
            (done,), _ = engine.wait(list(left), num_returns=1)
            number = left.pop(done)
            try:
                yield number, engine.get(done)
            except engine.exceptions.RayTaskError as error:
                yield number, RuntimeError(str(error).strip().splitlines()[-1])
            except engine.exceptions.RayError as error:
                yield number, RuntimeError(str(error).partition(".")[0])
    finally:
        for each in left:
            engine.cancel(each)
        if left:
            engine.wait(list(left), num_returns=len(left), timeout=PATIENCE)
        engine.shutdown()


def _fits(needs: dict[str, float], has: dict[str, float]) -> bool:
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # in Ray's descriptions of nodes
    return all(has.get(names[key], 0) >= value for key, value in needs.items())


def _call(environment: dict[str, str], call: Callable[[], dict | None]) -> dict | None:
    os.environ.update(environment)
    return call()
