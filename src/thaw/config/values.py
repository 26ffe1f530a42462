"""Types of the values of the configuration, and what its sections have in common."""

import os
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from thaw.normalization import stripped

LARGEST_IMAGE = 4096  # px a side; no backbone was trained on more
LARGEST_COUNT = 1_000_000


def _as_text(value: object) -> object:
    """A number as text: YAML and Hydra parse names such as `2024`."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_name(value: object) -> object:
    text = _as_text(value)
    return stripped(text) if isinstance(text, str) else text


def _as_location(value: object) -> object:
    text = _as_text(value)
    path = absolute(text) if isinstance(text, str) and text else text
    if isinstance(path, str) and path.startswith("~"):
        raise PydanticCustomError("home", "there is no such home folder; give the whole path")
    return path


def absolute(path: str) -> str:
    """The absolute path; URLs and home folders of unknown users are returned unchanged."""
    path = os.path.expanduser(path)
    return path if path.startswith("~") or "://" in path else os.path.abspath(path)


Percent = Annotated[float, Field(gt=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=0, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Name = Annotated[str, BeforeValidator(_as_name), Field(min_length=1, max_length=200)]
Location = Annotated[str, BeforeValidator(_as_location)]
Blocks = Annotated[str, Field(pattern=r"^[1-9]\d{0,5}blocks?$")]
BlockRange = Annotated[str, Field(pattern=r"^block[1-9]\d{0,5}\.\.block[1-9]\d{0,5}$")]
Depth = Annotated[int, Field(ge=0, le=LARGEST_COUNT)] | Literal["all"] | Blocks  # units, everything, or blocks
Unfreeze = Depth | BlockRange


class Section(BaseModel):
    """A part of the configuration. Unknown keys are refused, types are not coerced, values are immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
