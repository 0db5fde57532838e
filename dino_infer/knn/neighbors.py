"""The nearest rows by inner product, exactly: with FAISS, or as matrix products on a GPU.

Both compute in float32 with roundings that depend on the batch. So they only propose: what could
belong to the best k is scored again in float64, and equally near rows come in their own order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Shaped
from torch import Tensor

SCORES_AT_ONCE = 2**27  # query x training row scores of a matrix product: 512 MiB of float32
FAISS_GPU_MAX_K = 2048  # FAISS on a GPU selects no more
SPARE = 16  # rows proposed beyond k, which show where equal similarities end
ROUNDING = 4e-6  # more than float32 sums of unit vectors of some thousand values are off
VALUES_AT_ONCE = 2**24  # of rows that are scored again: 128 MiB of float64
OPEN_AT_ONCE = 256  # queries whose equal similarities went on, scored with all rows together

Array = np.ndarray | Tensor


class Neighbors(NamedTuple):
    """The nearest training rows of each query: most similar first, equally similar ones by row."""

    similarities: Float32[np.ndarray, "queries k"]
    rows: Int64[np.ndarray, "queries k"]


def normalized(features: Shaped[Array, "rows dim"]) -> Float32[Array, "rows dim"]:
    """Rows scaled to length 1 as contiguous float32; a zero row stays zero.

    A tensor gives a tensor on the same device, an array gives an array.

    Raises:
        ValueError: A value is not finite; the message names the first such row.
    """
    if isinstance(features, Tensor):
        return _normalized_tensor(features)
    rows = np.array(features, dtype=np.float32, order="C")
    # In float64, as the square of a float32 may be too large or too small for float32.
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))[:, None]
    _check_finite(np.isfinite(norms[:, 0]))
    np.divide(rows, norms, out=rows, where=norms > 0, casting="same_kind")
    return rows


def exact_neighbors(
    train: Float32[Array, "train dim"],
    queries: Float32[Array, "queries dim"],
    *,
    k: int,
    device: str | torch.device = "cpu",
) -> Neighbors:
    """The training rows with the largest inner products with each query.

    Equally similar rows come in their own order, the lower row first, so that a smaller k gives
    the beginning of what a larger one gives, whatever else is asked at the same time.

    Args:
        train: Rows from ``normalized``; on a GPU it must fit into its memory.
        queries: Rows from ``normalized``.
        k: Rows wanted, at most as many as there are.
        device: Device to search arrays on, "auto" is a GPU if there is one. Tensors are searched
            where they are, by matrix products.

    Raises:
        DinoError: No such device here.
    """
    placed = [rows.device for rows in (train, queries) if isinstance(rows, Tensor)]
    where = placed[0] if placed else _device(device)
    proposed = min(len(train), k + SPARE)
    if not placed and _faiss_runs_on(where, proposed):
        found = _faiss_neighbors(train, queries, proposed, where)
        where = torch.device("cpu")
    else:
        train, queries = (torch.as_tensor(rows, device=where) for rows in (train, queries))
        found = _matmul_neighbors(train, queries, proposed)
    return _ordered(
        torch.as_tensor(train, device=where), torch.as_tensor(queries, device=where), found, k
    )


@torch.no_grad()
def _matmul_neighbors(
    train: Float32[Tensor, "train dim"], queries: Float32[Tensor, "queries dim"], k: int
) -> Neighbors:
    chunk = max(1, SCORES_AT_ONCE // len(train))
    with _full_float32():
        starts = range(0, max(1, len(queries)), chunk)
        found = [(queries[start : start + chunk] @ train.T).topk(k) for start in starts]
    similarities, rows = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return Neighbors(similarities, rows)


@torch.no_grad()
def _ordered(
    train: Float32[Tensor, "train dim"],
    queries: Float32[Tensor, "queries dim"],
    proposed: Neighbors,
    k: int,
) -> Neighbors:
    """The best ``k`` of more rows that were proposed, or of all where equal ones go on."""
    best = Neighbors(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
    similarities = proposed.similarities
    goes_on = np.zeros(len(queries), np.bool_)
    if similarities.shape[1] < len(train):
        goes_on = similarities[:, -1] >= similarities[:, k - 1] - ROUNDING
    chunk = max(1, VALUES_AT_ONCE // max(1, similarities.shape[1] * train.shape[1]))
    for places in _parts(np.flatnonzero(~goes_on), chunk):
        rows = torch.from_numpy(np.sort(proposed.rows[places], axis=1)).to(train.device)
        scores = (train[rows].double() @ queries[places].double()[..., None])[..., 0].float()
        _keep_best(best, places, scores, rows)
    for places in _parts(np.flatnonzero(goes_on), OPEN_AT_ONCE):
        some = queries[places]
        with _full_float32():
            least = torch.from_numpy(similarities[places, k - 1] - ROUNDING).to(train.device)
            close = (some @ train.T >= least[:, None]).any(dim=0).nonzero()[:, 0]
        scores = (some.double() @ train[close].double().T).float()
        _keep_best(best, places, scores, close.expand(len(places), -1))
    return best


def _parts(places: Int64[np.ndarray, " _"], size: int) -> Iterator[Int64[np.ndarray, " _"]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _keep_best(
    best: Neighbors,
    places: Int64[np.ndarray, " some"],
    scores: Float32[Tensor, "some candidates"],
    rows: Int64[Tensor, "some candidates"],
) -> None:
    """Put the best rows of some queries into ``best``; ``rows`` ascend."""
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    k = best.rows.shape[1]
    best.similarities[places] = scores[:, :k].cpu().numpy()
    best.rows[places] = rows.gather(1, order[:, :k]).cpu().numpy()


def _faiss_neighbors(train: Any, queries: Any, k: int, device: torch.device) -> Neighbors:
    import faiss

    search: Any = faiss.knn  # annotated as if it took tensors only
    if device.type == "cuda":
        number = -1 if device.index is None else device.index
        search = partial(faiss.knn_gpu, faiss.StandardGpuResources(), device=number)
    return Neighbors(*search(queries, train, k, metric=faiss.METRIC_INNER_PRODUCT))


def _normalized_tensor(features: Shaped[Tensor, "rows dim"]) -> Float32[Tensor, "rows dim"]:
    rows = features.detach().float()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float64)
    _check_finite(norms[:, 0].isfinite().cpu().numpy())
    return torch.where(norms > 0, rows / norms, rows).float()


def _check_finite(finite: Bool[np.ndarray, " rows"]) -> None:
    if not finite.all():
        first = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"features must be finite, but row {first} holds NaN or infinity")


def _device(device: str | torch.device) -> torch.device:
    if str(device) == "cpu":
        return torch.device("cpu")
    from dino_infer.devices import resolved_device

    return resolved_device(device)


def _faiss_runs_on(device: torch.device, k: int) -> bool:
    """Tell if the installed FAISS, for CPUs only or also for GPUs, can do this search."""
    import faiss

    if device.type == "cuda":
        return k <= FAISS_GPU_MAX_K and faiss.get_num_gpus() > (device.index or 0)
    return device.type == "cpu"


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keep TF32, which a training loop may have allowed, out of a search that is called exact."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before
