"""The run folder: config.json first, and the same settings ever after."""

import json
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dino_infer.errors import RunError
from dino_infer.files import write_json
from dino_train.config import as_dict, differences, from_dict

FORMAT_VERSION = 1


def code_version() -> str:
    """Version of this toolkit, or "unknown" in a checkout that is not installed."""
    try:
        return version("dino-toolkit")
    except PackageNotFoundError:
        return "unknown"


def config_record(
    run: Path,
    config: dict[str, Any],
    *,
    data: dict[str, Any],
    init_from: str | None,
    extend: bool,
) -> dict[str, Any] | None:
    """What ``config.json`` must become, or None when it is there and right; writes nothing.

    Args:
        run: The run folder, which need not exist.
        config: The resolved settings.
        data: ``sources``, ``images`` and ``fingerprint`` of the training data.
        init_from: The weights that the run starts from.
        extend: Let ``optim.epochs`` grow.

    Raises:
        RunError: The folder cannot be a run folder, or holds another run; the message gives the
            difference.
    """
    if run.exists() and not run.is_dir():
        raise RunError(f"--out must be a folder, but {str(run)!r} is a file; choose another")
    record = {
        "format_version": FORMAT_VERSION,
        "config": config,
        "data": data,
        "init_from": init_from,
        "versions": _versions(),
    }
    path = run / "config.json"
    if not path.exists():
        if (run / "snapshots").exists():
            raise RunError(f"{str(run)!r} has snapshots but no config.json; choose another --out")
        return record
    before = _read(path)
    if before["data"]["fingerprint"] != data["fingerprint"]:
        raise RunError(
            f"the training data of {str(run)!r} changed: {before['data']['images']:,} images when "
            f"the run began, {data['images']:,} now; restore it, or start a new run with "
            f"--init-from {run} --out ANOTHER"
        )
    changed = differences(_completed(before["config"]), config)
    if before["init_from"] != init_from:
        changed["--init-from"] = f"{before['init_from']!r} -> {init_from!r}"
    longer = config["optim"]["epochs"] > before["config"]["optim"]["epochs"]
    if extend and longer and set(changed) == {"optim.epochs"}:
        return record
    if changed:
        listed = ", ".join(f"{name}: {change}" for name, change in changed.items())
        raise RunError(
            f"{str(run)!r} was begun with other settings ({listed}); repeat the old ones to go "
            "on, choose another --out to start anew, or give --extend to train for more epochs "
            "and change nothing else"
        )
    return None


def saved_settings(run: Path) -> dict[str, Any] | None:
    """The settings that a run was begun with, or None where there is no run yet.

    Raises:
        RunError: Its ``config.json`` cannot be read.
    """
    path = run / "config.json"
    return _read(path)["config"] if path.is_file() else None


def enter_run_folder(run: Path, record: dict[str, Any] | None) -> None:
    """Make the folder, sweep what a killed process left half-written, write ``config.json``.

    Raises:
        RunError: The folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        for leftover in run.rglob(".*.tmp*"):
            leftover.unlink()
        if record:
            write_json(run / "config.json", record)
    except OSError as error:
        raise RunError(f"cannot use run folder {str(run)!r}: {error.strerror}") from error


def _completed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the defaults of those that did not exist when the run began."""
    with suppress(ValueError, TypeError):  # a later version wrote them; the difference is said
        return as_dict(from_dict(settings))
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = record["config"], record["data"]["fingerprint"], record["init_from"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{str(path)!r} is not a config.json of dino-train ({error!r}); choose another --out"
        ) from error
    return record


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "pillow")
    return {
        "dino-toolkit": code_version(),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
