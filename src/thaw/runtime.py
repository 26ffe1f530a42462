"""How TensorFlow runs in this process: quietly, on its share of the cores, and the same way every time."""

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator


def start(threads: int) -> None:
    """Import TensorFlow and fix what may differ between two runs of one seed.

    Deterministic on the CPU with a fixed number of threads; on a GPU some sums still run in another order.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # the threads of a process are fixed by its first run
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.config.experimental.enable_op_determinism()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # that each run traces its own functions is no news
        tf.constant(0)


def interruptible() -> None:
    """Have SIGTERM, which says that a node is taken away, interrupt as Ctrl-C does, and note either in `interrupted`.

    TensorFlow swallows an exception that is raised in Python that it calls itself, such as the end of a generator.
    """

    def interrupt(number, frame):
        interrupted.set()
        raise KeyboardInterrupt

    interrupted.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


interrupted = threading.Event()


def release() -> None:
    """Give back what a run held, so that the next one in this process finds memory as the first did."""
    if "keras" not in sys.modules:  # refused before it began
        return
    import keras

    keras.backend.clear_session(free_memory=False)
    gc.collect()


def share_of_cores(launcher: dict) -> int:
    """The threads of one run where a launcher trains `n_jobs` of them side by side (-1: one a core)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    side_by_side = launcher.get("n_jobs", 1) or 1
    return max(1, cores // (cores if side_by_side < 0 else side_by_side))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what native code prints on standard error while TensorFlow starts, unless it fails."""
    with tempfile.TemporaryFile() as kept:
        screen = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(screen, kept.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
