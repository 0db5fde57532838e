"""JPEGs decoded on the GPU: workers only read them; whatever is no plain JPEG they decode."""

import functools
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, UInt8
from PIL import Image
from torch import Tensor

from dino_infer.errors import ImageError, first_line
from dino_infer.images import jpegs, turbo
from dino_infer.images.read import ImageFailure, read_image
from dino_train.crops.memory import PackedImages, pack_images, room_for
from dino_train.crops.on_device import DeviceBatch
from dino_train.crops.parameters import CropParams

_CHECK_LEVELS = 3.0
"""Mean difference from the CPU's decoding that is still rounding and another way to enlarge chroma;
swapped or lost channels give tens of levels."""

logger = logging.getLogger(__name__)

_Decoder = Callable[[list[Tensor], torch.device], list[Tensor]]


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
    decode = _decoder(device) if files else None
    if decode is not None:
        try:
            return [one.permute(1, 2, 0) for one in decode(list(files), device)]
        except RuntimeError:  # one damaged file fails them all
            pass
    return [_read(one) for one in files]


@functools.cache
def _decoder(device: torch.device) -> _Decoder | None:
    """The first decoder that gives what the CPU reads; None, with a line that says so, if none."""
    complaints = []
    for name, decode in (("TorchCodec", _by_torchcodec), ("torchvision", _by_torchvision)):
        try:
            off = _difference(decode, device)
        except Exception as error:  # not installed, too old, built without CUDA ...
            complaints.append(f"{name}: {first_line(error)}")
            continue
        if off <= _CHECK_LEVELS:
            return decode
        complaints.append(f"{name} differs from the CPU by {off:.1f} levels on average")
    logger.warning(
        "JPEGs are decoded by one core of the CPU, slower than by workers (`decode='cpu'`), since "
        "no decoder works on %s: %s",
        device,
        "; ".join(complaints),
    )
    return None


def _by_torchcodec(files: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchcodec.decoders import decode_jpeg  # from 0.16 on

    return decode_jpeg(files, mode="RGB", device=device)  # type: ignore[no-any-return]


def _by_torchvision(files: list[Tensor], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    with warnings.catch_warnings():
        # From 0.29 on it says that TorchCodec will take its place.
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_jpeg(files, mode=ImageReadMode.RGB, device=device)  # type: ignore[no-any-return]


def _difference(decode: _Decoder, device: torch.device) -> float:
    """Mean difference in levels from what the CPU reads, of JPEGs with all and with half chroma."""
    down, across = np.mgrid[0:48, 0:64].astype(np.float32)
    picture = np.stack([4 * across, 5 * down, 255 - 2 * across - 2 * down], axis=2)
    files = []
    for subsampling in ("4:4:4", "4:2:0"):
        file = io.BytesIO()
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        image.save(file, "JPEG", quality=95, subsampling=subsampling)
        files.append(file.getvalue())
    made = decode([torch.frombuffer(bytearray(f), dtype=torch.uint8) for f in files], device)
    read = [torch.from_numpy(read_image(file, path="").copy()) for file in files]
    pairs = zip(made, read, strict=True)
    return max(float((m.permute(1, 2, 0).cpu().float() - r).abs().mean()) for m, r in pairs)


def _read(file: UInt8[Tensor, " bytes"]) -> UInt8[Tensor, "height width 3"] | ImageError:
    try:
        return torch.from_numpy(read_image(file.numpy().tobytes(), path=""))
    except ImageError as error:
        return error
