"""The next base: what is alive of a view, in the order of the ids, with its index."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dino_app.store.faiss_store.base import PREFIX, BaseWriter, VectorParts, base_folders
from dino_app.store.faiss_store.disk import item_table
from dino_app.store.faiss_store.disk.item_table import NewItem, write_items
from dino_app.store.faiss_store.disk.manifest import IndexNote, Manifest
from dino_app.store.faiss_store.search import approximate, row_sets
from dino_app.store.faiss_store.search.approximate import Proposer
from dino_app.store.faiss_store.search.exact import Vectors
from dino_app.store.faiss_store.view import View
from dino_app.store.item_checks import metadata_text

logger = logging.getLogger(__name__)

LEAST_ROWS = 10_000
SHARE = 0.1


def is_due(view: View) -> bool:
    """Tell if so much has come or gone since the base that a merge is worth its time."""
    changed = len(view.delta_alive) + view.base.rows - view.base_rows
    return changed > max(LEAST_ROWS, SHARE * view.base.rows)


def next_number(folder: Path) -> int:
    """A number that no base has."""
    numbers = [int(path.stem.removeprefix(PREFIX)) for path in base_folders(folder)]
    return max(numbers, default=0) + 1


def write_empty_base(
    folder: Path, *, dim: int, index: str, model: Mapping[str, Any]
) -> tuple[str, str]:
    """Write a base without rows; returns its name and the SHA-256 of its manifest."""
    writer = BaseWriter(folder, number=1)
    source = write_items(writer.folder / item_table.NAME, old=None, dead=[], new=iter(()))
    vectors = writer.write_vectors(VectorParts(None, np.empty((0, dim), np.float32), source))
    flat = IndexNote(kind=approximate.FLAT)
    like = Manifest(dim=dim, rows=0, index=flat, wanted_index=index, model=model, files={})
    return writer.target.name, writer.finish(vectors, like=like, proposer=None)


def write_merged_base(folder: Path, view: View) -> tuple[str, str]:
    """Write a base of what a view holds; returns its name and the SHA-256 of its manifest.

    Raises:
        OSError: It cannot be written; nothing stays then.
    """
    writer = BaseWriter(folder, number=next_number(folder))
    try:
        base = view.base
        source = write_items(
            writer.folder / item_table.NAME,
            old=base.folder / item_table.NAME,
            dead=row_sets.rows_of(~view.alive, base.rows).tolist(),
            new=_new_items(view),
        )
        delta_vectors = view.delta.vectors(len(view.delta_alive))
        vectors = writer.write_vectors(VectorParts(base.vectors, delta_vectors, source))
        proposer = _proposer(vectors, base.manifest.wanted_index)
        return writer.target.name, writer.finish(vectors, like=base.manifest, proposer=proposer)
    finally:
        shutil.rmtree(writer.folder, ignore_errors=True)


def _new_items(view: View) -> Iterator[NewItem]:
    delta = view.delta
    for row in np.flatnonzero(view.delta_alive).tolist():
        text = metadata_text(delta.metadata[row])
        yield NewItem(-1 - row, delta.ids[row], text, delta.pictures[row])


def _proposer(vectors: Vectors, wanted: str) -> Proposer | None:
    kind = approximate.chosen_kind(wanted, len(vectors))
    proposer = None if kind == approximate.FLAT else approximate.built(vectors, kind=kind)
    if proposer is None:
        logger.info("index of %d rows: %s, exact", len(vectors), approximate.FLAT)
        return None
    note = proposer.note
    logger.info(
        "index of %d rows: %s, recall@10 %.3f with effort %d and %d rows scored exactly a query",
        len(vectors),
        note.kind,
        note.recall_at_10,
        note.effort,
        note.candidates,
    )
    if (note.recall_at_10 or 0) < approximate.RECALL_WANTED:
        logger.warning("%s finds less than %s", note.kind, approximate.RECALL_WANTED)
        return None if wanted == "auto" else proposer
    return proposer
