"""JPEGs decoded on the GPU: workers only read them; whatever is no plain JPEG they decode."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from torch import Tensor

from dino_infer.errors import ImageError
from dino_infer.images import jpegs, turbo
from dino_infer.images.read import ImageFailure, read_image
from dino_train.crops.memory import PackedImages, pack_images, room_for
from dino_train.crops.on_device import DeviceBatch
from dino_train.crops.parameters import CropParams


@dataclass(frozen=True, kw_only=True)
class EncodedBatch:
    """Images on their way to a GPU, most of them as the bytes of their files."""

    encoded: UInt8[Tensor, " bytes"]
    """JPEGs, one behind the other; on the host, where their headers are read."""
    ends: tuple[int, ...]
    """Offset of the end of each JPEG in ``encoded``."""
    rows: tuple[int, ...]
    """The row of each JPEG in the batch."""
    decoded: PackedImages | None
    """The other images, in the order of the other rows."""
    sizes: Int32[np.ndarray, "batch 2"]
    params: CropParams
    names: tuple[str, ...]
    """Names of the images in failures."""

    def pin_memory(self) -> "EncodedBatch":
        """The same batch; it is not copied as it is, so there is nothing to pin."""
        return self

    def decoded_on(self, device: torch.device) -> tuple[DeviceBatch, dict[int, ImageFailure]]:
        """The decoded batch, and the rows that could not be decoded, which hold nothing."""
        images = room_for(self.sizes, device=device)
        files = [self.encoded[a:b] for a, b in zip((0, *self.ends), self.ends, strict=False)]
        failures: dict[int, ImageFailure] = {}
        for row, made in zip(self.rows, _decoded(files, device), strict=True):
            if isinstance(made, ImageError):
                failures[row] = ImageFailure(self.names[row], made.kind, made.reason)
            else:
                images.image(row).copy_(made)
        others = [row for row in range(len(self.sizes)) if row not in set(self.rows)]
        for number, row in enumerate(others):
            assert self.decoded is not None
            images.image(row).copy_(self.decoded.image(number), non_blocking=True)
        return DeviceBatch(images=images, params=self.params), failures


def encoded_batch(
    files: Sequence[bytes],
    others: Sequence[UInt8[np.ndarray, "_height _width 3"] | None],
    params: CropParams,
    names: Sequence[str],
) -> EncodedBatch:
    """A batch of files, of which those that a GPU may not decode are decoded already.

    Args:
        files: One file a row.
        others: The pixels of a row that ``is_for_gpu`` refused; None for the others.
        params: One row an image.
        names: Names of the images in failures.
    """
    rows = tuple(row for row, pixels in enumerate(others) if pixels is None)
    decoded = [pixels for pixels in others if pixels is not None]
    ends = tuple(np.cumsum([len(files[row]) for row in rows]).tolist())
    encoded = torch.empty(ends[-1] if rows else 0, dtype=torch.uint8)
    if rows:
        joined = b"".join(files[row] for row in rows)
        encoded.numpy()[:] = np.frombuffer(joined, dtype=np.uint8)
    sizes = [
        turbo.plain_size(file) if pixels is None else pixels.shape[:2]
        for file, pixels in zip(files, others, strict=True)
    ]
    return EncodedBatch(
        encoded=encoded,
        ends=ends,
        rows=rows,
        decoded=pack_images(decoded) if decoded else None,
        sizes=np.array(sizes, dtype=np.int32),
        params=params,
        names=tuple(names),
    )


def is_for_gpu(data: bytes) -> bool:
    """Tell if a file is a JPEG that nvJPEG decodes as libjpeg does: one scan, upright, 8 bits.

    A file whose end marker is missing is left to the CPU, which knows how to judge it.
    """
    return turbo.plain_size(data) is not None and data.endswith(jpegs.END)


def _decoded(
    files: Sequence[UInt8[Tensor, " _bytes"]], device: torch.device
) -> list[UInt8[Tensor, "_height _width 3"] | ImageError]:
    from torchvision.io import ImageReadMode, decode_jpeg

    if not files:
        return []
    try:
        with warnings.catch_warnings():
            # From 0.29 on it says that TorchCodec will take its place.
            warnings.simplefilter("ignore", DeprecationWarning)
            made = decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device)
        return [one.permute(1, 2, 0) for one in made]
    except RuntimeError:  # one damaged file fails them all
        return [_read(one) for one in files]


def _read(file: UInt8[Tensor, " bytes"]) -> UInt8[Tensor, "height width 3"] | ImageError:
    try:
        return torch.from_numpy(read_image(file.numpy().tobytes(), path=""))
    except ImageError as error:
        return error
