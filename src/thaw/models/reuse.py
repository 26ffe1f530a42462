"""Backbones and networks that serve the runs of a process one after the other, each with initial weights of its own.

Building a network and tracing its functions takes longer than training a small head. A run changes weights and which
layers train, and both are set back. Networks that train from scratch, and those of several devices, are built anew:
their dropout and their variables belong to one run.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw.array_store import ArrayStore
from thaw.config import schema
from thaw.modalities.images.modality import Images
from thaw.models.backbone import Backbone
from thaw.models.backbones import applications
from thaw.models.heads import Labels
from thaw.models.network import Network, build_network, built_head
from thaw.models.units import Depth
from thaw.models.weights import initialize

BACKBONES, HEADS = 2, 4  # in memory at a time


@dataclass
class _Kept:
    """A backbone and what was made with it.

    Attributes:
        backbone: without a digest.
        built: the weights that it was built with.
        initial: key of the initial weights -> these weights and their digest; the last one only.
        trained: the paths of the variables that runs have trained since.
        networks: key of the head -> the network.
    """

    backbone: Backbone
    built: list[np.ndarray]
    initial: dict[str, tuple[list[np.ndarray], str]] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)
    networks: dict[tuple, Network] = field(default_factory=dict)


class Networks:
    """The networks of one process; a run asks for its backbone, for the initial weights, and for the network.

    Args:
        kept: those of the runs before; changed in place.
    """

    def __init__(self, kept: dict[tuple, _Kept]):
        self.kept = kept

    def backbone(
        self, settings: schema.Backbone, weights: schema.Weights, modality: Images, seed: int, from_scratch: bool
    ) -> Backbone:
        """As `applications.build`; the weights are undefined before `initialize`.

        Args:
            settings: which network.
            weights: which weights.
            modality: of its inputs.
            seed: of random weights.
            from_scratch: whether everything may train.
        """
        if from_scratch or tf.distribute.has_strategy():
            return applications.build(settings, weights, modality, seed)
        file = Path(weights.path or "")
        written = file.stat().st_mtime_ns if weights.source == "file" and file.is_file() else None
        network = (settings.name, settings.alpha, *modality.key, keras.config.dtype_policy().name)
        key = (*network, weights.source, weights.path, written)
        for each in (key, (*key, seed)):
            if each in self.kept:
                kept = self.kept[each] = self.kept.pop(each)  # the last one used
                for layer in kept.backbone.units:
                    layer.trainable = True
                return kept.backbone
        while len(self.kept) >= BACKBONES:
            del self.kept[next(iter(self.kept))]
        backbone = applications.build(settings, weights, modality, seed)
        of_seed = (seed,) if backbone.weights == "random" else ()
        self.kept[(*key, *of_seed)] = _Kept(backbone, backbone.model.get_weights())
        return backbone

    def initialize(
        self,
        backbone: Backbone,
        batches: Iterable[np.ndarray],
        store: ArrayStore | None,
        key: str,
        fresh: int = 0,
        seed: int = 0,
    ) -> Backbone:
        """As `weights.initialize`; `key` identifies the examples as well."""
        kept = self._kept(backbone)
        if kept is None:
            return initialize(backbone, batches, store, key, fresh, seed)
        is_new = backbone.weights == "random" or fresh > 0
        own, key = key, f"{key} {fresh}" if is_new else ""
        if key in kept.initial:
            values, digest = kept.initial[key]
            for variable, value in zip(backbone.model.weights, values, strict=True):
                if variable.path in kept.trained:
                    variable.assign(value)
            kept.trained.clear()
            return replace(backbone, digest=digest)
        kept.initial.clear()  # before the weights are others, as the images may fail to be read
        backbone.model.set_weights(kept.built)
        complete = initialize(backbone, batches, store, own, fresh, seed)
        values = backbone.model.get_weights() if is_new else kept.built
        kept.initial = {key: (values, complete.digest)}
        return complete

    def network(
        self, backbone: Backbone, head: schema.Head, labels: Labels, modality: Images, deepest: Depth, seed: int
    ) -> Network:
        """As `build_network`."""
        kept = self._kept(backbone)
        if kept is None:
            return build_network(backbone, head, labels, modality, deepest, seed)
        key = (head.model_dump_json(), labels)
        if key in kept.networks:
            network = kept.networks[key] = kept.networks.pop(key)
            for layer, fresh in zip(network.head, built_head(backbone, head, labels, seed), strict=True):
                layer.set_weights(fresh.get_weights())
        else:
            while len(kept.networks) >= HEADS:
                del kept.networks[next(iter(kept.networks))]
            network = kept.networks[key] = build_network(backbone, head, labels, modality, deepest, seed)
        kept.trained |= network.plan(deepest)
        return replace(network, backbone=backbone)

    def at_sizes(
        self,
        network: Network,
        sizes: Iterable[Images],
        settings: schema.Backbone,
        weights: schema.Weights,
        head: schema.Head,
        deepest: Depth,
        seed: int,
    ) -> dict[Images, Network]:
        """A network as it is for each size of examples, its own included.

        Args:
            network: with its initial weights.
            sizes: the modality at each size.
            settings: which network.
            weights: which weights.
            head: of the network.
            deepest: as for `build_network`.
            seed: of the head's initial weights and dropout.
        """
        found = {network.modality: network}
        for modality in sizes:
            if modality not in found:
                backbone = self.backbone(settings, weights, modality, seed, deepest == "all")
                backbone.model.set_weights(network.backbone.model.get_weights())
                if kept := self._kept(backbone):
                    kept.initial.clear()  # they are set in full by the next run that starts from them
                backbone = replace(backbone, digest=network.backbone.digest)
                found[modality] = self.network(backbone, head, network.labels, modality, deepest, seed)
        return found

    def _kept(self, backbone: Backbone) -> _Kept | None:
        return next((each for each in self.kept.values() if each.backbone.model is backbone.model), None)
