"""The run folder: config.json first, and the same settings ever after."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dino_infer.errors import RunError
from dino_infer.files import write_json
from dino_train.config import differences

FORMAT_VERSION = 1


def code_version() -> str:
    """Version of this toolkit, or "unknown" in a checkout that is not installed."""
    try:
        return version("dino-toolkit")
    except PackageNotFoundError:
        return "unknown"


def open_run_folder(
    run: Path,
    config: dict[str, Any],
    *,
    data: dict[str, Any],
    init_from: str | None,
    extend: bool,
) -> None:
    """Create ``config.json``, or check that an existing run is the same run.

    Args:
        run: The run folder; ``prepare_run_folder`` made it.
        config: The resolved settings.
        data: ``sources``, ``images`` and ``fingerprint`` of the training data.
        init_from: The weights that the run starts from.
        extend: Let ``optim.epochs`` grow.

    Raises:
        RunError: The folder holds another run; the message prints the difference.
    """
    path = run / "config.json"
    record = {
        "format_version": FORMAT_VERSION,
        "config": config,
        "data": data,
        "init_from": init_from,
        "versions": _versions(),
    }
    if not path.exists():
        if (run / "snapshots").exists():
            raise RunError(f"{str(run)!r} has snapshots but no config.json; choose another --out")
        write_json(path, record)
        return
    before = _read(path)
    if before["data"]["fingerprint"] != data["fingerprint"]:
        raise RunError(
            f"the training data of {str(run)!r} changed: {before['data']['images']:,} images when "
            f"the run began, {data['images']:,} now; restore it, or start a new run with "
            f"--init-from {run} --out ANOTHER"
        )
    changed = differences(before["config"], config)
    if before["init_from"] != init_from:
        changed["--init-from"] = f"{before['init_from']!r} -> {init_from!r}"
    if extend and set(changed) == {"optim.epochs"}:
        epochs = (before["config"]["optim"]["epochs"], config["optim"]["epochs"])
        if epochs[1] > epochs[0]:
            write_json(path, record)
            return
    if changed:
        listed = ", ".join(f"{name}: {change}" for name, change in changed.items())
        raise RunError(
            f"{str(run)!r} was begun with other settings ({listed}); repeat the old ones to go "
            "on, choose another --out to start anew, or give --extend to train for more epochs "
            "and change nothing else"
        )


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
