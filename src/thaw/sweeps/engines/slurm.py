"""One array job of SLURM, submitted by submitit."""

import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ConfigDict, Field

from thaw.config.values import LARGEST_COUNT, Count, Name, Section
from thaw.errors import ThawError

POLL = 2.0  # seconds between two looks at the jobs' files
QUEUE = 5  # SLURM itself is asked at every fifth look
logger = logging.getLogger(__name__)


class Settings(Section):
    """The keys of `hydra/launcher=slurm`; other keys of submitit are allowed as well."""

    model_config = ConfigDict(extra="allow")

    name: Name
    timeout_min: Count
    requeues: int = Field(ge=0, le=LARGEST_COUNT)
    cpus_per_task: int = Field(ge=1, le=1024)
    gpus_per_node: int | None = Field(ge=0, le=1024)
    mem_gb: float | None = Field(gt=0, le=1_000_000)
    slurm_partition: str | None
    slurm_array_parallelism: Count
    slurm_signal_delay_s: int = Field(ge=0, le=LARGEST_COUNT)
    slurm_setup: list[str] | None
    slurm_additional_parameters: dict | None


def run(
    calls: list[Callable[[], dict | None]], folder: Path, **settings
) -> Iterator[tuple[int, dict | Exception | None]]:
    """Run calls as one array job; a job that is requeued or reaches its time limit resumes its run.

    Args:
        calls: what to run.
        folder: for the files of submitit and what jobs print, on a file system that the nodes share.
        settings: as submitit names them; None leaves one to SLURM.

    Raises:
        ThawError: SLURM does not take the job.
    """
    import submitit

    executor = submitit.AutoExecutor(folder / "%A", cluster="slurm", slurm_max_num_timeout=settings.pop("requeues"))
    given = {key: value for key, value in settings.items() if value is not None}
    if "cpus_per_task" in given:  # which srun does not inherit from sbatch in every version
        given["slurm_srun_args"] = [f"--cpus-per-task={given['cpus_per_task']}"]
    try:
        executor.update_parameters(**given)
    except (NameError, TypeError, AssertionError, ValueError) as error:
        raise ThawError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
    try:
        with executor.batch():
            jobs = [executor.submit(call) for call in calls]
    except submitit.core.utils.FailedJobError as error:
        raise ThawError(f"SLURM rejected the job ({str(error).strip()}); change the keys of hydra.launcher") from error
    left, looks, gone = dict(enumerate(jobs)), 0, set[int]()
    array = jobs[0].job_id.partition("_")[0]
    try:
        logger.info(f"SLURM job {array}: {len(jobs)} runs; they print to {jobs[0].paths.folder}")
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
            logger.warning(f"SLURM did not cancel all remaining jobs of {array}; give scancel {array}")


def _queued(array: str) -> set[str] | None:
    """The jobs of an array that are pending, running or requeued; None if SLURM does not say."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={array}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return set(answer.stdout.split())
