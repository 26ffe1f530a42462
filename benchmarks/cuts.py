"""Where it is cheapest to cut a network: reading cached rows and computing the rest up to the frontier, measured.

    make cuts args="--networks Xception EfficientNetB0 --depths 5 20 30"

For each depth every candidate is timed whose estimate is at most `--within` times the lowest: rows are read in random
order from a memory-mapped file, as training reads them, and the units between are computed in batches of 32. Prints the
estimate's choice beside the measured one, and how much slower the choice is.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from thaw import runtime
from thaw.config import schema
from thaw.modalities.images.modality import Images
from thaw.models import cuts
from thaw.models.backbones import applications
from thaw.models.graph import as_inputs, nodes, outputs
from thaw.models.heads import Labels
from thaw.models.kernels import fast
from thaw.models.network import Network, build_network

ROWS, BATCH, REPEATS = 256, 32, 5
DEPTHS = [5, 10, 15, 20, 30, 40, 50, 60, 80, 100]


def main() -> None:
    """Measure the networks and depths of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["Xception", "EfficientNetB0"])
    parser.add_argument("--depths", nargs="+", type=int, default=DEPTHS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--within", type=float, default=4.0)
    arguments = parser.parse_args()
    runtime.start(runtime.share_of_cores({}))
    for name in arguments.networks:
        for depth in arguments.depths:
            measure(build(name, arguments.size), name, depth, arguments.within)


def build(name: str, size: int) -> Network:
    """A network of that architecture with random weights."""
    settings = schema.Backbone(name=name, image_size=size, smallest_size=1)
    backbone = applications.build(settings, schema.Weights(source="random"), Images(size), 0)
    return build_network(backbone, schema.Head(), Labels(10), Images(size), 1, 0)


def measure(network: Network, name: str, depth: int, within: float) -> None:
    """Time the candidates of one depth, and print which is the fastest."""
    order = nodes(network.backbone.model)
    training = {id(layer) for layer in network.training_units(depth) if network.trainable[layer.name]}
    exact = cuts.frontier(order, training)
    found = cuts.candidates(order, exact)
    estimates = [cuts.cost(*each) for each in found]
    chosen = estimates.index(min(estimates))
    tried = [n for n, estimate in enumerate(estimates) if estimate <= within * min(estimates)]
    seconds = {n: time_candidate(found[n][0], exact) for n in tried}
    best = min(seconds, key=seconds.__getitem__)
    named = [" ".join(str(order.index(node)) for node in found[n][0]) for n in (chosen, best)]
    print(
        f"{name} {depth}: estimate cuts at {named[0]} ({1e3 * seconds[chosen]:.2f} ms an example), measured at "
        f"{named[1]} ({1e3 * seconds[best]:.2f} ms), {seconds[chosen] / seconds[best]:.2f} times; {len(tried)} tried",
        flush=True,
    )


def time_candidate(crossing: list[keras.Operation], exact: list[keras.Operation]) -> float:
    """Seconds an example: the median of some epochs over the rows."""
    sources, targets = ([outputs(node)[0] for node in given] for given in (crossing, exact))
    again = [tensor for tensor in targets if not any(tensor is source for source in sources)]
    model = tf.function(fast(keras.Model(sources, again), fold=True)) if again else None
    with tempfile.TemporaryDirectory() as folder:
        arrays = []
        for number, tensor in enumerate(sources):
            path = Path(folder, f"{number}.npy")
            np.save(path, np.random.default_rng(number).normal(size=(ROWS, *tensor.shape[1:])).astype(np.float32))
            arrays.append(np.load(path, mmap_mode="r"))
        times = []
        for repeat in range(REPEATS + 1):
            order = np.random.default_rng(repeat).permutation(ROWS)
            began = time.perf_counter()
            for start in range(0, ROWS, BATCH):
                rows = [tf.constant(array[order[start : start + BATCH]]) for array in arrays]
                if model is not None:
                    keras.tree.map_structure(lambda each: each.numpy()[0], model(as_inputs(rows)))
            times.append((time.perf_counter() - began) / ROWS)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
