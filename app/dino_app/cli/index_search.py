"""dino-index search: the pictures nearest to a picture, an item or a vector."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dino_app.cli.index_options import Flag, Index, index_embedder, open_index, parsed_condition
from dino_app.errors import StoreError
from dino_infer.cli.exit_codes import UsageError, printable
from dino_infer.cli.options import ComputeOptions, ViewOptions, WeightOptions, check_positive
from dino_infer.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from dino_app.store.interface import Found, Hit


def search(
    index: Index,
    *,
    image: str | None = None,
    id: str | None = None,
    vector: Path | None = None,
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
    filter: str | None = None,
    exact: Flag = False,
    json: Flag = False,
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[ViewOptions] = ViewOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
) -> int:
    """Find the pictures nearest to one; prints cosine similarity (1 is the same), id and label.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        image: Image file to search with.
        id: Item of the index to search with; the results leave it out.
        vector: .npy file of one vector to search with.
        k: Number of results, at most 1,000.
        filter: Condition on the metadata of results, as JSON: {"label": {"$in": ["cat", "dog"]}}.
        exact: Compare with every vector, even where an approximate index exists.
        json: Print JSON, with all metadata.
        weights: Weights that embed the image, which must be those that made the index, the default.
        view: Part and size of the image that the network sees; by default as the index was made.
        compute: Execution of the network.
    """
    if sum(given is not None for given in (image, id, vector)) != 1:
        raise UsageError("pass one of --image, --id and --vector")
    check_positive("--k", k)
    about = (weights, view, compute)
    if image is None and about != (WeightOptions(), ViewOptions(), ComputeOptions()):
        raise UsageError(
            "flags about weights, views and how to run the network are for --image; nothing is "
            "embedded here"
        )
    condition = parsed_condition(filter)
    from dino_app.indexing.indexes import check_exact, near_item
    from dino_app.store.interface import MAX_K, SearchParams

    if k > MAX_K:
        raise UsageError(f"--k must be at most {MAX_K}, got {k}")
    how = SearchParams(exact=exact)
    with open_index(index) as store:
        if id is not None:
            near = near_item(store, id, k=k, filter=condition, params=how, include=["metadata"])
            if near is None:
                raise StoreError(f"no item {id!r} in {index!r}")
            check_exact(near, how)
            _print(near, as_json=json)
            return 0
        if image is not None:
            query = index_embedder(store.info().model, weights, compute, view)([image])
        else:
            assert vector is not None
            query = _read_vector(vector)
        try:
            found = store.search(query, k=k, filter=condition, params=how, include=["metadata"])
        except ValueError as error:
            raise DataError(f"cannot search with {str(vector)!r}: {error}") from error
    check_exact(found, how)
    _print(found, as_json=json)
    return 0


def _read_vector(path: Path) -> "np.ndarray":
    import numpy as np

    try:
        vector: np.ndarray = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(
            f"expected a .npy file of one vector, got {str(path)!r}: {error}"
        ) from error
    if not isinstance(vector, np.ndarray) or vector.dtype.kind not in "fiu":
        raise DataError(f"expected a .npy file of numbers, got {str(path)!r}")
    if vector.ndim != 1 and vector.shape[:-1] != (1,):
        raise DataError(f"expected one vector, got an array of shape {vector.shape}")
    return vector.reshape(1, -1).astype(np.float32)


def _print(found: "Found", *, as_json: bool) -> None:
    (hits,) = found.hits
    if as_json:
        results = [
            {"id": hit.id, "score": hit.score, "metadata": dict(hit.metadata or {})} for hit in hits
        ]
        print(json.dumps({"results": results, "exact": found.exact}, indent=2))
        return
    for hit in hits:
        print(_line(hit))


def _line(hit: "Hit") -> str:
    label = (hit.metadata or {}).get("label")
    return f"{hit.score:7.4f}  {printable(hit.id)}" + ("" if label is None else f"  {label}")
