"""Parsing of every command's arguments, its --help with reflowed texts, and its usage errors.

tyro keeps the line breaks of docstrings and says {None} and (default: None) of flags that may be
left out; here neither is shown, and no flag takes the word None. What tyro refuses in a box of
several lines becomes a UsageError of one.
"""

import difflib
import io
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import tyro
import tyro._errors as refused

from dino_infer.cli.exit_codes import UsageError, flags_of

CONFIG = (tyro.conf.DisallowNone,)
EDGES = len("│ ") + len(" │")
NOT_GIVEN = re.compile(r"\s*\(default:\s+(None|False|)\)$")  # a flag that does nothing unless given

# Names that other projects' commands have for our flags.
ELSEWHERE = {
    "--model": ("--weights", "--model.arch"),
    "--model-name": ("--weights", "--model.arch"),
    "--model-path": ("--weights",),
    "--pretrained-weights": ("--weights", "--init-from"),
    "--checkpoint": ("--weights", "--init-from"),
    "--ckpt": ("--weights", "--init-from"),
    "--resume-from": ("--init-from",),
    "--arch": ("--model.arch",),
    "--epochs": ("--optim.epochs",),
    "--lr": ("--optim.lr",),
    "--batch-size": ("--optim.batch-size",),
    "--batch-size-per-gpu": ("--batch-size", "--optim.batch-size"),
    "--data-path": ("--data", "--images"),
    "--data-dir": ("--data", "--images"),
    "--output": ("--out",),
    "--output-dir": ("--out",),
    "--num-workers": ("--workers",),
    "--image-size": ("--size",),
    "--img-size": ("--size",),
    "--threshold": ("--mass",),
    "--gpu": ("--device",),
}

NO_NUMBER = re.compile(r"(?:invalid literal|could not convert).*: ('.*')")  # Python's own words


def parsed(
    command: Callable[..., Any], *, prog: str, args: Sequence[str], description: str | None = None
) -> Any:
    """Call a function, or build a dataclass, with the arguments of a command line."""

    def parse(args: Sequence[str]) -> Any:
        return tyro.cli(command, prog=prog, args=args, description=description, config=CONFIG)

    return _answer(parse, args)


def parsed_verbs(verbs: Mapping[str, Callable[..., Any]], *, prog: str, args: Sequence[str]) -> Any:
    """Call the function of the verb that a command line begins with."""

    def parse(args: Sequence[str]) -> Any:
        return tyro.extras.subcommand_cli_from_dict(
            dict(verbs), prog=prog, args=args, config=CONFIG
        )

    return _answer(parse, args, verbs)


def _answer(
    parse: Callable[[Sequence[str]], Any], args: Sequence[str], verbs: Iterable[str] = ()
) -> Any:
    def nearest(token: str) -> list[str]:
        flags = flags_of(parse, args)
        name = token.partition("=")[0].replace("_", "-")
        if foreign := [flag for flag in ELSEWHERE.get(name, ()) if flag in flags]:
            return foreign
        return difflib.get_close_matches(name, [*verbs, *sorted(flags)], cutoff=0.75)

    def refuse(event: refused.ParseErrorEvent) -> None:
        if message := _message(event, nearest):
            raise UsageError(message)

    with _help_in_paragraphs(args), refused.on_parse_error(refuse):
        return parse(args)


def _message(event: refused.ParseErrorEvent, nearest: Callable[[str], list[str]]) -> str:
    """One line for what tyro refuses; empty leaves an unknown kind of event to its own box."""
    match event:
        case refused.MissingArgs():
            names = [str(each.arg.get_invocation_text()[1]) for each in event.missing_arguments]
            unknown = [_unknown(token, nearest) for token in event.unrecognized_tokens[:1]]
            verb = event.missing_arguments[0].source_parser.prog_suffix
            prog = f"{event.prog} {verb}".strip()
            return "; ".join([f"missing {', '.join(names)}", *unknown, f"see {prog} --help"])
        case refused.UnrecognizedArgs():
            return f"{_unknown(event.tokens[0], nearest)}; see {event.prog} --help"
        case refused.InvalidChoice():
            choices = ", ".join(sorted(set(event.choices) - {"None"}))
            return f"{event.argument.display_name()} must be one of {choices}, got {event.value!r}"
        case refused.BadValue():
            return f"{event.argument.display_name()} needs {event.argument.lowered.metavar}"
        case refused.MissingSubcommand():
            verbs = ", ".join(event.subcommand_spec.parser_from_name)
            return f"expected one of {verbs}; see {event.prog} --help"
        case refused.InstantiationFailure(argument=None):
            return event.message
        case refused.InstantiationFailure(argument=argument) if argument is not None:
            name, kind = argument.display_name(), argument.lowered.metavar
            if came := NO_NUMBER.search(event.message):
                return f"{name} must be {kind}, got {came[1]}"
            return f"{name}: {event.message}"
    return ""


def _unknown(token: str, nearest: Callable[[str], list[str]]) -> str:
    near = " or ".join(nearest(token))
    return f"no argument {token!r}" + (f" (did you mean {near}?)" if near else "")


@contextmanager
def _help_in_paragraphs(args: Sequence[str]) -> Iterator[None]:
    if {"-h", "--help"}.isdisjoint(args):
        yield
        return
    # tyro draws boxes where the encoding has them.
    page = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8")
    try:
        with redirect_stdout(page):
            yield
    finally:
        page.seek(0)
        print(flowing(page.read()), end="")


def flowing(page: str) -> str:
    """Lay each help text out as one paragraph, and wrap what is wider than the boxes."""
    lines = page.splitlines()
    width = max((len(line) for line in lines if line.startswith("╭")), default=100)
    box: list[str] = []
    shown: list[str] = []
    for line in lines:
        if line.startswith("│") and line.count("│") == 2:
            box.append(line[2:-2])
            continue
        shown += [f"│ {row.ljust(width - EDGES)} │" for row in _rows(box, width - EDGES)]
        box = []
        shown += textwrap.wrap(line, width) if len(line) > width and line[0] != "│" else [line]
    return "\n".join(shown) + "\n"


def _rows(box: Sequence[str], width: int) -> Iterator[str]:
    """The rows of a box: flags in the left column, a text that may go on in the right one."""
    indents = [len(row) - len(row.lstrip()) for row in box if row.startswith("    ")]
    if not indents:
        yield from (NOT_GIVEN.sub("", row.rstrip()) for row in box)
        return
    indent = min(indents)
    text: list[str] = []
    left = ""
    for row in box:
        if not row[:indent].strip():
            text.append(row.strip())
            continue
        # The next flag, or a line over the whole width.
        yield from _entry(left, " ".join(text), indent, width)
        if row[indent - 2 : indent] == "  ":
            left, text = row[:indent], [row[indent:].strip()]
        else:  # a flag that is longer than its column stands alone, and its text begins below
            yield row
            left, text = "", []
    yield from _entry(left, " ".join(text), indent, width)


def _entry(left: str, text: str, indent: int, width: int) -> Iterator[str]:
    if left.lstrip().startswith("•"):  # a verb, whose own page has the sentences after the first
        text = re.split(r"(?<=\.)\s+(?=[A-Z])", text)[0]
    lines = textwrap.wrap(NOT_GIVEN.sub("", text), width - indent, break_on_hyphens=False)
    if left and not lines:
        yield left
    for line in lines:
        yield left.ljust(indent) + line
        left = ""
