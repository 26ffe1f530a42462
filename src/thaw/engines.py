"""What trains several runs at once: processes of this machine, jobs of SLURM, tasks of Ray.

Each takes calls without arguments and yields, as each call ends, its number and what it returned, or the exception that
says how its process was lost; the others go on. Where this is given up half-way, what still runs is stopped.
"""

import contextlib
import multiprocessing.connection
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import cloudpickle

from thaw import runtime
from thaw.errors import ThawError

POLL = 2.0  # seconds between two looks at SLURM's files
ACCOUNTING = 5  # every so many looks, SLURM itself is asked
PATIENCE = 20.0  # seconds for a run that is stopped to say so in its record
HANDED_ON = ("MLFLOW_", "AWS_", "KERAS_HOME", "THAW_")  # of the environment, to the workers of a cluster

NEEDS = {"slurm": "submitit", "ray": "ray"}  # packages

Ends = Iterator[tuple[int, dict | Exception | None]]


def local(calls: list[Callable[[], dict | None]], folder: Path, n_jobs: int) -> Ends:
    """Processes of this machine, one after the other of the calls each; each has one of the GPUs, in turn.

    In the pools of joblib and of Python a process that dies takes all others with it; these stand for themselves.

    Args:
        calls: what to do.
        folder: not used; a process writes to this terminal.
        n_jobs: how many at a time; -1: as many as cores.
    """
    context, cards = multiprocessing.get_context("spawn"), gpus()
    places = list(range(min(len(calls), n_jobs if n_jobs > 0 else runtime.cores())))
    waiting = deque(enumerate(calls))
    idle: list[Connection] = []
    busy: dict[Connection, int] = {}
    processes: dict[Connection, tuple[BaseProcess, int]] = {}
    try:
        while waiting or busy:
            while waiting and (idle or places):
                if not idle:
                    place = places.pop(0)
                    here, there = context.Pipe()
                    card = {"CUDA_VISIBLE_DEVICES": cards[place % len(cards)]} if cards else {}
                    process = context.Process(target=_serve, args=(there, card), daemon=True)
                    process.start()
                    there.close()
                    processes[here] = process, place
                    idle.append(here)
                number, call = waiting.popleft()
                worker = idle.pop()
                busy[worker] = number
                with contextlib.suppress(OSError):  # it died while it was idle, which the wait below tells
                    worker.send_bytes(cloudpickle.dumps(call))
            for worker in multiprocessing.connection.wait(busy):
                number = busy.pop(worker)
                try:
                    end = worker.recv()
                    idle.append(worker)
                except (EOFError, OSError):
                    process, place = processes.pop(worker)
                    process.join()
                    places.append(place)
                    end = ChildProcessError(f"its process died ({_how(process.exitcode)})")
                yield number, end
    finally:
        for worker in [*busy, *idle]:
            process, _ = processes[worker]
            worker.close()  # an idle one ends by itself
            if worker in busy:
                process.terminate()
        for process, _ in processes.values():
            process.join(PATIENCE)
            process.kill()


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """Do what comes, until nobody sends any more."""
    os.environ.update(environment)
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever trains
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            call = pickle.loads(connection.recv_bytes())
            try:
                end = call()
            except Exception as error:
                end = RuntimeError(f"{type(error).__name__}: {error}")
            connection.send(end)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def gpus() -> list[str]:
    """The GPUs that this process may use, by number or name; asked without TensorFlow, which would take them all."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def slurm(calls: list[Callable[[], dict | None]], folder: Path, **settings) -> Ends:
    """One array job of SLURM, which submitit submits; what a job prints goes to a file in `folder`.

    A job that is requeued, or that reached its time limit, goes on with its run.

    Args:
        calls: what to do.
        folder: for the files of submitit, on a file system that the nodes share.
        settings: as submitit names them; None leaves one to SLURM.
    """
    import submitit

    executor = submitit.AutoExecutor(folder / "%A", cluster="slurm", slurm_max_num_timeout=settings.pop("requeues"))
    executor.update_parameters(**{key: value for key, value in settings.items() if value is not None})
    with executor.batch():
        jobs = [executor.submit(call) for call in calls]
    left, looks = dict(enumerate(jobs)), 0
    print(
        f"SLURM job {jobs[0].job_id.partition('_')[0]}: {len(jobs)} runs; they print to {jobs[0].paths.folder}",
        flush=True,
    )
    try:
        while left:
            time.sleep(POLL)
            looks += 1
            for number, job in list(left.items()):
                if job.done(force_check=looks % ACCOUNTING == 0) and not _waits(job):
                    del left[number]
                    error = job.exception()
                    if isinstance(error, submitit.core.utils.UncompletedJobError):
                        error = RuntimeError(f"SLURM says {job.state} of job {job.job_id}")
                    yield number, error or job.result()
    finally:
        for job in left.values():
            job.cancel()


def _waits(job) -> bool:
    """Whether a job that ended without a result is to run again, which SLURM's accounts may show as one that failed."""
    if job.paths.result_pickle.exists():
        return False
    told = subprocess.run(["squeue", "--noheader", "--jobs", job.job_id], capture_output=True, text=True, check=False)
    away = told.returncode != 0 and "Invalid job id" not in told.stderr  # SLURM itself, for a while
    return away or bool(told.stdout.strip())


def ray(calls: list[Callable[[], dict | None]], folder: Path, address: str | None, **resources) -> Ends:
    """Tasks of Ray, on a running cluster or else on one of this machine that ends with the command.

    Args:
        calls: what to do.
        folder: not used; what a task prints goes to Ray's own files.
        address: of the cluster; None: the one that runs here, or else a new one.
        resources: what each run needs: num_cpus, num_gpus, memory (bytes).
    """
    import ray as engine

    environment = {key: value for key, value in os.environ.items() if key.startswith(HANDED_ON)}
    try:
        engine.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ThawError(
            f"hydra.launcher.address={address}: no Ray cluster answers there; start it, or give null"
        ) from error
    # A process for each task, as the threads of TensorFlow and its GPU memory stay with a process.
    needs = {key: value for key, value in resources.items() if value is not None}
    run = engine.remote(max_calls=1, max_retries=0, **needs)(_called)
    left = {run.remote(call): number for number, call in enumerate(calls)}
    try:
        while left:
            (done,), _ = engine.wait(list(left), num_returns=1)
            number = left.pop(done)
            try:
                yield number, engine.get(done)
            except engine.exceptions.RayError as error:
                yield number, RuntimeError(str(error).partition(".")[0])
    finally:
        for task in left:
            engine.cancel(task)
        engine.wait(list(left), num_returns=len(left), timeout=PATIENCE) if left else None
        engine.shutdown()


def check(engine: str) -> None:
    """Refuse an engine that is not to be had here.

    Raises:
        ThawError: says what is missing.
    """
    package = NEEDS.get(engine)
    if package and not find_spec(package):
        raise ThawError(
            f"hydra/launcher={engine} needs {package}, which is not installed; give pip install -e '.[{engine}]'"
        )
    if engine == "slurm" and not shutil.which("sbatch"):
        raise ThawError("hydra/launcher=slurm: there is no sbatch here; give the command where jobs are submitted")


def _called(call: Callable[[], dict | None]) -> dict | None:
    return call()


ENGINES: dict[str, Callable[..., Ends]] = {"local": local, "slurm": slurm, "ray": ray}
