"""Settings of runs as plain JSON: the missing ones filled in, and how two runs differ."""

from typing import Any

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
