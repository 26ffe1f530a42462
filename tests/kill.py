"""Gives one command again and again, each time killed at another moment, until it ends by itself.

The moments are drawn at random, or are every place where something is flushed to disk or gets its name. Every try is a
fork of a process that has imported everything, so that a kill costs seconds. It dies before or after one of the calls
below, or after a time, whatever it does then.
"""

import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import commands
import keras
import mlflow.tensorflow
from conftest import ROOT

from thaw import files
from thaw.runs import record, results  # noqa: F401  # what a run imports, once for all tries
from thaw.tracking import journal
from thaw.training import evaluation, features, fit  # noqa: F401

# Which calls, and up to the how-manieth of a try.
PLACES = {
    "a checkpoint": (files, "flush", 12),
    "the journal": (journal, "append", 12),
    "metrics on their way": (mlflow.MlflowClient, "log_batch", 8),
    "a batch": (keras.callbacks.CallbackList, "on_train_batch_end", 20),
    "a stage": (keras.Model, "fit", 1),
    "weights": (keras.Model, "save_weights", 3),
    "the model": (mlflow.tensorflow, "save_model", 1),
    "artifacts": (mlflow.MlflowClient, "log_artifacts", 2),
    "the end": (mlflow.MlflowClient, "set_terminated", 1),
    "a time": (None, None, 8),
}


def main(whole: str, killed: str, kills: str, seed: int, arguments: list[str]) -> None:
    """Give the command once in the store `whole`, and in the store `killed` until it has ended, after so many kills."""
    if attempt([*arguments, f"store={whole}"], partial(_die_after, 10**6)):
        sys.exit("it does not even end if it is not killed")
    if kills == "every":
        sys.exit(_killed_everywhere([*arguments, f"store={killed}"], Path(f"{killed}.txt")))
    sys.exit(_killed_at_random([*arguments, f"store={killed}"], int(kills), seed))


def _killed_at_random(arguments: list[str], kills: int, seed: int) -> int:
    draw = random.Random(seed)
    done = 0
    while True:
        place, after = draw.choice(list(PLACES)), draw.random() < 0.5
        call = draw.randint(1, PLACES[place][2]) if done < kills else 10**6
        dies = partial(_die_after, call) if place == "a time" else partial(_die_at, *PLACES[place][:2], call, after)
        status = attempt(arguments, dies)
        if not os.WIFSIGNALED(status):
            return os.WEXITSTATUS(status)
        done += 1
        print(f"killed {'after' if after else 'before'} {place}, {call}", flush=True)


def _killed_everywhere(arguments: list[str], known: Path) -> int:
    """Die once before and once after each place that calls `os.fsync` or `os.replace`; `known` has those that were."""
    known.touch()
    while os.WIFSIGNALED(status := attempt(arguments, partial(_die_at_another, known))):
        print(f"killed {known.read_text().splitlines()[-1]}", flush=True)
    return os.WEXITSTATUS(status)


def _die_at_another(known: Path) -> None:
    places = set(known.read_text().splitlines())

    def die(place: str) -> None:
        if place not in places:
            with known.open("a") as file:
                file.write(f"{place}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(original):
        def call(*positional, **named):
            frames = [each for each in traceback.extract_stack() if "/src/thaw/" in each.filename]
            helping = [f"{each.name}:{each.lineno}" for each in frames if Path(each.filename).stem == "files"]
            asking = [f"{Path(each.filename).stem}.{each.name}" for each in frames if each.name not in dir(files)]
            way = f"{'/'.join(helping[-2:])} for {'/'.join(asking[-2:])}"
            die(f"before {original.__name__} in {way}")
            result = original(*positional, **named)
            die(f"after {original.__name__} in {way}")
            return result

        return call

    os.fsync, os.replace = wrapped(os.fsync), wrapped(os.replace)


def attempt(arguments: list[str], dies: Callable[[], None]) -> int:
    """The wait status of one try; `dies` arranges for its death."""
    process = os.fork()
    if process == 0:
        dies()
        sys.argv = [str(ROOT / "train.py"), *arguments]
        os._exit(commands.train())
    return os.waitpid(process, 0)[1]


def _die_after(halves: int) -> None:
    signal.setitimer(signal.ITIMER_REAL, halves / 2)  # seconds; nobody handles this signal: it ends the process


def _die_at(owner, name: str, call: int, after: bool) -> None:
    calls, original = [], getattr(owner, name)

    def counted(*positional, **named):
        calls.append(None)
        if len(calls) == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*positional, **named)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5:])
