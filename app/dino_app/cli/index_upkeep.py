"""dino-index info, verify, copy, duplicates and snapshots: whole indexes."""

import csv
import json as json_format
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dino_app.cli.index_options import Flag, Index, open_index
from dino_infer.cli.exit_codes import UsageError, printable, usage_errors

if TYPE_CHECKING:
    from dino_app.indexing.duplicates import Group

Name = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]

COLUMNS = ("group", "kind", "keep", "id", "similarity", "width", "height", "bytes")


def info(index: Index, *, json: Flag = False) -> int:
    """Print the size of an index, its kind of search and the network of its vectors.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        json: Print JSON.
    """
    with open_index(index) as store:
        found = asdict(store.info())
        found["snapshots"] = store.snapshots()
    if json:
        print(json_format.dumps(found, indent=2))
        return 0
    for name, value in found.items():
        if name == "model":
            for part, setting in value.items():
                print(f"model {part}: {_shown(setting)}")
        elif value not in (None, []):
            print(f"{name}: {_shown(value)}")
    return 0


def verify(index: Index) -> int:
    """Check every file, item and thumbnail of an index.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
    """
    from dino_app.indexing.verifying import verify_store

    with open_index(index) as store:
        count, pictures = verify_store(store)
    print(f"{printable(index)}: {count} items and {pictures} thumbnails are sound")
    return 0


def copy(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FROM")],
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TO")],
    *,
    index: str = "auto",
) -> int:
    """Copy an index into another kind of store, or to another place.

    The copy appears when it is complete. Run it again to go on after a stop.

    Args:
        source: Folder, or milvus:FILE.db/COLLECTION.
        target: Folder, or milvus:FILE.db/COLLECTION, where there is no index yet.
        index: Kind of search in the copy, as for dino-index build.
    """
    from dino_app.indexing.copying import copy_index

    with open_index(source) as store:
        copied = copy_index(store, target, index=index)
    earlier = f", {copied.before} of them by an earlier run" if copied.before else ""
    print(f"{printable(target)}: {copied.items} items copied{earlier}")
    return 0


def snapshot(index: Index, name: Name) -> int:
    """Keep the present state of an index under a name.

    In a folder this takes hardly any room; in Milvus it copies every row.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        name: Name of the snapshot: up to 64 letters, digits, dots, dashes and underscores.
    """
    with open_index(index, writable=True) as store, usage_errors():
        store.snapshot(name)
    print(f"snapshot {name} of {printable(index)}")
    return 0


def snapshots(index: Index) -> int:
    """List the snapshots of an index.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
    """
    with open_index(index) as store:
        for name in store.snapshots():
            print(name)
    return 0


def restore(index: Index, name: Name) -> int:
    """Bring an index back into the state of a snapshot, also one that is damaged since.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        name: Name of the snapshot, which is kept.
    """
    from dino_app.indexing.indexes import restore_index

    with closing(restore_index(index, name)) as store:
        rows = store.info().rows
    print(f"{printable(index)}: back at {name}, {rows} items")
    return 0


def duplicates(
    index: Index,
    *,
    threshold: float = 0.95,
    exact: Flag = False,
    json: Flag = False,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
) -> int:
    """Find pictures that are the same file, or nearly the same picture.

    Prints CSV, a group of pictures that hang together after the other. The one to keep is the
    largest picture.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        threshold: Cosine similarity from which two pictures count as nearly the same.
        exact: Compare with every vector, even where an approximate index exists.
        json: Write JSON, with all metadata.
        out: File to write; by default stdout.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold must be above 0 and at most 1, got {threshold}")
    from dino_app.indexing.duplicates import duplicate_groups
    from dino_infer.files import write_bytes

    with open_index(index) as store:
        groups = duplicate_groups(store, threshold=threshold, exact=exact)
    text = _as_json(groups) if json else _as_csv(groups)
    if out is None:
        sys.stdout.write(text)
    else:
        write_bytes(out, text.encode())
        print(printable(out))
    extra = sum(len(group.members) - 1 for group in groups)
    links = sum(group.possible_links for group in groups)
    doubt = f"; {links} may be links (same bytes and time), so look before deleting"
    print(
        f"{len(groups)} groups, {extra} pictures that could go{doubt if links else ''}",
        file=sys.stderr,
    )
    return 0


def _as_csv(groups: "list[Group]") -> str:
    import io

    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for number, group in enumerate(groups, 1):
        for place, member in enumerate(group.members):
            sizes = [member.metadata.get(name, "") for name in COLUMNS[5:]]
            keep = "no" if place else "yes"
            rows.writerow(
                [number, group.kind, keep, printable(member.id), f"{member.similarity:.4f}", *sizes]
            )
    return text.getvalue()


def _as_json(groups: "list[Group]") -> str:
    plain: list[dict[str, Any]] = [
        {
            "kind": group.kind,
            "keep": group.members[0].id,
            "members": [
                {"id": m.id, "similarity": m.similarity, "metadata": dict(m.metadata)}
                for m in group.members
            ],
        }
        for group in groups
    ]
    return json_format.dumps(plain, indent=2) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return printable(value)
