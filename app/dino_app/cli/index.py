"""dino-index: pictures to a searchable index, and everything that is done with one.

dino-index build photos/ -o photos.index/
dino-index search photos.index/ --image query.jpg
"""

from collections.abc import Callable, Sequence
from typing import Any

from dino_app.cli.index_build import add, build, delete
from dino_app.cli.index_plan import plan
from dino_app.cli.index_search import search
from dino_app.cli.index_upkeep import copy, duplicates, info, restore, snapshot, snapshots, verify
from dino_infer.cli.exit_codes import exit_code
from dino_infer.cli.parsing import parsed_verbs

VERBS: dict[str, Callable[..., Any]] = {
    "build": build,
    "add": add,
    "delete": delete,
    "search": search,
    "duplicates": duplicates,
    "info": info,
    "verify": verify,
    "copy": copy,
    "snapshot": snapshot,
    "snapshots": snapshots,
    "restore": restore,
    "plan": plan,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-index and return its exit code."""
    return exit_code(
        lambda args: parsed_verbs(VERBS, prog="dino-index", args=args),
        prog="dino-index",
        args=args,
    )
