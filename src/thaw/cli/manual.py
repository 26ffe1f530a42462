"""`python train.py --help`: every option of every group, and every key with its value and its comment in `conf/`."""

import re
import textwrap
from collections.abc import Iterator

import hydra
from omegaconf import DictConfig, OmegaConf

from thaw.cli import command
from thaw.config import compose
from thaw.config.overrides import parse

WIDTH = 80
COMMENTS_AT = 36  # column
LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w]+):(?P<value>[^#]*)(?:#\s*(?P<comment>.*))?$")
HEADER = """\
Thaw: which backbone, how much data, which augmentation, how deep to unfreeze?

  python train.py -m backbone=effnetb0,xception unfreeze=0,20,30

Choose an option of a group with group=option, set any key with key=value; -m
takes lists of either and trains every combination.

  --cfg job --resolve   show the configuration that would run
  --preview             draw a batch as training sees it (preview.png)
  -m                    train every combination of lists of values
"""


def main(words: list[str]) -> int:
    """Print the manual for the configuration that the other arguments compose; swept keys are ignored."""
    return command.run(lambda: _print(words))


def _print(words: list[str]) -> int:
    given = [each for each in words if "=" in each and not each.startswith("-")]
    overrides = [each.input_line or "" for each in parse(given) if not each.is_sweep_override()]
    compose.register()
    with hydra.initialize_config_dir(str(compose.CONF), version_base="1.3"):
        composed = hydra.compose("config", overrides, return_hydra_config=True)
    print("\n".join(manual(composed)))
    return 0


def manual(composed: DictConfig) -> Iterator[str]:
    """The lines of the manual.

    Args:
        composed: with Hydra's own configuration, which has the chosen options.
    """
    yield HEADER
    yield "GROUPS (* is the default)"
    choices = dict(composed.hydra.runtime.choices)
    for group, options in groups().items():
        shown = " ".join(f"{option}*" if choices.get(group) == option else option for option in options)
        yield from textwrap.wrap(f"{group}: {shown}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    yield "\nKEYS"
    comments = dict(_comments((compose.CONF / "config.yaml").read_text()))
    values: dict = OmegaConf.to_container(composed, resolve=False)  # type: ignore[assignment]
    for key, value in values.items():
        if key == "hydra":
            continue
        option = choices.get(key)
        file = compose.CONF / key / f"{option}.yaml"
        if option and file.exists():
            comments |= {f"{key}.{below}": comment for below, comment in _comments(file.read_text())}
        yield from _lines(key, value, comments, "  ")


def groups() -> dict[str, list[str]]:
    """The config groups and the options of each."""
    found: dict[str, list[str]] = {}
    for file in sorted(compose.CONF.rglob("*.yaml")):
        group = file.parent.relative_to(compose.CONF).as_posix()
        if group != ".":
            found.setdefault(group, []).append(file.stem)
    found["experiment"] = compose.experiments()
    found["hydra/launcher"] = ["basic", *found["hydra/launcher"]]
    return found


def _lines(key: str, value: object, comments: dict[str, str], indent: str) -> Iterator[str]:
    comment = comments.get(key, "")
    name = key.rpartition(".")[2]
    if isinstance(value, dict):
        yield from _commented(f"{indent}{name}:", comment)
        for below, inner in value.items():
            yield from _lines(f"{key}.{below}", inner, comments, f"{indent}  ")
    else:
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        yield from _commented(f"{indent}{name}: {shown}", comment)


def _commented(text: str, comment: str) -> Iterator[str]:
    """A key, and its comment beside it, continued below."""
    if not comment:
        yield text
        return
    column = max(COMMENTS_AT, len(text) + 2)
    first, *more = textwrap.wrap(comment, max(30, WIDTH - COMMENTS_AT - 2))
    if len(text) + 2 > COMMENTS_AT and len(text) + 4 + len(first) > WIDTH:
        yield text
        more = [first, *more]
    else:
        yield f"{text.ljust(column)}# {first}"
    for line in more:
        yield f"{' ' * COMMENTS_AT}# {line}"


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """The dotted keys of a YAML file that have a comment on their line."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = LINE.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        while above and above[-1][0] >= indent:
            above.pop()
        key = ".".join([*(name for _, name in above), found["key"]])
        if found["comment"]:
            yield key, found["comment"]
        if not found["value"].strip():
            above.append((indent, found["key"]))
