"""The nearest rows by inner product, exactly: with FAISS, or as matrix products on a GPU."""

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

Array = np.ndarray | Tensor


class Neighbors(NamedTuple):
    """The nearest training rows of each query, most similar first."""

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

    Rows that are equally near, but for float rounding, come in any order.

    Args:
        train: From ``normalized``; on a GPU it must fit into its memory.
        queries: From ``normalized``.
        k: Rows wanted, at most as many as there are.
        device: Where to search arrays, "auto" is a GPU if there is one. Tensors are searched
            where they are, by ``matmul_neighbors``.

    Raises:
        DinoError: No such device here.
    """
    placed = [rows.device for rows in (train, queries) if isinstance(rows, Tensor)]
    where = placed[0] if placed else _device(device)
    if placed or not _faiss_runs_on(where, k):
        return matmul_neighbors(
            torch.as_tensor(train, device=where), torch.as_tensor(queries, device=where), k=k
        )
    return _faiss_neighbors(train, queries, k, where)


@torch.no_grad()
def matmul_neighbors(
    train: Float32[Tensor, "train dim"], queries: Float32[Tensor, "queries dim"], *, k: int
) -> Neighbors:
    """``exact_neighbors`` of tensors, searched on the device that holds them."""
    chunk = max(1, SCORES_AT_ONCE // len(train))
    with _full_float32():
        starts = range(0, max(1, len(queries)), chunk)
        found = [(queries[start : start + chunk] @ train.T).topk(k) for start in starts]
    similarities, rows = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return Neighbors(similarities, rows)


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
    """Whether the FAISS that is installed, for CPUs only or also for GPUs, can do this search."""
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
