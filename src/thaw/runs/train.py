"""The story of a run: load data, build the network, train the stages, evaluate, record."""

import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from thaw import progress, runtime
from thaw.config.schema import Config
from thaw.data.dataset import Dataset, load_dataset
from thaw.data.splits import Split, class_weights, fraction
from thaw.locks import locked
from thaw.runs import signature
from thaw.runs.context import Context
from thaw.runs.outcome import ANOTHER_PROCESS, Outcome, find_finished
from thaw.workspace import ROOT, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    import tensorflow as tf

    from thaw.models.network import Network
    from thaw.runs.results import Results
    from thaw.training.checkpoints import StageResult
    from thaw.training.evaluation import Evaluation
    from thaw.training.stages import Stage

logger = logging.getLogger(__name__)


def train(config: Config, context: Context) -> Outcome:
    """Train, evaluate and record one run; a finished run is looked up.

    TensorFlow and MLflow are imported where they are needed: data errors surface early, and finished runs at once.

    Raises:
        ThawError: something that the user can fix; recorded, unless it was found before the run began.
    """
    began, report = time.perf_counter(), progress.reporter()
    workspace, choices = Workspace(Path(config.store)), context.choices

    # Load data ========================================================================================================
    report.phase("checking data")
    dataset = load_dataset(config.dataset, config.seed, workspace.root)

    # Look the run up ==================================================================================================
    report.phase("opening MLflow")
    store = context.connect(config.tracking.uri, config.store, config.experiment)
    if context.first:
        report.announce(dataset.summary)
    recorded = [config.experiment, store.name, config.tracking.model, config.tracking.register_as]
    expected, relevant = runtime.expected_devices(config.training.strategy), signature.relevant(config)

    def folder(weights: str) -> Path:
        signed = signature.of_run(relevant, dataset, weights, config.weights.path, workspace.root, expected)
        return context.run_folder(workspace, signed, recorded, config.rerun)

    if found := find_finished(config.weights.source, folder, context.name, choices, store):
        return found

    # Build the network ================================================================================================
    report.phase("starting TensorFlow")
    devices = runtime.start(config.threads or context.threads, config.training.precision, config.training.strategy)
    if context.first:
        report.announce(f"Device: {devices.description}")
    from thaw.array_store import ArrayStore
    from thaw.modalities.images.modality import Images
    from thaw.models import units
    from thaw.models.heads import Labels
    from thaw.models.reuse import Networks
    from thaw.runs import record as recording
    from thaw.runs.finishing import NOT_ACCEPTED, finishes, record_finish
    from thaw.runs.progress import EpochProgress
    from thaw.runs.proposals import record_proposals
    from thaw.runs.results import record_results
    from thaw.tracking import delivery, journal
    from thaw.training.batches import Views, sample_examples
    from thaw.training.features import FeatureCache
    from thaw.training.fit import Batches, fit_stage
    from thaw.training.memory import check_memory
    from thaw.training.optimizers import check_devices
    from thaw.training.rate_finder import find_rates
    from thaw.training.stages import plan_stages, steps_per_epoch

    check_devices(config.optimizer, devices.count)
    report.phase(f"loading {config.backbone.name}")
    modality, classes = Images.of(config.dataset, config.backbone), len(dataset.class_names)
    networks = Networks(context.networks)
    backbone = networks.backbone(config.backbone, config.weights, modality, config.seed, config.unfreeze == "all")
    place = folder(backbone.weights)
    with locked(place, partial(logger.info, "Another process trains this run; waiting for it.")):
        delivery.forget_deleted(place, store)
        if finished := Outcome.of(place, context.name, choices, ANOTHER_PROCESS):
            return finished
        kind = "rates" if config.find_rate else "run"
        opening = recording.opening(context, store.name, config.experiment, kind, began, ROOT)
        with context.sending(place, store), journal.Record(place, **opening) as record, runtime.interrupts():
            report.phase("building the network")
            sections = {name: config.training.section(name) for name in config.training.stages}
            training = {
                name: fraction(dataset.train, each.fraction or config.fraction, config.seed)
                for name, each in sections.items()
            }
            stages = plan_stages(
                config.training, config.unfreeze, config.loss, config.regularisation, config.optimizer, config.schedule,
                backbone, {name: len(split) for name, split in training.items()},
            )  # fmt: skip
            training = {each.name: training[each.name] for each in stages}
            if config.training.class_weights:
                stages = [replace(each, class_weights=class_weights(training[each.name].labels)) for each in stages]
            most = max(map(len, training.values()))
            shares = [config.resolution.share(number, len(stages)) for number in range(len(stages))]
            check_memory(backbone, config.head, config.training, stages, modality, classes, most, shares)
            first = training[stages[0].name]
            stored = ArrayStore(workspace.activations, config.activations.max_gigabytes)
            key = signature.of_initial_weights(config.backbone, modality, config.seed, first, config.training.precision)
            backbone = networks.initialize(
                backbone, sample_examples(first, modality), stored if config.activations.keep else None, key,
                units.fresh(config.reinit, stages[-1].reached, backbone.blocks, backbone.name), config.seed,
            )  # fmt: skip
            labels = Labels(classes, dataset.is_multi_label)
            network = networks.network(backbone, config.head, labels, modality, stages[-1].reached, config.seed)

            def describe(record: journal.Record, finish: str = "none") -> str:
                about = recording.describe_run(record, config, context, network, stages, finish)
                recording.describe_data(record, config.dataset, config.fraction, dataset, training)
                return about

            about = describe(record)
            sizes = [modality.resized(share, config.backbone.smallest_size) for share in shares]
            at = networks.at_sizes(
                network, sizes, config.backbone, config.weights, config.head, stages[-1].reached, config.seed
            )
            if config.regularisation.towards == "initial":
                at = {images: replace(each, initial=each.kernels(stages[-1].reached)) for images, each in at.items()}
                network = at[modality]

            # Train the stages =========================================================================================
            epochs = EpochProgress(report, stages)
            balanced = config.training.sampling == "balanced"
            views = Views(config.augmentation, config.seed, config.augmentation.views, classes)
            depths = [*units.within(context.depths, backbone.blocks), *(stage.reached for stage in stages)]
            caches = {
                images: FeatureCache(workspace.activations, config.activations, each, depths)
                for images, each in at.items()
            }
            settings = signature.stage_settings(
                config.training, config.head, config.augmentation, config.activations.dtype, config.seed, devices.key
            )
            results, weights, signatures, proposals, signed, first_step = {}, {}, {}, {}, "", 0
            size, before, beside = config.training.batch_size, network, []
            for stage, stage_size in zip(stages, sizes, strict=True):
                report.phase(stage.name)
                own, cache = at[stage_size], caches[stage_size]
                if own is not before:
                    own.model.set_weights(before.model.get_weights())
                before = own
                cut, images, seed = own.cut(stage.reached), training[stage.name], (config.seed, stage.number)
                signed = signatures[stage.name] = signature.of_stage(settings, stage, own, dataset, images, signed)
                recording.record_stage(record, stages, stage, signed)
                batches = Batches(
                    partial(cache.training_batches, cut, images, size, seed, views, balanced),
                    partial(cache.evaluation_batches, cut, dataset.validation, size),
                    len(images),
                    size,
                )
                steps = steps_per_epoch(len(images), size, config.optimizer)
                curves = recording.learning_curves_callbacks(record, stage, first_step, steps)
                first_step += len(stage.epochs) * steps
                callbacks = [recording.EpochRecorder(record, stage), epochs, *curves]
                state = context.stage_folder(workspace, signed, place, config.rerun)
                on_wait = partial(logger.info, f"Another process trains the stage {stage.name}; waiting for it.")
                if config.find_rate:
                    with cache:
                        proposals[stage.name] = find_rates(stage, own, cut, batches, config.seed)
                    if stage is stages[-1]:
                        break  # the stages before are trained, as the rate of the next one depends on them
                with cache, locked(state, on_wait):
                    results[stage.name] = fit_stage(stage, own, cut, batches, config.seed, state, callbacks, place.name)
                recording.record_reuse(record, stage, results[stage.name])
                if stage is not stages[-1] or own is not network:
                    weights[stage.name] = own.model.get_weights()

            # Evaluate and record ======================================================================================
            if config.find_rate:
                record_proposals(record, proposals, about, began)
            else:
                report.phase("evaluating")
                cache = caches[modality]
                cached = partial(cache.evaluation_batches, batch_size=size)
                with cache:
                    outcome = _tested(
                        stages, results, weights, config.training.evaluate, network, cached, dataset, len(at) > 1
                    )
                report.phase("recording")
                record_results(record, config.tracking, network, training, outcome, about, began)
                with cache:
                    tried = finishes(config.finish, network, outcome, weights, cached, dataset, config.seed)
                    for name, accepted in tried:
                        report.announce(accepted.summary(outcome) if accepted else f"  {name} · {NOT_ACCEPTED}")
                        if accepted:
                            beside.append(workspace.run(f"{context.name} {name}", [place.name, name]))
                            opening["name"] = f"{context.name} finish={name}"
                            with recording.beside(beside[-1], store, opening) as kept:
                                if kept:
                                    describe(kept, name)
                                    recording.repeat_stages(kept, stages, signatures, results)
                                    record_finish(
                                        kept, config.tracking, network, training, accepted, outcome, about, began
                                    )
        report.phase("sending to MLflow")
        for each in beside:
            with context.sending(each, store):  # whose journal has ended, as has that of the run
                pass
    finished = Outcome.of(place, context.name, choices, ", ".join(epochs.reused) or None)
    assert finished is not None
    return finished


