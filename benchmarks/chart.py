"""The measurements as a table and a chart."""

import json
from pathlib import Path

import matplotlib.pyplot as plt

from thaw.plots.style import BLUE, GRAY, ORANGE, STYLE

GROWTH = {"depths": "Depths in the sweep", "epochs": "Epochs a stage", "images": "Training images"}


def write(folder: Path) -> None:
    """Write `bench.md` and `bench.png` from `bench.json`."""
    results = json.loads((folder / "bench.json").read_text())
    (folder / "bench.md").write_text(table(results))
    draw(results, folder / "bench.png")


def table(results: dict) -> str:
    """Markdown: seconds and ratios of every case, and of the six runs together."""
    lines = [
        "# How long a sweep takes",
        "",
        "Medians in seconds on one machine, made by `make bench`; only ratios within a line mean something elsewhere.",
        "",
        "- plain: a Keras loop as a notebook has it, each run from the start (`benchmarks/plain.py`)",
        "- Thaw: the whole command from an empty store, with recording and evaluation",
        "- one more depth: the command for one further depth on the same store, ten layers before the deepest;",
        "  nothing that is kept lies there, so that it needs a frozen pass of its own",
        "- floor: one frozen pass for each image and view, and on arrays in memory the bare steps of the head, once,",
        "  and of each depth (`benchmarks/floor.py`)",
        "- cached part: what Thaw spends on the same two things; it fills last batches up to a multiple of eight,",
        "  so that 225 images take as long as 232, and has the state of training on disk after each epoch",
        "",
        "plain / floor is what any sweep could gain that computes the same things once.",
        "",
        "| case | repeats | plain | Thaw | plain / Thaw | one more depth | floor | plain / floor | cached / floor |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for group in ("six", "augmented", "grocery", *GROWTH):
        cases = dict(results.get(group, {}))
        if group in ("six", "augmented") and len(cases) == 2:
            shared = set.intersection(*(set(each) for each in cases.values())) - {"repeats"}
            both = {key: sum(each[key] for each in cases.values()) for key in shared}
            cases["the six runs" + (", augmented" * (group == "augmented"))] = {**both, "repeats": "both"}
        for name, each in cases.items():
            title = f"{GROWTH[group].lower()}: {name}" if group in GROWTH else name
            cached = f"{each['cached'] / each['floor']:.2f}" if "cached" in each else "–"
            lines.append(
                f"| {title} | {each['repeats']} | {each['plain']:.1f} | {each['thaw']:.1f} "
                f"| {each['plain'] / each['thaw']:.1f} | {each['another']:.1f} | {each['floor']:.1f} "
                f"| {each['plain'] / each['floor']:.1f} | {cached} |"
            )
    return "\n".join(lines) + "\n"


def draw(results: dict, path: Path) -> None:
    """Bars of the sweeps, and lines of how time grows."""
    growth = [group for group in GROWTH if group in results]
    bars = [(name, each) for group in ("six", "augmented", "grocery") for name, each in results.get(group, {}).items()]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 1 + len(growth), figsize=(6 + 3.2 * len(growth), 4.2), layout="constrained",
                                    width_ratios=[2.0, *[1.0] * len(growth)], squeeze=False)  # fmt: skip
        first, *others = axes[0]
        for offset, (part, color) in enumerate((("plain", GRAY), ("thaw", BLUE), ("floor", ORANGE))):
            places = [place + (1 - offset) * 0.27 for place in range(len(bars))]
            first.barh(places, [each[part] for _, each in bars], 0.25, color=color, label=LABELS[part])
        first.set_yticks(range(len(bars)), [name for name, _ in bars])
        first.invert_yaxis()
        first.set(xlabel="Seconds for a sweep of three depths")
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


LABELS = {"plain": "plain Keras", "thaw": "Thaw", "floor": "floor"}
