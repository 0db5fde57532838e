"""Settings of runs as plain JSON: the missing ones filled in, and how two runs differ."""

import dataclasses
import types
from typing import Any, get_args, get_origin, get_type_hints

Settings = dict[str, Any]
"""Settings by name, in groups; the groups are dicts of their own."""


def completed(settings: Settings, defaults: Settings) -> Settings:
    """Settings with the defaults of those that did not exist when they were written."""
    whole = defaults | settings
    for name, group in whole.items():
        if isinstance(group, dict) and isinstance(defaults.get(name), dict):
            whole[name] = defaults[name] | group
    return whole


def differences(old: Settings, new: Settings, prefix: str = "") -> dict[str, str]:
    """Settings that differ, as ``{"optim.lr": "0.001 -> 0.002"}``."""
    found: dict[str, str] = {}
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = f"{before!r} -> {after!r}"
    return found


def is_longer(settings: Settings, before: Settings) -> bool:
    """True if a run of these settings lasts for more epochs than one of those before."""
    epochs = before["optim"]["epochs"]
    return isinstance(epochs, int) and bool(settings["optim"]["epochs"] > epochs)


def in_words(changed: dict[str, str]) -> str:
    """Differences in one line."""
    return ", ".join(f"{name}: {change}" for name, change in changed.items())


def plain(value: Any) -> Any:
    """Settings with lists in place of tuples, as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def built(cls: Any, values: Settings) -> Any:
    """Build a dataclass of settings, and the dataclasses in it, from plain JSON.

    Raises:
        ValueError: A name is unknown or a value is out of range.
    """
    hints = get_type_hints(cls)
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}")
    arguments = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            value = built(hint, value)
        elif _is_tuple(hint):
            value = tuple(value)
        arguments[name] = value
    return cls(**arguments)


def _is_tuple(hint: Any) -> bool:
    if get_origin(hint) in (types.UnionType,):
        return any(_is_tuple(option) for option in get_args(hint))
    return get_origin(hint) is tuple
