"""The TensorFlow runtime of this process: threads, devices, determinism, interrupts and log output."""

import contextlib
import ctypes
import gc
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from thaw.errors import ThawError

interrupted = threading.Event()  # set by whoever handles SIGINT and SIGTERM
_polled = threading.Event()  # while code runs that polls `interrupted`
# Of glibc's malloc: large tensors come from the heap, and up to 2 GB of it stay with the process. By default their
# pages are returned to the kernel after each step and requested again in the next, a tenth of a sweep's time.
MALLOC = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**27)}
_run_state = contextlib.ExitStack()  # restores what a run changed in TensorFlow


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
        kind: CPU or GPU.
        count: how many share each batch.
        description: `CPU, 2 threads`, or the names of the GPUs.
    """

    kind: str
    count: int
    description: str

    @property
    def key(self) -> str:
        """What results depend on: kind and count."""
        return f"{self.count} {self.kind}"


def start(threads: int, precision: str = "float32", strategy: str = "single") -> Devices:
    """Import TensorFlow and make it deterministic; `release` resets the dtype policy and the distribution strategy.

    Deterministic on the CPU with a fixed number of threads; on a GPU some sums may be computed in another order.

    Args:
        threads: of this process, fixed by its first run.
        precision: Keras' dtype policy for the networks that are built from now on.
        strategy: single: one device; mirrored: all GPUs, each with a part of the batch; auto: all if there are several.

    Raises:
        ThawError: there are not two devices to mirror on.
    """
    _keep_pages()
    with quiet():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # the threads of a process are fixed by its first run
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.config.experimental.enable_op_determinism()
        logging.getLogger("tensorflow").setLevel(logging.ERROR)  # every run traces its own functions
        tf.constant(0)
        import keras

    _run_state.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
    keras.config.set_dtype_policy(precision)
    cards = tf.config.list_logical_devices("GPU")
    devices = cards or tf.config.list_logical_devices("CPU")
    if strategy == "mirrored" and len(devices) < 2:
        raise ThawError(
            f"training.strategy=mirrored needs two GPUs or more, and TensorFlow sees {len(cards)}; give "
            "training.strategy=auto or make them visible"
        )
    mirrors = strategy == "mirrored" or (strategy == "auto" and len(cards) > 1)
    if mirrors:
        _run_state.enter_context(tf.distribute.MirroredStrategy([device.name for device in devices]).scope())
    return Devices("GPU" if cards else "CPU", len(devices) if mirrors else 1, _describe(tf))


def _keep_pages() -> None:
    """Set `MALLOC`; no effect without glibc."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOC.values():
            mallopt(parameter, value)


def expected_devices(strategy: str) -> str:
    """The `Devices.key` that `start` is expected to return, found without importing TensorFlow."""
    cards = len(gpus())
    kind = "GPU" if cards else "CPU"
    if strategy == "mirrored":
        return f"{max(2, cards)} {kind}"
    return f"{cards if strategy == 'auto' and cards > 1 else 1} {kind}"


def _describe(tf: ModuleType) -> str:
    cards = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(card).get("device_name", card.name) for card in cards]
    if names:
        return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(names).items())
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores()
    description = f"CPU, {threads} thread{'s' * (threads != 1)}"
    if shutil.which("nvidia-smi") and gpus():
        description += (
            " — there is an NVIDIA GPU that TensorFlow does not see: pip install -e '.[cuda]', and check that "
            "nvidia-smi shows a driver"
        )
    return description


def gpus() -> list[str]:
    """The GPUs visible to this process, by number or name; asked without TensorFlow, which would allocate them all."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [each for each in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if each not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


@contextlib.contextmanager
def polling() -> Iterator[None]:
    """Declare that `interrupted` is polled while the context lasts, so that a signal handler need not raise.

    An exception that a handler raises inside TensorFlow's native code may crash the process.
    """
    _polled.set()
    try:
        yield
    finally:
        _polled.clear()


def is_polled() -> bool:
    """Whether code runs that polls `interrupted`."""
    return _polled.is_set()


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt in place of an error that follows an interrupt, which TensorFlow may turn into its own.

    Raises:
        KeyboardInterrupt: the process was interrupted inside the context.
    """
    try:
        yield
    except Exception as error:
        if interrupted.is_set():
            raise KeyboardInterrupt from error
        raise


def release() -> None:
    """Free what a run held, so that the next one in this process starts with the same memory."""
    if "keras" not in sys.modules:  # refused before it began
        return
    _run_state.close()
    import keras

    keras.backend.clear_session(free_memory=False)
    gc.collect()
    _freeze_libraries()


@cache
def _freeze_libraries() -> None:
    """Once per process: leave the imported libraries, most of what there is to look through, out of collections."""
    gc.freeze()


def share_of_cores(launcher: Mapping) -> int:
    """The threads of one run: what a cluster grants it, or its share if `n_jobs` train in parallel (-1: one)."""
    granted = launcher.get("cpus_per_task") or launcher.get("num_cpus")
    if granted:
        return max(1, int(granted))
    jobs = launcher.get("n_jobs", 1)
    return max(1, cores() // jobs) if jobs > 0 else 1


def cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what native code prints on standard error while TensorFlow is imported; shown if the import fails."""
    with tempfile.TemporaryFile() as hidden:
        screen = os.dup(2)
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(screen, hidden.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