def _tested(
    stages: "list[Stage]",
    results: "dict[str, StageResult]",
    weights: dict[str, list],
    by: str,
    network: "Network",
    batches: "Callable[..., tf.data.Dataset]",
    dataset: Dataset,
    is_resized: bool,
) -> "Results":
    """The only look at the test split, with the weights that validation selects; the network has them then.

    Args:
        stages: of the run.
        results: of each, by name.
        weights: of the network after each, perhaps but the last, which the network has.
        by: as `training.evaluate`.
        network: as the last stage left it.
        batches: of a split, by the cut.
        dataset: has the test split.
        is_resized: whether a stage trained at another size, so that its validation was at that size as well.
    """
    from thaw.runs.results import Results
    from thaw.training.evaluation import evaluate
    from thaw.training.stages import selected_stage

    selected = next(each for each in stages if each.name == selected_stage(results, by))
    if selected.name in weights:
        network.model.set_weights(weights[selected.name])
        network.unfreeze(selected.depth)  # the recorded model says what trained, as `predict.py` has to know
    cut = network.cut(selected.reached)

    def evaluated(split: Split) -> "Evaluation":
        return evaluate(cut.tail, batches(cut, split), split, dataset.class_names)

    if not (is_resized or dataset.is_multi_label):
        return Results(stages, results, selected, evaluated(dataset.test))
    validation = evaluated(dataset.validation)
    test = evaluated(dataset.test).with_thresholds_of(validation)
    return Results(stages, results, selected, test, validation.with_thresholds_of(validation).metrics())
