"""Gives one command again and again, each time killed at a moment drawn at random, until it ends by itself.

Every try is a fork of a process that has imported everything, so that a kill costs seconds. It dies before or after one
of the calls below, or after a time, whatever it does then.
"""

import os
import random
import signal
import sys

import keras
import mlflow.tensorflow
from conftest import ROOT

import train
from thaw import activations, durable, evaluation, journal, network, pipeline, recording, stage  # noqa: F401

# Which calls, and up to the how-manieth of a try.
PLACES = {
    "a checkpoint": (durable, "flush", 12),
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


def main(whole: str, killed: str, kills: int, seed: int, arguments: list[str]) -> None:
    """Give the command once in the store `whole`, and in the store `killed` until it has ended, after so many kills."""
    if attempt([*arguments, f"store={whole}"], "a time", 10**6, False):
        sys.exit("it does not even end if it is not killed")
    draw = random.Random(seed)
    done = 0
    while True:
        place, after = draw.choice(list(PLACES)), draw.random() < 0.5
        call = draw.randint(1, PLACES[place][2]) if done < kills else 10**6
        status = attempt([*arguments, f"store={killed}"], place, call, after)
        if os.WIFSIGNALED(status):
            done += 1
            print(f"killed {'after' if after else 'before'} {place}, {call}", flush=True)
        else:
            sys.exit(os.WEXITSTATUS(status))


def attempt(arguments: list[str], place: str, call: int, after: bool) -> int:
    """The wait status of one try that dies at that call of that place, or after so many halves of a second."""
    process = os.fork()
    if process == 0:
        if place == "a time":
            signal.setitimer(signal.ITIMER_REAL, call / 2)  # nobody handles this signal: it ends the process
        else:
            _die_at(*PLACES[place][:2], call, after)
        sys.argv = [str(ROOT / "train.py"), *arguments]
        os._exit(train.main())
    return os.waitpid(process, 0)[1]


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
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
