"""A small index and labelled features for the tests of the demo."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from dino_app.store.interface import Item, Store
from dino_app.store.opening import create_store
from dino_infer.embedding.embedder import Embedder
from dino_infer.features.files import Features

CLASSES = {"cat": data.chelsea, "coffee": data.coffee}
TILES = 6  # of each class


def tiles() -> dict[str, np.ndarray]:
    """Squares of two photos by a name as an index has it."""
    return {
        f"{label}/{i}.jpg": photo()[20 * i : 20 * i + 120, 40 * i : 40 * i + 120]
        for label, photo in CLASSES.items()
        for i in range(TILES)
    }


def small_index(folder: Path, embedder: Embedder) -> Store:
    """An index of the tiles; the last one has no thumbnail and no label."""
    pictures = tiles()
    store = create_store(folder, dim=embedder.feature_shape[0], model=embedder.description())
    items = [
        Item(
            id=name,
            vector=vector,
            metadata={"label": name.split("/")[0], "width": 120, "height": 120, "row": row},
            thumbnail=webp(picture),
        )
        for row, ((name, picture), vector) in enumerate(
            zip(pictures.items(), embedder(list(pictures.values())), strict=True)
        )
    ]
    last = items[-1]
    items[-1] = Item(id=last.id, vector=last.vector, metadata={"row": last.metadata["row"]})
    store.upsert(items)
    return store


def small_features(embedder: Embedder) -> Features:
    """Features of the tiles, as ``read_features`` gives them."""
    pictures = tiles()
    manifest = json.loads(json.dumps(embedder.description()))
    return Features(
        matrix=embedder(list(pictures.values())),
        paths=tuple(pictures),
        labels=np.array([name.split("/")[0] for name in pictures], dtype=object),
        manifest=manifest,
    )


def webp(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP")
    return file.getvalue()
