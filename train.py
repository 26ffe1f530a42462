"""Train one run, or with -m a sweep of them: python train.py -m backbone=effnetb0,xception unfreeze=0,20,30

Read `train` for the story of a run. TensorFlow and MLflow are imported where it begins, so that --help, --cfg job
and refusals are quick.
"""

import os
import sys
import time
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from thaw import composition, durable, journal, progress, runtime, signature, workspace
from thaw.cli import manual, preview, terminal
from thaw.config import Config, check
from thaw.errors import redact, sentence
from thaw.job import Job, Outcome
from thaw.sweep import OpenSweep


def train(config: Config, job: Job) -> Outcome:
    """One run: data, backbone, network, stages, evaluation, each recorded as it comes; a finished run is looked up."""
    # Data, before MLflow is imported, so that data errors surface early
    from thaw import data

    began, shown = time.perf_counter(), progress.reporter()
    shown.phase("checking data")
    dataset = data.load(config.dataset, config.seed, Path(config.store))
    shown.phase("opening MLflow")
    from thaw import delivery, tracking

    store = tracking.connect(config.tracking.uri, config.store, config.experiment)
    if job.first:
        shown.announce(dataset.summary)
    if found := job.finished(config, dataset, store):
        return found
    shown.phase("starting TensorFlow")
    device = runtime.start(config.threads or job.threads, config.training.precision, config.training.strategy)
    if job.first:
        shown.announce(f"Device: {device}")
    from keras.callbacks import TensorBoard

    from thaw import backbone, evaluation, memory, network, pipeline, recording, stage
    from thaw.activations import Activations
    from thaw.runs.progress import EpochProgress

    stages = stage.plan(config.training, config.unfreeze)
    training = {each.name: data.fraction(dataset.train, each.settings.fraction, config.seed) for each in stages}
    if config.training.class_weights:
        stages = [replace(each, class_weights=data.class_weights(training[each.name].labels)) for each in stages]
    size, batch_size = config.image_size, config.training.batch_size

    # Backbone
    shown.phase(f"loading {config.backbone.name}")
    sample = pipeline.sample(training[stages[0].name], size)
    most = max(map(len, training.values()))
    fits = partial(memory.check, config=config, stages=stages, classes=len(dataset.class_names), images=most)
    base = backbone.load(config.backbone, config.weights, size, config.seed, sample, fits)
    epochs = EpochProgress(shown, stages)
    place = job.place(config, store, signature.of_run(config, dataset, base.weights))
    with durable.claimed(place, partial(shown.say, "Another process trains this run; waiting for it.")):
        delivery.forget_deleted(place, store)
        if found := job.outcome(place, "trained by another process"):
            return found
        opening = {**job.opening(config, store), "began": int(1000 * (time.time() - time.perf_counter() + began))}
        with delivery.Sender(place, store), journal.Record(place, **opening) as record, runtime.interrupts():
            # Network
            shown.phase("building the network")
            net = network.build(base, config.head, len(dataset.class_names), size, config.unfreeze, config.seed)
            recording.describe_network(record, config, job, base, net)
            recording.describe_data(record, config, dataset, training)

            # Stages
            views = pipeline.Views(config.augmentation, config.seed, config.augmentation.views)
            folder, depths = Path(config.store, "activations"), job.depths(config)
            kept = Activations(folder, config.activations, net, depths, shown.say)
            trained, weights, mark = {}, {}, ""
            for each in stages:
                shown.phase(each.name)
                cut, images, seed = net.cut(each.depth), training[each.name], (config.seed, each.number)
                mark = signature.of_stage(each, config, net, dataset, images, before=mark)
                record.tags({f"thaw.{each.name}": mark})
                batches = partial(kept.training_batches, cut, images, batch_size, seed, views)
                validation = partial(kept.evaluation_batches, cut, dataset.validation, batch_size)
                for part in ("train", "validation"):  # with the store's permissions, which TensorFlow would not give
                    (place / "tensorboard" / part).mkdir(parents=True, exist_ok=True)
                curves = TensorBoard(place / "tensorboard", write_graph=False)
                callbacks = [recording.Epochs(record, each), epochs, curves]
                folder = job.stage(config, place, mark)
                wait = partial(shown.say, f"Another process trains the stage {each.name}; waiting for it.")
                with kept, durable.claimed(folder, wait):
                    trained[each.name] = stage.train(
                        each, net, cut.tail, batches, validation, config.seed, place.name, folder, callbacks
                    )
                recording.note_reuse(record, each, trained[each.name])
                weights[each.name] = net.model.get_weights() if each is not stages[-1] else None

            # Evaluation: the only look at the test split, with the weights that validation chooses
            shown.phase("evaluating")
            chosen = next(each for each in stages if each.name == stage.selected(trained, config.training.evaluate))
            if weights[chosen.name] is not None:
                net.model.set_weights(weights[chosen.name])
            cut = net.cut(chosen.depth)
            with kept:
                test = kept.evaluation_batches(cut, dataset.test, batch_size)
                answers = evaluation.evaluate(cut.tail, test, dataset.test, dataset.class_names)
            shown.phase("recording")
            recording.results(record, config, net, training, trained, chosen, answers, began)
        shown.phase("sending to MLflow")
    return job.outcome(place, ", ".join(epochs.reused) or None)


