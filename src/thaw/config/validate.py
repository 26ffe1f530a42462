"""Turns what Hydra composed, or what a run recorded, into a `Config`, and pydantic's errors into sentences."""

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ValidationError

from thaw.config.schema import Config, Stage, Training
from thaw.config.values import Section
from thaw.errors import ThawError, nearest
from thaw.normalization import normalized

LONGEST = 100  # characters of a wrong value that are quoted


def validate(composed: DictConfig) -> Config:
    """Build the typed configuration from what Hydra composed.

    Raises:
        ThawError: a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    try:
        values: dict = OmegaConf.to_container(  # type: ignore[assignment]
            composed, resolve=True, throw_on_missing=True
        )
    except MissingMandatoryValue as error:
        key = error.full_key or str(error)
        raise ThawError(f"{key} has no value; give one with {key}=...") from error
    except OmegaConfBaseException as error:
        raise ThawError(f"The configuration does not resolve: {error}") from error
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ThawError("; ".join(sentences(error, values))) from error


def from_record(values: dict) -> Config:
    """The configuration that a run recorded, perhaps with another version.

    Unknown keys are dropped; missing ones, and values that are no longer allowed, get their default.

    Raises:
        ThawError: its values exclude each other.
    """
    values = _merged(Config().model_dump(), _known(values, Config))
    while True:
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            location = error.errors()[0]["loc"]
            if not location:
                raise ThawError(f"The recorded configuration is invalid: {sentences(error, values)[0]}") from error
            values = _without(values, location)


def _known(values: dict, section: type[Section]) -> dict:
    """The same without unknown keys; a section without a field of its own is a stage."""
    kept = {}
    for key, value in values.items():
        field = section.model_fields.get(key)
        if field is None and not (section is Training and isinstance(value, dict)):
            continue
        kind = field.annotation if field else Stage
        if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, dict):
            value = _known(value, kind)
        kept[key] = value
    return kept


def _merged(defaults: dict, values: dict) -> dict:
    """`values` over `defaults`, section by section."""
    merged = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and isinstance(values.get(key), dict):
            merged[key] = _merged(default, values[key])
    return merged


def _without(values: dict, location: tuple) -> dict:
    """The same without the innermost key that leads to `location`; a union adds the tried type to it."""
    key, *below = location
    inner = values.get(key)
    if below and isinstance(inner, dict) and below[0] in inner:
        return {**values, key: _without(inner, tuple(below))}
    return {other: value for other, value in values.items() if other != key}


def keys(values: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a nested configuration, sections included."""
    found = []
    for name, value in values.items():
        found.append(prefix + name)
        if isinstance(value, dict):
            found += keys(value, f"{prefix}{name}.")
    return found


def sentences(error: ValidationError, values: dict) -> list[str]:
    """Each error of pydantic on one line: what was received, what is allowed, what to do."""
    details = error.errors()
    if any(detail["loc"] == ("fraction",) for detail in details):  # the stages only repeat it
        details = [detail for detail in details if detail["loc"][-1:] != ("fraction",) or len(detail["loc"]) == 1]
    return list(dict.fromkeys(normalized(_sentence(detail, values)) for detail in details))


def _sentence(detail, values: dict) -> str:
    # A union adds the tried type to the location; only the parts that are keys count.
    known = set(keys(values))
    key = ""
    for part in map(str, detail["loc"]):
        longer = f"{key}.{part}" if key else part
        if longer in known:
            key = longer
    if detail["type"] == "extra_forbidden":
        allowed = sorted(known - {key})
        return f"{key} is not a key of the configuration{nearest(key, allowed)}"
    if detail["type"] == "missing":
        return f"{'.'.join(map(str, detail['loc']))} is missing from the configuration"
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    received = str(detail["input"])
    received = f"{received[:LONGEST]}…" if len(received) > LONGEST else received
    if key.rpartition(".")[2] == "unfreeze":
        ranges = " a range of blocks such as block2..block4," * (key == "unfreeze")
        depths = f"a number of layers from 0 up,{ranges} a number of blocks such as 2blocks, or all"
        return f"{key}={received} is not allowed; give {depths}"
    if key == "reinit":
        return f"{key}={received} is not allowed; give a number of blocks such as 1block, or 0"
    if key == "schedule.warmup":
        return f"{key}={received} is not allowed; give a number of steps, or a percentage below 100 such as 10%"
    if key.endswith("fraction"):
        return f"{key}={received} is not allowed; give a percentage above 0 and up to 100"
    return f"{key}={received} is not allowed: {detail['msg'][0].lower()}{detail['msg'][1:]}"
