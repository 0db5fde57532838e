"""Advice that helps: a flag that a message names is a flag of the command that prints it."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dino_app
import dino_export
import dino_infer
import dino_train
from dino_infer.cli.eval import VERBS as EVAL_VERBS

COMMANDS = {
    "dino-embed": "dino_infer.cli.embed",
    "dino-attention": "dino_infer.cli.attention",
    "dino-eval": "dino_infer.cli.eval",
    "dino-train": "dino_train.cli",
    "dino-export": "dino_export.cli",
    "dino-index": "dino_app.cli.index",
    "dino-serve": "dino_app.cli.serve",
    "dino-demo": "dino_app.cli.demo",
}
VERBS = {
    "dino-eval": list(EVAL_VERBS),
    "dino-index": ["build", "add", "delete", "search", "duplicates"],
}
# What only some commands run, by folder or file; all commands may print what the rest says.
PRINTED_BY = {
    "dino_train": {"dino-train"},
    "dino_export": {"dino-export"},
    "dino_app": {"dino-index"},
    "server": {"dino-serve"},
    "demo": {"dino-demo"},
    "evaluate": {"dino-eval"},
    "features": {"dino-embed"},
    "attention": {"dino-attention"},
}
# Flags of pip and torchrun, and of modules that are programs of their own.
ELSEWHERE = {"--force-reinstall", "--tile", "--seed", "--max-restarts"}
# A command with the flags that follow it, or a flag alone.
NAMED = re.compile(r"(?:(dino-[a-z]+)(?: [a-z]+)? )?(--[a-z][a-z.-]*[a-z])")


@cache
def flags_of(command: str, verb: str = "") -> frozenset[str]:
    from contextlib import redirect_stdout
    from io import StringIO

    shown = StringIO()
    arguments = [verb] if verb else ["auto"] if command == "dino-train" else []
    with redirect_stdout(shown):
        assert importlib.import_module(COMMANDS[command]).main([*arguments, "--help"]) == 0
    return frozenset(re.findall(r"--[a-z][a-z.-]*[a-z]", shown.getvalue()))


def all_flags_of(command: str) -> frozenset[str]:
    return frozenset().union(*(flags_of(command, verb) for verb in VERBS.get(command, [""])))


def messages(path: Path) -> Iterator[str]:
    """Texts of a module but its docstrings and style sheets."""
    return (text for text in texts(path) if "var(--" not in text)


def texts(path: Path) -> Iterator[str]:
    """Texts of a module but its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inside.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in node.values}
            parts = [v.value if isinstance(v, ast.Constant) else "{}" for v in node.values]
            yield "".join(map(str, parts))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in inside
        ):
            yield node.value


def modules() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Modules of the libraries, which do not know which command runs them, and their folders."""
    for package in (dino_infer, dino_train, dino_export, dino_app):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            inner = path.relative_to(root.parent).with_suffix("").parts
            if "cli" not in inner:
                yield path, inner


def test_every_flag_in_a_message_is_one_of_the_commands_that_may_print_it():
    wrong = []
    for path, inner in modules():
        owners = [PRINTED_BY[part] for part in inner if part in PRINTED_BY]
        printers = owners[-1] if owners else set(COMMANDS)
        for text in messages(path):
            for command, flag in NAMED.findall(text):
                for printer in {command} if command in COMMANDS else printers:
                    if flag not in all_flags_of(printer) | ELSEWHERE:
                        wrong.append(f"{path.name}: {printer} has no {flag}: {text[:60]!r}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_of_every_command_are_found(command: str):
    assert all_flags_of(command) - {"--help"}


def test_the_library_names_parameters_and_leaves_flags_to_commands():
    wrong = [
        f"{path.name}: {text[:60]!r}"
        for path, inner in modules()
        if inner[0] == "dino_infer"
        for text in messages(path)
        for command, flag in NAMED.findall(text)
        if not command and flag not in ELSEWHERE
    ]
    assert not wrong, "\n".join(wrong)