@hydra.main(config_path=str(composition.CONF), config_name="config", version_base="1.3")
def hydra_job(composed: DictConfig) -> None:
    """One Hydra job. Failures are reported immediately; the rest of the sweep continues."""
    job = Job.current(composed)
    display, outcome = progress.reporter(), None
    display.begin_run(job.label)
    try:
        config = check(composed)
        outcome = train(config, job)
    except KeyboardInterrupt:
        Outcome(job.name, "KILLED", job.choices).write(job.launch)
        raise
    except Exception as error:
        message = sentence(error)
        if message is None:
            traceback.print_exc()
            message = redact(f"{type(error).__name__}: {error}")
        outcome = Outcome(job.name, "FAILED", job.choices, error=message)
    finally:
        runtime.release()
        if not job.sweep:
            workspace.remove_launch(job.launch)
    if job.sweep:
        outcome.write(job.launch)
        display.end_run(outcome.summary(job.label), trained=outcome.has_trained)
    elif outcome.status == "FINISHED":
        from thaw import summary

        display.end_run(outcome.summary(job.label), trained=outcome.has_trained)
        summary.finish(outcome, config, display)
    else:
        display.stop()
        print(outcome.error, file=sys.stderr)
        sys.exit(1)


def main() -> int:
    """The command: its exit status is 1 if anything failed."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra lets exceptions through, to be put into words here
    if {"--help", "-h"} & set(sys.argv[1:]):
        return manual.main()
    runtime.interruptible()
    with terminal.Display() as display, progress.reporting_to(display):
        return _run(display)


def _run(display: terminal.Display) -> int:
    status = 0
    try:
        composition.register()
        composition.put_flags_first()
        composition.hand_on_credentials()
        composition.take_texts_as_typed()
        with composition.printed_without_credentials():
            preview.main() if preview.is_asked() else hydra_job()
    except KeyboardInterrupt:
        display.stop()
        print("Interrupted; the same command resumes it.", file=sys.stderr)
        status = 130
    except Exception as error:
        message = sentence(error) or composition.explain(error)
        if message is None:
            raise
        display.stop()
        print(message, file=sys.stderr)
        status = 1
    if OpenSweep.opened:
        from thaw import summary

        try:
            complete = summary.close(*OpenSweep.opened, display)
        except OSError as error:
            print(sentence(error) or error, file=sys.stderr)
            complete = False
        status = status or int(not complete)
    return status


if __name__ == "__main__":
    sys.exit(main())
