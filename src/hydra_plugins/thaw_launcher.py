"""Hydra's way to the engines that train several runs at once; Hydra looks for launchers in this package.

Each run is a Hydra job: composed here, trained by a worker, told of as soon as it ends.
"""

import contextlib
import os
import sys
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

from thaw.errors import redact


@dataclass
class Call:
    """One Hydra job, sent to a worker.

    Attributes:
        context, function, config: as Hydra's `run_job` takes them.
        files: what the run needs of its sweep where the store is another: text by path.
        folder: that the command was given in.
        argv: its words, without credentials.
        singletons: Hydra's own state.
    """

    context: HydraContext
    function: TaskFunction
    config: DictConfig
    files: dict[str, str]
    folder: str = field(default_factory=os.getcwd)
    argv: list[str] = field(default_factory=lambda: [redact(word) for word in sys.argv])
    singletons: dict = field(default_factory=Singleton.get_state)

    def __call__(self) -> dict | None:
        """Train; what the run came to, as the fields of its outcome."""
        from thaw import progress, runtime
        from thaw.cli.terminal import Display
        from thaw.job import Outcome

        runtime.interruptible()
        sys.argv = self.argv
        with contextlib.suppress(FileNotFoundError):  # relative paths mean what they mean there
            os.chdir(self.folder)
        self._bring_files()
        setup_globals()
        Singleton.set_state(self.singletons)
        HydraConfig.instance().set_config(self.config)
        with Display(live=False) as display, progress.reporting_to(display):
            self._run()
        outcome = Outcome.left(Path(self.config.hydra.sweep.dir, str(self.config.hydra.job.num)))
        return asdict(outcome) if outcome else None

    def _run(self) -> None:
        run_job(
            hydra_context=self.context,
            task_function=self.function,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )

    def _bring_files(self) -> None:
        from thaw import durable, workspace

        workspace.opened(Path(self.config.store))
        launch = Path(self.config.hydra.sweep.dir)
        launch.mkdir(parents=True, exist_ok=True)
        with FileLock(launch / "files"):
            if not (launch / "sweep.json").exists():
                for path, text in self.files.items():
                    Path(path).parent.mkdir(parents=True, exist_ok=True)
                    durable.write_text(Path(path), text)

    def checkpoint(self):
        """What submitit submits again when SLURM takes the node away or the time is up: the same, which goes on."""
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
        """Train all of them; results are reported as they come."""
        from thaw import progress
        from thaw.engines import ENGINES
        from thaw.job import Job, Outcome
        from thaw.sweep import Sweep

        setup_globals()
        launch = Path(self.config.hydra.sweep.dir)
        files, jobs, calls = Sweep.of(launch).files(), [], []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(composed):
                composed.hydra.job.id, composed.hydra.job.num = str(number), number
                composed.hydra.runtime.output_dir = str(launch / str(number))
            HydraConfig.instance().set_config(composed)
            jobs.append(Job.current(composed))
            calls.append(Call(self.context, self.function, composed, files))
        HydraConfig.instance().set_config(self.config)
        display = progress.reporter()
        if self.engine == "local":
            display.stop()  # the workers write to the terminal
        for number, end in ENGINES[self.engine](calls, launch / self.engine, **self.settings):
            job = jobs[number]
            outcome = Outcome.left(job.launch)
            if outcome is None:  # it trained where the store is another, or nowhere any more
                lost = Outcome(job.name, "LOST", job.choices, error=f"{end}; the same command goes on with it")
                outcome = Outcome(**end) if isinstance(end, dict) else lost
                job.launch.mkdir(exist_ok=True)
                outcome.write(job.launch)
            # A worker on this machine has reported its own end on this terminal, unless it died.
            if self.engine != "local" or outcome.status in ("LOST", "KILLED"):
                display.end_run(outcome.summary(job.label), trained=False)
        return [JobReturn(_return_value=None, status=JobStatus.COMPLETED) for _ in jobs]
