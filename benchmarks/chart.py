"""The measurements as a table and a chart."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

from thaw.plots.style import BLUE, GRAY, GREEN, ORANGE, STYLE

COLUMNS = ("case", "repeats", "plain", "Thaw", "plain / Thaw", "again", "one more", "floor", "Thaw / floor",
           "plain / floor", "peak")  # fmt: skip
PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
GROWTH = {"depths": "Depths in the sweep", "epochs": "Epochs a stage", "images": "Training images"}


def write(folder: Path) -> None:
    """Write `bench.md` and `bench.png` from `bench.json`."""
    results = json.loads((folder / "bench.json").read_text())
    (folder / "bench.md").write_text(table(results))
    draw(results, folder / "bench.png")
    draw_phases(results, PICTURES / "time.png")


def table(results: dict) -> str:
    """Markdown: seconds and ratios of every case, and of the six runs together."""
    lines = [
        "# How long a sweep takes",
        "",
        "Medians in seconds on one machine, made by `make bench`; only ratios within a line mean something elsewhere.",
        "Each is a command of its own, from an empty store, with the start of Python and TensorFlow.",
        "",
        "- plain: a Keras loop as a notebook has it, each run from the start (`benchmarks/plain.py`)",
        "- Thaw: `train.py -m`, with recording and evaluation",
        "- again: the same command once more; every run is finished",
        "- one more: the command for one further depth, ten layers deeper, or for one more rate of the heads",
        "- floor: one frozen pass for each image and view, and on arrays in memory the bare steps of each head, once,",
        "  and of each depth, with Thaw's kernels; nothing is recorded or saved (`benchmarks/floor.py`)",
        "- peak: memory in GB of Thaw, and of the plain loop; a sweep's process that sends and draws takes 0.3 more",
        "",
        "plain / floor is what any sweep could gain that computes the same things once.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- |" + " --: |" * (len(COLUMNS) - 1),
    ]
    for group in results:
        cases = dict(results[group])
        if group in ("six", "augmented") and len(cases) == 2:
            one, other = cases.values()
            numbers = set(one) - {"phases"}
            both = {key: max(one[key], other[key]) if "GB" in key else one[key] + other[key] for key in numbers}
            cases["the six runs" + (", augmented" * (group == "augmented"))] = {**both, "repeats": one["repeats"]}
        for name, each in cases.items():
            title = f"{GROWTH[group].lower()}: {name}" if group in GROWTH else name
            lines.append(
                f"| {title} | {each['repeats']:.0f} | {each['plain']:.1f} | {each['thaw']:.1f} "
                f"| {each['plain'] / each['thaw']:.1f} | {each['again']:.1f} | {each['another']:.1f} "
                f"| {each['floor']:.1f} | {each['thaw'] / each['floor']:.2f} | {each['plain'] / each['floor']:.1f} "
                f"| {each['thaw GB']:.1f}, {each['plain GB']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def draw(results: dict, path: Path) -> None:
    """Bars of the sweeps, and lines of how time grows."""
    growth = [group for group in GROWTH if group in results]
    bars = [
        (name, each)
        for group in ("six", "augmented", "rates", "heads", "grocery")
        for name, each in results.get(group, {}).items()
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 1 + len(growth), figsize=(6 + 3.2 * len(growth), 4.2), layout="constrained",
                                    width_ratios=[2.0, *[1.0] * len(growth)], squeeze=False)  # fmt: skip
        first, *others = axes[0]
        for offset, (part, color) in enumerate((("plain", GRAY), ("thaw", BLUE), ("floor", ORANGE))):
            places = [place + (1 - offset) * 0.27 for place in range(len(bars))]
            first.barh(places, [each[part] for _, each in bars], 0.25, color=color, label=LABELS[part])
        first.set_yticks(range(len(bars)), [name for name, _ in bars])
        first.invert_yaxis()
        first.set(xlabel="Seconds for a sweep")
        first.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        for axis, group in zip(others, growth, strict=True):
            cases = sorted(results[group].items(), key=lambda case: float(case[0]))
            numbers = [float(name) for name, _ in cases]
            for part, color, style in (("plain", GRAY, "o-"), ("thaw", BLUE, "s-"), ("floor", ORANGE, "^--")):
                axis.plot(numbers, [each[part] for _, each in cases], style, color=color, label=LABELS[part])
            axis.set(xlabel=GROWTH[group], ylabel="Seconds")
            axis.set_ylim(bottom=0)
        figure.savefig(path)
        plt.close(figure)


def draw_phases(results: dict, path: Path) -> None:
    """Stacked bars: where the time of Thaw's command goes, beside the floor."""
    cases = [(name, each) for group in ("six", "rates", "heads") for name, each in results.get(group, {}).items()]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.8 + 0.6 * len(cases)), layout="constrained")
        for place, (_, each) in enumerate(cases):
            left = 0.0
            for part, color in zip(each["phases"], (BLUE, GREEN, GRAY, ORANGE), strict=True):
                axis.barh(place, each["phases"][part], 0.5, left, color=color, label=part if not place else None)
                left += each["phases"][part]
            axis.plot(
                [each["floor"]] * 2, [place - 0.35, place + 0.35], color="black", label=None if place else "floor"
            )
        axis.set_yticks(range(len(cases)), [name for name, _ in cases])
        axis.invert_yaxis()
        axis.set(xlabel="Seconds for a sweep, from the start of the command")
        axis.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)
        figure.savefig(path)
        plt.close(figure)


LABELS = {"plain": "plain Keras", "thaw": "Thaw", "floor": "floor"}
