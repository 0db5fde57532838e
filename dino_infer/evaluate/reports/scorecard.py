"""Scorecard: the results of several protocols on one network, as JSON, Markdown and one page."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dino_infer.errors import DataError
from dino_infer.evaluate.reports.page import by_reason, page_of
from dino_infer.evaluate.reports.result import Result, aligned, shown, value_of
from dino_infer.files import parsed_object, whole_file

FORMAT_VERSION = 1
FILES = ("scorecard.json", "scorecard.md", "scorecard.html")


class Line(NamedTuple):
    """One protocol in the table of a scorecard."""

    protocol: str
    value: str
    """Name of the headline value."""
    model: str
    floors: str


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """Results of protocols on one network."""

    network: Mapping[str, Any]
    """Weights, their hash and architecture."""
    results: Sequence[Result]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Why each other protocol was not run."""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Protocols whose data could not be used, with the error."""

    def lines(self) -> list[Line]:
        """The headline of each result."""
        return [_line(result) for result in self.results]

    def notes(self) -> list[str]:
        """A line for each reason why protocols have no figures."""
        return [
            f"{', '.join(names)}: {what}: {why}"
            for what, reasons in (("not run", self.skipped), ("failed", self.broken))
            for why, names in by_reason(reasons).items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Everything but tables and pictures, in plain values."""
        return {
            "format_version": FORMAT_VERSION,
            "network": dict(self.network),
            "results": [result.as_json() for result in self.results],
            "skipped": dict(self.skipped),
            "broken": dict(self.broken),
        }

    def as_text(self) -> str:
        """The table of the headlines for a terminal, and what was not run."""
        return "\n".join([aligned([Line._fields, *self.lines()]), *self.notes()])

    def as_markdown(self) -> str:
        """A table of the headlines, and what was not run."""
        rows = [
            ("protocol", "figure", "model", "floors"),
            ("---", "---", "---:", "---"),
            *self.lines(),
        ]
        table = "\n".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows
        )
        return "\n".join([table, "", *(f"- {note}" for note in self.notes())]).rstrip() + "\n"


def write_scorecard(folder: Path, scorecard: Scorecard) -> list[Path]:
    """Write ``scorecard.json``, ``scorecard.md`` and ``scorecard.html``, or none of them.

    Args:
        folder: An existing folder, see ``hold_report``.
        scorecard: Scorecard to write.

    Returns:
        The files.
    """
    contents = (
        json.dumps(scorecard.as_json(), indent=2) + "\n",
        scorecard.as_markdown(),
        page_of(scorecard.network, scorecard.results, scorecard.skipped, scorecard.broken),
    )
    with ExitStack() as files:
        for name, content in zip(FILES, contents, strict=True):
            path = files.enter_context(whole_file(folder / name))
            path.write_text(content, encoding="utf-8")
    return [folder / name for name in FILES]


def read_figures(path: str | Path) -> dict[str, dict[str, Any]]:
    """Results by protocol in a ``scorecard.json``, or the one in a ``result.json``.

    Raises:
        DataError: The file cannot be read, or is neither.
    """
    try:
        content = parsed_object(Path(path).read_bytes())
        if content is None:
            raise ValueError("it holds no JSON object")
        results = content.get("results", [content])
        found = {str(one["protocol"]): _checked(one) for one in results}
        if len(found) < len(results):
            raise ValueError("a protocol comes twice")
        return found
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{str(path)!r} is no scorecard.json or result.json of dino-eval: {error}"
        ) from error


def _checked(result: Mapping[str, Any]) -> dict[str, Any]:
    model = result["figures"][0]
    for part in ("values", "spreads"):
        for value in model[part].values():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise TypeError(f"expected a number, got {value!r}")
    return {
        "data": result["data"],
        "settings": result["settings"],
        "values": model["values"],
        "spreads": model["spreads"],
    }


def _line(result: Result) -> Line:
    name = result.headline
    floors = [
        f"{one.of} {shown(one.values[name])}" for one in result.figures[1:] if name in one.values
    ]
    return Line(result.protocol, name, value_of(result.model, name), ", ".join(floors) or "-")
