"""Train one run, or with -m a sweep of them: python train.py -m backbone=effnetb0,xception unfreeze=0,20,30

Read `train` for the story of a run. TensorFlow and MLflow are imported where it begins, so that --help, --cfg job
and refusals are quick.
"""

import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from thaw import composition, runtime
from thaw.config import Config, check
from thaw.errors import redact, sentence
from thaw.sweep import Job, OpenSweep, Outcome, close


def train(config: Config, job: Job) -> Outcome:
    """One run: data, backbone, network, stages, evaluation, each recorded as it comes."""
    from thaw import tracking

    began = time.perf_counter()
    store = tracking.connect(config.tracking.uri, config.store)
    experiment = (
        job.sweep.experiment if job.sweep else store.experiment(config.tracking.experiment or config.dataset_name)
    )
    tags = {"thaw.command": tracking.command(), "thaw.kind": "run", **tracking.git_tags(composition.ROOT)}
    parent = job.sweep.parent if job.sweep else None
    with tracking.Record(store, experiment, job.name, parent, tags, job.folder / "record") as record:
        runtime.start(config.threads or job.threads)
        from keras.callbacks import TensorBoard

        from thaw import backbone, data, evaluation, network, pipeline, recording, signature, stage
        from thaw.activations import Activations
        from thaw.progress import Progress

        # Data
        dataset = data.load(config.dataset, config.seed)
        stages = stage.plan(config.training, config.unfreeze)
        training = {each.name: data.fraction(dataset.train, each.settings.fraction, config.seed) for each in stages}
        size, batch_size = config.image_size, config.training.batch_size
        recording.describe_data(record, config, dataset, training)

        # Backbone and network
        sample = pipeline.sample(training[stages[0].name], size)
        base = backbone.load(config.backbone, config.weights, size, config.seed, sample)
        net = network.build(base, config.head, len(dataset.class_names), size, config.unfreeze, config.seed)
        recording.describe_network(record, config, job, base, net)

        # Stages
        progress = Progress(console(), job.label, job.live, stages)
        views = pipeline.Views(config.augmentation, config.seed, config.augmentation.views)
        kept = Activations(Path(config.store, "activations"), config.activations, net, job.depths(config), progress.say)
        trained, mark = {}, ""
        for each in stages:
            cut, images, seed = net.cut(each.depth), training[each.name], (config.seed, each.number)
            mark = signature.of_stage(each, config, net, dataset, images, before=mark)
            batches = partial(kept.training_batches, cut, images, batch_size, seed, views)
            validation = partial(kept.evaluation_batches, cut, dataset.validation, batch_size)
            curves = TensorBoard(job.folder / "tensorboard", write_graph=False)
            callbacks = [recording.Epochs(record, each), progress, curves]
            folder = Path(config.store, "stages", mark)
            with kept, progress, stage.claimed(folder, progress.say):
                came_to = stage.train(each, net, cut.tail, batches, validation, config.seed, folder, callbacks)
            recording.note_stage(record, each, mark, came_to)
            trained[each.name] = came_to

        # Evaluation: the only look at the test split
        with kept:
            test = kept.evaluation_batches(cut, dataset.test, batch_size)
            answers = evaluation.evaluate(cut.tail, test, dataset.test, dataset.class_names)
        return recording.results(
            record, config, job, net.model, training, trained, answers, time.perf_counter() - began
        )


@hydra.main(config_path=str(composition.CONF), config_name="config", version_base="1.3")
def hydra_job(composed: DictConfig) -> None:
    """One Hydra job. A run that fails is told of at once and leaves the rest of its sweep alone."""
    job = Job.current(composed)
    try:
        outcome = train(check(composed), job)
    except KeyboardInterrupt:
        Outcome(job.name, "KILLED", job.choices).write(job.folder)
        raise
    except Exception as error:
        told = sentence(error)
        if told is None:
            traceback.print_exc()
            told = redact(f"{type(error).__name__}: {error}")
        print(f"{job.label} FAILED: {told}", file=sys.stderr, flush=True)
        outcome = Outcome(job.name, "FAILED", job.choices, error=told)
    finally:
        runtime.release()
    outcome.write(job.folder)
    if job.sweep is None:
        finish_single(outcome)


def console() -> Console:
    """Where progress and results go; made anew, as launchers cannot send one to their workers."""
    return Console(highlight=False, soft_wrap=True)


def finish_single(outcome: Outcome) -> None:
    """Show what a run that is no part of a sweep came to; status 1 if it failed."""
    if outcome.status != "FINISHED":
        sys.exit(1)
    console().print(
        f"Test accuracy {outcome.test_accuracy:.4f}, validation accuracy {outcome.val_accuracy:.4f}, "
        f"{outcome.seconds:.1f} s\nIn MLflow (start it with make ui): {outcome.page}"
    )


def main() -> int:
    """The command: its exit status is 1 if anything failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra lets exceptions through, to be put into words here
    status = 0
    try:
        composition.register()
        hydra_job()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = 130
    except Exception as error:
        told = sentence(error) or composition.explain(error)
        if told is None:
            raise
        print(told, file=sys.stderr)
        status = 1
    if OpenSweep.opened:
        complete = close(*OpenSweep.opened, console())
        status = status or int(not complete)
    return status


if __name__ == "__main__":
    sys.exit(main())
