"""Local worker processes.

They are our own, because in the pools of joblib and `concurrent.futures` a process that dies breaks the whole pool.
"""

import contextlib
import multiprocessing.connection
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Literal

import cloudpickle
from pydantic import Field

from thaw import runtime
from thaw.config.values import Section

PATIENCE = 20.0  # seconds for a run that is stopped to record that


class Settings(Section):
    """The keys of `hydra/launcher=local`."""

    n_jobs: Annotated[int, Field(ge=1, le=1024)] | Literal[-1]


def run(
    calls: list[Callable[[], dict | None]], folder: Path, n_jobs: int
) -> Iterator[tuple[int, dict | Exception | None]]:
    """Run calls in processes, each with one of the GPUs in turn; a process makes one call after the other.

    Args:
        calls: what to run.
        folder: unused; processes write to this terminal.
        n_jobs: how many at a time; -1: as many as cores.
    """
    context, cards = multiprocessing.get_context("spawn"), runtime.gpus()
    places = list(range(min(len(calls), n_jobs if n_jobs > 0 else runtime.cores())))
    # Else the first process on a GPU allocates all of its memory.
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
                    process: BaseProcess = context.Process(target=_serve, args=(there, card), daemon=True)
                    process.start()
                    there.close()
                    processes[here] = process, place
                    idle.append(here)
                number, call = waiting.popleft()
                worker = idle.pop()
                busy[worker] = number
                with contextlib.suppress(OSError):  # it died while it was idle, which the wait below reports
                    worker.send_bytes(cloudpickle.dumps(call))
            for ready in multiprocessing.connection.wait(busy):
                assert isinstance(ready, Connection)
                number = busy.pop(ready)
                try:
                    end = ready.recv()
                    idle.append(ready)
                except (EOFError, OSError):
                    process, place = processes.pop(ready)
                    process.join()
                    places.append(place)
                    end = ChildProcessError(f"its process died ({_how(process.exitcode or 0)})")
                yield number, end
    finally:
        for worker in [*busy, *idle]:
            process, _ = processes[worker]
            worker.close()  # an idle process then ends by itself
            if worker in busy:
                process.terminate()
        for process, _ in processes.values():
            process.join(PATIENCE)
            process.kill()


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """The process: make the calls that arrive, until the connection is closed."""
    os.environ.update(environment)
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for processes that train
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            call = pickle.loads(connection.recv_bytes())
            try:
                end = call()
            except Exception as error:
                end = RuntimeError(f"{type(error).__name__}: {error}")
            connection.send(end)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"
