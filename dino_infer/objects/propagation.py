"""Labels of a video's first frame carried to all others by the similarity of patches."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, UInt8
from PIL import Image
from torch import Tensor

TILE = 12
"""Side in patches of the square of queries that are compared at once: smaller ones waste less on
patches out of reach, larger ones multiply faster."""


def propagate_labels(
    frames: Iterable[Float[Tensor, "rows columns dim"]],
    first: Float[Tensor, "labels rows columns"],
    *,
    last_frames: int = 7,
    neighborhood: int = 12,
    top_k: int = 5,
    temperature: float = 0.1,
) -> Iterator[Float[Tensor, "labels rows columns"]]:
    """Shares of the labels in each patch of every frame after the first, one frame at a time.

    A patch takes the mean of the labels of the ``top_k`` patches that are most similar to it (by
    cosine) among those near its place in the first frame and in the ``last_frames`` before it,
    weighted by exp(cosine / ``temperature``). No more frames than these are held, and the work of a
    frame grows with the patches times the neighbourhood, not with the square of the patches.

    Args:
        frames: Patch tokens of each frame in order, on one device.
        first: Shares of the labels in the patches of the first frame, as ``patch_labels`` makes.
        last_frames: Number of frames before the current one to look at, beside the first.
        neighborhood: Farthest row and column, in patches, that a label may come from.
        top_k: Number of patches whose labels are averaged.
        temperature: Temperature of the weights; lower trusts the most similar patch more.

    Raises:
        ValueError: A number is out of range, or a frame and the labels differ in rows or columns.

    Source: https://arxiv.org/abs/2104.14294, section 4.2.2, after Jabri et al. 2020,
    https://arxiv.org/abs/2006.14613, appendix.
    """
    if last_frames < 0 or neighborhood < 0 or top_k < 1 or temperature <= 0:
        raise ValueError(
            "expected `last_frames` and `neighborhood` from 0, `top_k` from 1 and `temperature` "
            f"above 0, got {last_frames}, {neighborhood}, {top_k} and {temperature}"
        )
    return _propagated(
        frames, first, deque(maxlen=last_frames), neighborhood, top_k=top_k, temperature=temperature
    )


def _propagated(
    frames: Iterable[Tensor],
    first: Tensor,
    recent: deque[tuple[Tensor, Tensor]],
    reach: int,
    *,
    top_k: int,
    temperature: float,
) -> Iterator[Tensor]:
    start = None
    for frame in frames:
        if frame.shape[:2] != first.shape[1:]:
            raise ValueError(
                "frames must have the patches of the labels: expected (rows, columns) = "
                f"{tuple(first.shape[1:])}, got {tuple(frame.shape[:2])}"
            )
        tokens = F.normalize(frame.float(), dim=-1)
        if start is None:
            start = (tokens, first.to(tokens))
            continue
        sources, labels = (torch.stack(part) for part in zip(start, *recent, strict=True))
        carried = _carried(
            tokens, sources, labels, reach=reach, top_k=top_k, temperature=temperature
        )
        recent.append((tokens, carried))
        yield carried


def _carried(
    tokens: Float[Tensor, "rows columns dim"],
    sources: Float[Tensor, "frames rows columns dim"],
    labels: Float[Tensor, "frames labels rows columns"],
    *,
    reach: int,
    top_k: int,
    temperature: float,
) -> Float[Tensor, "labels rows columns"]:
    """Labels of one frame, square by square: each is compared with its surroundings alone."""
    result = torch.empty_like(labels[0])
    rows, columns = tokens.shape[:2]
    for top in range(0, rows, TILE):
        for left in range(0, columns, TILE):
            own = _within(top, left, TILE, rows, columns)
            near = _within(top - reach, left - reach, TILE + 2 * reach, rows, columns)
            values = labels[:, :, *near].transpose(0, 1).flatten(1)
            similarity = tokens[own].flatten(0, 1) @ sources[:, *near].flatten(0, 2).T
            far = _out_of_reach(own, near, reach, device=tokens.device)
            similarity.view(len(similarity), len(labels), -1).masked_fill_(far[:, None], -torch.inf)
            best = similarity.topk(min(top_k, similarity.shape[1]))
            weights = torch.softmax(best.values / temperature, dim=1)
            mean = (values[:, best.indices] * weights).sum(dim=-1)
            result[:, *own] = mean.view(len(mean), *tokens[own].shape[:2])
    return result


def _within(top: int, left: int, side: int, rows: int, columns: int) -> tuple[slice, slice]:
    """Part of a square that lies on the grid."""
    return (
        slice(max(top, 0), min(top + side, rows)),
        slice(max(left, 0), min(left + side, columns)),
    )


def _out_of_reach(
    own: tuple[slice, slice], near: tuple[slice, slice], reach: int, *, device: torch.device
) -> Tensor:
    """True for each (query, source) of two rectangles that lie too far apart."""
    rows, columns = (
        (torch.arange(b.start, b.stop) - torch.arange(a.start, a.stop)[:, None]).abs() > reach
        for a, b in zip(own, near, strict=True)
    )
    far = rows[:, None, :, None] | columns[None, :, None, :]
    return far.flatten(2).flatten(0, 1).to(device)


def patch_labels(
    mask: Integer[np.ndarray, "height width"], labels: Sequence[int], grid: tuple[int, int]
) -> Float[Tensor, "labels rows columns"]:
    """Labels of a mask on a grid of patches: 1 for the label at the centre of a patch, else 0.

    A label that no centre meets takes the patch that it covers most, so that small objects are not
    lost.

    Args:
        mask: A label for each pixel; those that ``labels`` lacks count for none.
        labels: The labels to follow, the background among them.
        grid: Rows and columns of patches.
    """
    rows, columns = grid
    shrunk = Image.fromarray(mask.astype(np.int32)).resize(
        (columns, rows), Image.Resampling.NEAREST
    )
    wanted = torch.tensor(labels)[:, None, None]
    found = (torch.from_numpy(np.array(shrunk)) == wanted).float()
    for i, label in enumerate(labels):
        if not found[i].any() and (mask == label).any():
            inside = torch.from_numpy(mask == label).float()
            cell = int(F.adaptive_avg_pool2d(inside[None, None], grid).argmax())
            found[:, cell // columns, cell % columns] = 0
            found[i, cell // columns, cell % columns] = 1
    return found


def pixel_labels(
    shares: Float[Tensor, "labels rows columns"],
    labels: Sequence[int],
    size: tuple[int, int],
    *,
    patch_size: int,
) -> UInt8[np.ndarray, "height width"]:
    """Mask of a frame from the shares of labels in its patches.

    Each label is enlarged to the pixels that the network saw and stretched from 0 to 1; a pixel
    takes the strongest label.

    Args:
        shares: Result of ``propagate_labels``.
        labels: Label of each plane, from 0 to 255.
        size: Height and width of the frame in pixels.
        patch_size: Side of a patch in pixels.
    """
    grown = F.interpolate(shares[None].float(), scale_factor=patch_size, mode="bilinear")[0]
    low, high = grown.amin(dim=(1, 2), keepdim=True), grown.amax(dim=(1, 2), keepdim=True)
    # A label that is everywhere stays 1 and one that is nowhere 0.
    stretched = torch.where(high > low, (grown - low) / (high - low).clamp_min(1e-12), high)
    strongest = torch.tensor(labels, dtype=torch.uint8)[stretched.argmax(dim=0).cpu()]
    height, width = size
    picture = Image.fromarray(strongest.numpy())
    return np.array(picture.resize((width, height), Image.Resampling.NEAREST))
