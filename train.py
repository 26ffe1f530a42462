"""Train one run, or with -m a sweep of them: python train.py -m backbone=effnetb0,xception unfreeze=0,20,30

Read `train` for the story of a run. TensorFlow and MLflow are imported where it begins, so that --help, --cfg job
and refusals are quick.
"""

import os
import shutil
import sys
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from thaw import composition, durable, journal, runtime, signature
from thaw.config import Config, check
from thaw.errors import redact, sentence
from thaw.job import Job, Outcome
from thaw.sweep import OpenSweep


def train(config: Config, job: Job) -> Outcome:
    """One run: data, backbone, network, stages, evaluation, each recorded as it comes; a finished run is looked up."""
    # Data, before MLflow is imported, so that what is wrong with it is said at once
    from thaw import data

    began = time.perf_counter()
    dataset = data.load(config.dataset, config.seed, Path(config.store))
    from thaw import delivery, tracking

    store = tracking.connect(config.tracking.uri, config.store, config.experiment)
    if job.first:
        console().print(dataset.told, markup=False)
    if found := job.finished(config, dataset, store):
        console().print(f"{job.label} · finished before")
        return found
    runtime.start(config.threads or job.threads, config.training.precision, config.training.strategy)
    from keras.callbacks import TensorBoard

    from thaw import backbone, evaluation, network, pipeline, recording, stage
    from thaw.activations import Activations
    from thaw.progress import Progress

    stages = stage.plan(config.training, config.unfreeze)
    training = {each.name: data.fraction(dataset.train, each.settings.fraction, config.seed) for each in stages}
    if config.training.class_weights:
        stages = [replace(each, class_weights=data.class_weights(training[each.name].labels)) for each in stages]
    size, batch_size = config.image_size, config.training.batch_size

    # Backbone
    sample = pipeline.sample(training[stages[0].name], size)
    base = backbone.load(config.backbone, config.weights, size, config.seed, sample)
    progress = Progress(console(), job.label, job.live, stages)
    place = job.place(config, store, signature.of_run(config, dataset, base.weights))
    with durable.claimed(place, partial(progress.say, "Another process trains this run; waiting for it.")):
        delivery.forget_deleted(place, store)
        if found := job.outcome(place):
            return found
        with delivery.Sender(place, store), journal.Record(place, **job.opening(config, store)) as record:
            # Network
            net = network.build(base, config.head, len(dataset.class_names), size, config.unfreeze, config.seed)
            recording.describe_network(record, config, job, base, net)
            recording.describe_data(record, config, dataset, training)

            # Stages
            views = pipeline.Views(config.augmentation, config.seed, config.augmentation.views)
            folder, depths = Path(config.store, "activations"), job.depths(config)
            kept = Activations(folder, config.activations, net, depths, progress.say)
            trained, mark = {}, ""
            for each in stages:
                cut, images, seed = net.cut(each.depth), training[each.name], (config.seed, each.number)
                mark = signature.of_stage(each, config, net, dataset, images, before=mark)
                record.tags({f"thaw.{each.name}": mark})
                batches = partial(kept.training_batches, cut, images, batch_size, seed, views)
                validation = partial(kept.evaluation_batches, cut, dataset.validation, batch_size)
                curves = TensorBoard(place / "tensorboard", write_graph=False)
                callbacks = [recording.Epochs(record, each), progress, curves]
                folder = job.stage(config, place, mark)
                wait = partial(progress.say, f"Another process trains the stage {each.name}; waiting for it.")
                with kept, progress, durable.claimed(folder, wait):
                    trained[each.name] = stage.train(
                        each, net, cut.tail, batches, validation, config.seed, place.name, folder, callbacks
                    )
                recording.note_reuse(record, each, trained[each.name])

            # Evaluation: the only look at the test split
            with kept:
                test = kept.evaluation_batches(cut, dataset.test, batch_size)
                answers = evaluation.evaluate(cut.tail, test, dataset.test, dataset.class_names)
            recording.results(record, config, net, training, trained, answers, time.perf_counter() - began)
    return job.outcome(place)


@hydra.main(config_path=str(composition.CONF), config_name="config", version_base="1.3")
def hydra_job(composed: DictConfig) -> None:
    """One Hydra job. A run that fails is told of at once and leaves the rest of its sweep alone."""
    job = Job.current(composed)
    try:
        config = check(composed)
        outcome = train(config, job)
    except KeyboardInterrupt:
        Outcome(job.name, "KILLED", job.choices).write(job.launch)
        raise
    except Exception as error:
        told = sentence(error)
        if told is None:
            traceback.print_exc()
            told = redact(f"{type(error).__name__}: {error}")
        outcome = Outcome(job.name, "FAILED", job.choices, error=told)
        print(outcome.told(job.label), file=sys.stderr, flush=True)
    finally:
        runtime.release()
        if not job.sweep:
            shutil.rmtree(job.launch, ignore_errors=True)
    if job.sweep:
        outcome.write(job.launch)
    elif outcome.status == "FINISHED":
        from thaw import summary

        summary.finish(outcome, config, console())
    else:
        sys.exit(1)


def console() -> Console:
    """Where progress and results go; made anew, as launchers cannot send one to their workers."""
    return Console(highlight=False, soft_wrap=True)


def main() -> int:
    """The command: its exit status is 1 if anything failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra lets exceptions through, to be put into words here
    runtime.interruptible()
    status = 0
    try:
        composition.register()
        composition.hand_on_credentials()
        composition.take_paths_as_typed()
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
        from thaw import summary

        try:
            complete = summary.close(*OpenSweep.opened, console())
        except OSError as error:
            print(sentence(error) or error, file=sys.stderr)
            complete = False
        status = status or int(not complete)
    return status


if __name__ == "__main__":
    sys.exit(main())
