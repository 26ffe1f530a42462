"""Hydra's launcher for the engines that train several runs at once; Hydra looks for plugins in this package."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


@dataclass
class Call:
    """One Hydra job, sent to a worker.

    Attributes:
        context, function, config: as Hydra's `run_job` takes them.
        files: what the run needs of its sweep on a node with a store of its own: text by path.
        folder: the working directory of the command.
        singletons: Hydra's own state.
    """

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    files: dict[str, str]
    folder: str = field(default_factory=os.getcwd)
    singletons: dict = field(default_factory=Singleton.get_state)

    def __call__(self) -> dict | None:
        """Train; the fields of the run's outcome."""
        from thaw import progress
        from thaw.cli import environment
        from thaw.cli.terminal import Display
        from thaw.runs.outcome import Outcome

        environment.prepare()
        environment.interruptible()
        with contextlib.suppress(FileNotFoundError):  # relative paths mean the same as on the launching machine
            os.chdir(self.folder)
        self._write_files()
        setup_globals()
        Singleton.set_state(self.singletons)
        HydraConfig.instance().set_config(self.config)
        with Display(live=False) as display, progress.reporting_to(display):
            run_job(
                hydra_context=self.context,
                task_function=self.function,
                config=self.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        outcome = Outcome.read(Path(self.config.hydra.sweep.dir, str(self.config.hydra.job.num)))
        return asdict(outcome) if outcome else None

    def _write_files(self) -> None:
        from thaw import files
        from thaw.sweeps.parent import Sweep
        from thaw.workspace import Workspace

        Workspace(Path(self.config.store)).create()
        launch = Path(self.config.hydra.sweep.dir)
        launch.mkdir(parents=True, exist_ok=True)
        with FileLock(launch / "files"):
            if not Sweep.file(launch).exists():
                for path, text in self.files.items():
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    files.write_text(Path(path), text)

    def checkpoint(self):
        """What submitit resubmits when SLURM takes the node away or the time is up: the same call, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class ThawLauncher(Launcher):
    """`hydra/launcher=local`, `slurm` or `ray`.

    Args:
        engine: which.
        settings: of that engine, as in `conf/hydra/launcher/`.
    """

    def __init__(self, engine: str, **settings):
        self.engine, self.settings = engine, settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what `launch` needs."""
        self.context, self.function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train all of them; they are reported as they finish."""
        from thaw import progress
        from thaw.runs.context import Context
        from thaw.runs.outcome import Outcome
        from thaw.sweeps.engines.available import ENGINES
        from thaw.sweeps.job import HydraJob
        from thaw.sweeps.parent import Sweep

        setup_globals()
        launch = Path(self.config.hydra.sweep.dir)
        files, jobs, calls = Sweep.of(launch).texts(), [], []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(composed):
                composed.hydra.job.id, composed.hydra.job.num = str(number), number
                composed.hydra.runtime.output_dir = str(launch / str(number))
            HydraConfig.instance().set_config(composed)
            jobs.append(HydraJob.current(composed, Context()))
            calls.append(Call(self.context, self.function, composed, files))
        HydraConfig.instance().set_config(self.config)
        display = progress.reporter()
        if self.engine == "local":
            display.stop()  # the workers write to the terminal
        ends: dict[int, JobReturn] = {}
        for number, end in ENGINES[self.engine].run(calls, launch / self.engine, **self.settings):
            job = jobs[number]
            outcome = Outcome.read(job.launch)
            if outcome is None:  # it trained on a node with a store of its own, or was lost
                name, choices = job.context.name, job.context.choices
                lost = Outcome(name, "LOST", choices, error=f"{end}; the same command resumes it")
                outcome = Outcome(**end) if isinstance(end, dict) else lost
                job.launch.mkdir(exist_ok=True)
                outcome.write(job.launch)
            # A worker of this machine has reported its end on this terminal, unless it died.
            if self.engine != "local" or outcome.status in ("LOST", "KILLED"):
                display.end_run(outcome.summary(job.label), trained=False)
            ends[number] = _job_return(outcome, job_overrides[number])
        return [ends[number] for number in range(len(jobs))]


def _job_return(outcome, overrides: Sequence[str]) -> JobReturn:
    """What Hydra's sweepers see of a run: its validation accuracy, or that it failed."""
    from thaw.sweeps.job import RunFailed

    if outcome.status == "FINISHED":
        return JobReturn(overrides=overrides, _return_value=outcome.val_accuracy, status=JobStatus.COMPLETED)
    return JobReturn(overrides=overrides, _return_value=RunFailed(outcome.error or ""), status=JobStatus.FAILED)
