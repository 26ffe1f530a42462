"""How TensorFlow runs in this process: quietly, on its share of the cores, and the same way every time."""

import contextlib
import faulthandler
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

from thaw.errors import ThawError


def start(threads: int, precision: str = "float32", strategy: str = "single") -> str:
    """Import TensorFlow and fix what may differ between two runs of one seed; `release` ends what this begins.

    Deterministic on the CPU with a fixed number of threads; on a GPU some sums still run in another order.

    Args:
        threads: of this process, fixed by its first run.
        precision: the dtype policy of Keras for the networks that are built from now on.
        strategy: single: on one device; mirrored: on all GPUs, each with its part of a batch; auto: on all if there
            are several.

    Returns:
        What computes, for people: `CPU, 2 threads`, or the names of the GPUs.

    Raises:
        ThawError: there are not two devices to mirror on.
    """
    faulthandler.enable(sys.__stderr__)  # a crash of native code says where
    with quiet():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # the threads of a process are fixed by its first run
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.config.experimental.enable_op_determinism()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # that each run traces its own functions is no news
        tf.constant(0)
        import keras

    held.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
    keras.config.set_dtype_policy(precision)
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")  # of which there are several only if somebody asked for it
    if strategy == "mirrored" and len(devices) < 2:
        raise ThawError(
            f"training.strategy=mirrored needs two GPUs or more, and TensorFlow sees {len(gpus)}; give "
            "training.strategy=auto or make them visible"
        )
    if strategy == "mirrored" or (strategy == "auto" and len(gpus) > 1):
        held.enter_context(tf.distribute.MirroredStrategy([device.name for device in devices]).scope())
    return _device(tf)


def _device(tf: ModuleType) -> str:
    cards = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(card).get("device_name", card.name) for card in cards]
    if names:
        return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(names).items())
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores()
    told = f"CPU, {threads} thread{'s' * (threads != 1)}"
    if shutil.which("nvidia-smi") and gpus():
        told += (
            " — there is an NVIDIA GPU that TensorFlow does not see: pip install -e '.[cuda]', and check that "
            "nvidia-smi shows a driver"
        )
    return told


def gpus() -> list[str]:
    """The GPUs that this process may use, by number or name; asked without TensorFlow, which would take them all."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


held = contextlib.ExitStack()  # what a run changed of TensorFlow's state


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


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Have an error after an interrupt be that interrupt, which TensorFlow may turn into an error of its own.

    Raises:
        KeyboardInterrupt: in place of any error that follows one.
    """
    try:
        yield
    except Exception as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from error
        raise


def release() -> None:
    """Give back what a run held, so that the next one in this process finds memory as the first did."""
    if "keras" not in sys.modules:  # refused before it began
        return
    held.close()
    import keras

    keras.backend.clear_session(free_memory=False)
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # the libraries, which are here to stay and are most of what each collection would look through


def share_of_cores(launcher: dict) -> int:
    """The threads of one run: those that a cluster gives it, or its share where `n_jobs` train side by side (-1: 1)."""
    given = launcher.get("cpus_per_task") or launcher.get("num_cpus")
    if given:
        return max(1, int(given))
    side_by_side = launcher.get("n_jobs", 1)
    return max(1, cores() // side_by_side) if side_by_side > 0 else 1


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what native code prints on standard error while TensorFlow is imported, unless it fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
