"""The words after `train.py`, before Hydra parses them."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Sequence

from thaw.config import schema
from thaw.config.values import absolute
from thaw.errors import redact

PATHS = ("dataset.path", "dataset.root", "weights.path", "store")
TEXTS = (
    "dataset.url",
    "tracking.uri",
    "dataset.name",
    "tracking.experiment",
    "tracking.register_as",
    *map("dataset.columns.{}".format, schema.Columns.model_fields),
)
NOT_TEXT = ("true", "false", "null", "nan", "inf")  # words that Hydra parses as values


def prepared(words: Sequence[str]) -> list[str]:
    """The arguments, preprocessed for Hydra."""
    return texts_quoted(credentials_moved(flags_first(words)))


def flags_first(words: Sequence[str]) -> list[str]:
    """`-m` moved before the overrides: Hydra does not accept overrides on both sides of it."""
    flags = [each for each in words if each in ("-m", "--multirun")]
    return [*flags[:1], *(each for each in words if each not in flags)]


def credentials_moved(words: Sequence[str]) -> list[str]:
    """A tracking URI with a password moved into the environment.

    Hydra and its launchers write the command line into files; the environment reaches the workers as well.
    """
    moved = list(words)
    for number, word in enumerate(words):
        key, _, value = word.partition("=")
        if key.lstrip("+") == "tracking.uri" and redact(value) != value:
            os.environ["MLFLOW_TRACKING_URI"] = value.strip("'\"")
            moved[number] = f"{key}=${{oc.env:MLFLOW_TRACKING_URI}}"
    return moved


def texts_quoted(words: Sequence[str]) -> list[str]:
    """Paths, names, URLs and the question quoted, as Hydra might parse them as numbers or lists.

    Paths become absolute, so that the recorded command works from any folder. Lists of values stay lists.
    """
    quoted = list(words)
    for number, word in enumerate(words):
        key, given, value = word.partition("=")
        name = key.lstrip("+")
        if not given or value in ("", "null") or re.fullmatch(r"(['\"]).*\1", value) or "${" in value:
            continue
        if name in PATHS and (_is_single(value) or os.path.exists(absolute(value))):
            quoted[number] = f"{key}={_quoted(absolute(value))}"
        elif name in PATHS and all(os.path.exists(absolute(each)) for each in value.split(",")):
            quoted[number] = f"{key}={','.join(_quoted(absolute(each)) for each in value.split(','))}"
        elif name == "question" or (name in TEXTS and _is_single(value)):
            quoted[number] = f"{key}={_quoted(value)}"
    return quoted


@contextlib.contextmanager
def printed_without_credentials(words: Sequence[str]) -> Iterator[None]:
    """Redact credentials in what `--cfg` and `--info` print."""
    # With the abbreviations that argparse accepts, but for --config-name, -cn and the like.
    if not any(re.match(r"--(cf|i)|-[ci](?![ndp])", each) for each in words):
        yield
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        print(redact(printed.getvalue()), end="")


def _is_single(value: str) -> bool:
    """Whether Hydra parses a single value, neither a list nor a function call."""
    return "," not in value and not re.match(r"\w+\(", value)


def _quoted(text: str) -> str:
    """Escaped for Hydra's grammar, quoted only if needed."""
    if re.fullmatch(r"[A-Za-z_/][\w./-]*", text, re.ASCII) and text.lower() not in NOT_TEXT:
        return text
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"
