"""The run folder: config.json first, and the same settings ever after."""

import json
import platform
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dino_infer import __version__
from dino_infer.errors import RunError
from dino_infer.files import hold_output, make_folder, remove_leftovers, write_json
from dino_infer.weights.run_folders import CHECKPOINT, SNAPSHOTS
from dino_train.records.metrics import METRICS
from dino_train.records.settings import Settings, completed, differences, in_words, is_longer
from dino_train.records.snapshots import State, sweep_snapshots

FORMAT_VERSION = 1
CONFIG = "config.json"
NONFINITE = "nonfinite"
WRITTEN = (CHECKPOINT, SNAPSHOTS, METRICS, "failures.jsonl", "report", "tensorboard", NONFINITE)
"""All else that training writes into a run folder, after ``config.json``."""


def config_record(
    run: Path,
    config: Settings,
    *,
    defaults: Settings,
    data: dict[str, Any],
    init_from: str | None,
    processes: int,
    extend: bool,
) -> dict[str, Any] | None:
    """Content that ``config.json`` must get, or None when it is right; writes nothing.

    Args:
        run: The run folder, which need not exist.
        config: The resolved settings.
        defaults: All defaults; a run that is older than a setting has its default.
        data: ``sources``, ``images`` and ``fingerprint`` of the training data.
        init_from: The weights that the run starts from.
        processes: Number of processes that the run is begun by.
        extend: Let ``optim.epochs`` grow.

    Raises:
        RunError: The folder cannot be a run folder, or holds another run; the message gives the
            difference.
    """
    _check_is_folder(run)
    record = {
        "format_version": FORMAT_VERSION,
        "config": config,
        "data": data,
        "init_from": init_from,
        "processes": processes,
        "versions": _versions(),
    }
    path = run / CONFIG
    if not path.exists():
        if there := [name for name in WRITTEN if (run / name).exists()]:
            raise RunError(f"{str(run)!r} has {there[0]} but no config.json; choose another `out`")
        return record
    before = _read(path)
    if before["data"]["fingerprint"] != data["fingerprint"]:
        raise RunError(
            f"the training data of {str(run)!r} changed: {before['data']['images']:,} images when "
            f"the run began, {data['images']:,} now; restore it, or start a new run with "
            f"`init_from={str(run)!r}` and another `out`"
        )
    changed = differences(completed(before["config"], defaults), config)
    if before["init_from"] != init_from:
        changed["`init_from`"] = f"{before['init_from']!r} -> {init_from!r}"
    if extend and set(changed) == {"optim.epochs"} and is_longer(config, before["config"]):
        return record
    if changed:
        raise RunError(
            f"{str(run)!r} was begun with other settings ({in_words(changed)}); repeat the old "
            "ones to go on, choose another `out` for a new run, or pass `extend=True` to train "
            "for more epochs and change nothing else"
        )
    return None


def saved_settings(run: Path) -> dict[str, Any] | None:
    """The settings that a run was begun with, or None where there is no run yet.

    Raises:
        RunError: Its ``config.json`` cannot be read.
    """
    path = run / CONFIG
    return _read(path)["config"] if path.is_file() else None


def processes_of(run: Path) -> int | None:
    """Number of processes that a run was begun by; None where there is no run, or it is not told.

    Raises:
        RunError: Its ``config.json`` cannot be read.
    """
    path = run / CONFIG
    return _read(path).get("processes") if path.is_file() else None


@contextmanager
def hold_run_folder(run: Path) -> Iterator[None]:
    """Be the only process that writes to the folder; without a run in it, it is gone afterwards.

    Raises:
        OutputInUseError: Another process trains into it.
        RunError: The folder cannot be made or written.
    """
    _check_is_folder(run)
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    with ExitStack() as opened:
        try:
            make_folder(run)
            opened.callback(_remove_empty, missing)
            opened.enter_context(hold_output(run))
        except OSError as error:
            raise RunError(f"cannot use run folder {str(run)!r}: {error.strerror}") from error
        yield


def enter_run_folder(run: Path, record: dict[str, Any] | None) -> None:
    """Make the folder, sweep what a killed process left half-written, write ``config.json``.

    Raises:
        RunError: The folder cannot be written.
    """
    try:
        make_folder(run)
        remove_leftovers(*(run / name for name in (CONFIG, CHECKPOINT, METRICS)))
        sweep_snapshots(run)
        if record:
            write_json(run / CONFIG, record)
    except OSError as error:
        raise RunError(f"cannot use run folder {str(run)!r}: {error.strerror}") from error


def check_state(
    state: State,
    config: Settings,
    *,
    defaults: Settings,
    data_fingerprint: str,
    init_from: str | None,
) -> None:
    """Check that a snapshot is one of this run.

    Raises:
        ValueError: It is of other settings, data or starting weights.
        KeyError: A part is missing.
    """
    saved = completed(state["config"], defaults)
    changed = differences(saved, config)
    if is_longer(config, saved):
        del changed["optim.epochs"]  # the run has been extended since
    if changed:
        raise ValueError(f"it has other settings: {in_words(changed)}")
    if state["init_from"] != init_from:
        raise ValueError(f"it started from {state['init_from']!r}, not {init_from!r}")
    if state["checkpoint_info"]["data_fingerprint"] != data_fingerprint:
        raise ValueError("it was trained on other images")


def _check_is_folder(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise RunError(f"`out` must be a folder, but {str(run)!r} is a file; choose another")


def _remove_empty(folders: Iterable[Path]) -> None:
    with suppress(OSError):  # a run was begun in it
        for folder in folders:
            folder.rmdir()


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config, data, init_from = record["config"], record["data"], record["init_from"]
        if not (isinstance(config, dict) and isinstance(config["optim"], dict)):
            raise TypeError("config must hold the settings")
        if not (isinstance(data["fingerprint"], str) and isinstance(data["images"], int)):
            raise TypeError("data must tell fingerprint and images")
        if not isinstance(init_from, str | None):
            raise TypeError("init_from must be a text or null")
        if not (isinstance(count := record.get("processes", 1), int) and count > 0):
            raise TypeError("processes must be a number above 0")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"{str(path)!r} is not a config.json of dino-train ({error!r}); choose another `out`"
        ) from error
    return record


def _versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "pillow")
    return {
        "dino-toolkit": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
