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
import socket
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import cloudpickle
from omegaconf import DictConfig, OmegaConf

from thaw import config, runtime
from thaw.errors import ThawError

POLL = 2.0  # seconds between two looks at SLURM's files
QUEUE = 5  # every so many looks, SLURM itself is asked
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
    context, cards = multiprocessing.get_context("spawn"), runtime.gpus()
    places = list(range(min(len(calls), n_jobs if n_jobs > 0 else runtime.cores())))
    # Else the first process on a GPU takes all of its memory.
    shared = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"} if len(places) > len(cards) else {}
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
                    card = {"CUDA_VISIBLE_DEVICES": cards[place % len(cards)], **shared} if cards else {}
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


def slurm(calls: list[Callable[[], dict | None]], folder: Path, **settings) -> Ends:
    """One array job of SLURM, which submitit submits; what a job prints goes to a file in `folder`.

    A job that is requeued, or that reached its time limit, goes on with its run.

    Args:
        calls: what to do.
        folder: for the files of submitit, on a file system that the nodes share.
        settings: as submitit names them; None leaves one to SLURM.

    Raises:
        ThawError: SLURM does not take the job.
    """
    import submitit

    executor = submitit.AutoExecutor(folder / "%A", cluster="slurm", slurm_max_num_timeout=settings.pop("requeues"))
    given = {key: value for key, value in settings.items() if value is not None}
    if "cpus_per_task" in given:  # which srun does not take over from sbatch in every version
        given["slurm_srun_args"] = [f"--cpus-per-task={given['cpus_per_task']}"]
    try:
        executor.update_parameters(**given)
    except (NameError, TypeError, AssertionError, ValueError) as error:
        raise ThawError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
    try:
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except submitit.core.utils.FailedJobError as error:
        raise ThawError(f"SLURM refuses the job ({str(error).strip()}); mend the keys of hydra.launcher") from error
    left, looks, gone = dict(enumerate(jobs)), 0, set()
    array = jobs[0].job_id.partition("_")[0]
    try:
        print(f"SLURM job {array}: {len(jobs)} runs; they print to {jobs[0].paths.folder}", flush=True)
        while left:
            time.sleep(POLL)
            looks += 1
            for number, job in list(left.items()):
                if job.paths.result_pickle.exists():
                    del left[number]
                    yield number, job.exception() or job.result()
            queued = _queued(array) if looks % QUEUE == 0 else None
            if queued is None:
                continue
            # Twice, as a file system may show a result later than SLURM shows the end.
            missing = {number for number, job in left.items() if job.job_id not in queued}
            for number in missing & gone:
                job = left.pop(number)
                last = (job.stderr() or "nothing was printed").strip().splitlines()[-1:]
                yield number, RuntimeError(f"SLURM ended job {job.job_id} ({''.join(last)})")
            gone = missing - gone
    finally:
        if left and subprocess.run(["scancel", *(job.job_id for job in left.values())], check=False).returncode:
            print(f"SLURM did not cancel all that is left of its job {array}; give scancel {array}", file=sys.stderr)


def _queued(array: str) -> set[str] | None:
    """The jobs of an array that wait, run, or are about to do so again; None where SLURM does not say."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode and "Invalid job id" not in told.stderr:
        return None
    return set(told.stdout.split())


def ray(calls: list[Callable[[], dict | None]], folder: Path, address: str | None, **resources) -> Ends:
    """Tasks of Ray, on a running cluster or else on one of this machine that ends with the command.

    Args:
        calls: what to do.
        folder: not used; what a task prints goes to Ray's own files.
        address: of the cluster; None: the one that runs here, or else a new one.
        resources: what each run needs: num_cpus, num_gpus, memory (bytes).

    Raises:
        ThawError: no cluster answers at the address.
    """
    import ray as engine

    try:
        engine.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError) as error:
        reason = textwrap.shorten(str(error), 200)
        raise ThawError(
            f"hydra.launcher.address={address}: Ray cannot be had there ({reason}); start it, or give null"
        ) from error
    needs = {key: value for key, value in resources.items() if value is not None}
    if not any(_fits(needs, node["Resources"]) for node in engine.nodes() if node["Alive"]):
        told = ", ".join(f"{key}={value}" for key, value in needs.items())
        print(f"No node of the Ray cluster has {told}; waiting for one (Ctrl-C ends it)", file=sys.stderr, flush=True)
    # A process for each task, as the threads of TensorFlow and its GPU memory stay with a process.
    run = engine.remote(max_calls=1, max_retries=0, **needs)(_called)
    # With the call, since Ray writes what it sets itself, passwords included, into its logs.
    environment = {key: value for key, value in os.environ.items() if key.startswith(HANDED_ON)}
    left = {run.remote(environment, call): number for number, call in enumerate(calls)}
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
        for task in left:
            engine.cancel(task)
        engine.wait(list(left), num_returns=len(left), timeout=PATIENCE) if left else None
        engine.shutdown()


def _fits(needs: dict[str, float], has: dict[str, float]) -> bool:
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # as Ray calls them there
    return all(has.get(names[key], 0) >= value for key, value in needs.items())


def check(launcher: DictConfig | str) -> None:
    """Refuse an engine that is not to be had here, or settings that it does not take.

    Raises:
        ThawError: says what is missing or wrong.
    """
    if not isinstance(launcher, DictConfig):
        raise ThawError(f"hydra.launcher={launcher} names no key; choose a launcher with a slash: hydra/launcher=local")
    settings = OmegaConf.to_container(launcher, resolve=True)
    settings.pop("_target_")
    engine = settings.pop("engine", None)
    if engine not in ENGINES:
        return
    package = NEEDS.get(engine)
    if package and not find_spec(package):
        raise ThawError(
            f"hydra/launcher={engine} needs {package}, which is not installed; give pip install -e '.[{engine}]'"
        )
    if engine == "slurm" and not shutil.which("sbatch"):
        raise ThawError("hydra/launcher=slurm: there is no sbatch here; give the command where jobs are submitted")
    config.check_launcher(engine, settings)
    host, _, port = (settings.get("address") or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ThawError(
                f"hydra.launcher.address={host}:{port}: nothing listens there; start the cluster, or give null"
            ) from error


def _called(environment: dict[str, str], call: Callable[[], dict | None]) -> dict | None:
    os.environ.update(environment)
    return call()


ENGINES: dict[str, Callable[..., Ends]] = {"local": local, "slurm": slurm, "ray": ray}
