"""Work of a worker process: read, decode and, for the worker executor, crop a batch of images."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from dino_infer.errors import ImageError
from dino_infer.images.encoded import EncodedImage
from dino_infer.images.read import ImageFailure
from dino_infer.sources.image_list import ImageList
from dino_train.crops.in_workers import WorkerCrops, empty_crops, write_crops
from dino_train.crops.memory import pack_images, room_for
from dino_train.crops.on_device import DeviceBatch
from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec
from dino_train.data.choices import Decoder, Executor, Order
from dino_train.data.decode_sizes import box_sides, least_box_sides, sufficient_sizes
from dino_train.data.gpu_decoding import EncodedBatch, encoded_batch, is_for_gpu
from dino_train.data.ram_cache import CachedImage, RamCache
from dino_train.data.read_ahead import ReadAhead

Image = EncodedImage | CachedImage
Payload = WorkerCrops | DeviceBatch


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images on their way to the device."""

    payload: Payload | None = None
    """Images and their parameters; None when no image could be read, or they are ``encoded``."""
    encoded: EncodedBatch | None = None
    """Images that the GPU decodes on their way to it."""
    spec: CropSpec
    indices: Int64[Tensor, " batch"]
    """Number in the listing of the image that each row shows."""
    failures: tuple[ImageFailure, ...]
    """Images that could not be read; another took the place of each."""

    def pin_memory(self) -> "Batch":
        """The same batch where a GPU can copy it from without waiting."""
        return self if self.payload is None else replace(self, payload=self.payload.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on the device, decoded."""
        if self.encoded is None:
            return self if self.payload is None else replace(self, payload=self.payload.to(device))
        decoded, failures = self.encoded.decoded_on(device)
        good = [row for row in range(len(self.indices)) if row not in failures]
        # The files are no longer at hand, so the next good row of the batch stands in.
        rows = (
            [next((one for one in good if one >= row), good[0]) for row in failures] if good else []
        )
        shown = np.arange(len(self.indices))
        shown[list(failures)[: len(rows)]] = rows
        return replace(
            self,
            payload=decoded.select(shown) if good else None,
            encoded=None,
            indices=self.indices[torch.from_numpy(shown)],
            failures=(*self.failures, *failures.values()),
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that lie on the device after ``to``."""
        return () if self.payload is None else self.payload.tensors()


@dataclass
class _Row:
    """One image of a batch."""

    epoch: int
    asked: int
    index: int
    """The image shown, which is not the one asked for when that could not be read."""
    image: Image
    is_substitute: bool = False
    """True if it replaces an image that failed only when its pixels were decoded."""


class _NothingReadableError(Exception):
    """The listing holds no readable image."""


class CropDataset(Dataset[Batch]):
    """Reads, decodes and, for the worker executor, crops a batch of images.

    Images are asked for by (epoch, image). If one cannot be read, the next readable one of the
    listing takes its place, with the crops that it would have had itself.

    Args:
        images: The listing.
        spec: Settings of the crops.
        executor: Place where crops are made.
        seed: Seed of the crops.
        cache: Store of decoded images; None decodes them every time.
        any_epoch: Decode images so large that they suffice for the crops of any epoch, and not
            only for those asked for; so it is with a cache.
        decoder: Decoder of plain JPEGs.
        order: Order in which images are asked for; the quasi-random one has whole runs fetched.
    """

    def __init__(
        self,
        images: ImageList,
        spec: CropSpec,
        *,
        executor: Executor,
        seed: int,
        cache: RamCache | None = None,
        any_epoch: bool = False,
        decoder: Decoder = "cpu",
        order: Order = "random",
    ) -> None:
        if decoder == "gpu" and (executor == "worker" or cache is not None):
            raise ValueError("decoder 'gpu' needs the executor 'device' and no cache in memory")
        self._images = images
        self._spec = spec
        self._seed = seed
        self._cache = cache
        self._read_ahead = ReadAhead(images, order) if cache is None else None
        self._for_gpu = decoder == "gpu"
        self._make: Callable[[list[_Row]], Payload]
        self._make = self._crops if executor == "worker" else self._decoded
        self._any_epoch = any_epoch or cache is not None
        self._unreadable: dict[int, ImageFailure] = {}  # what this process has already tried

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A whole batch; the DataLoader asks for it in this way."""
        if self._read_ahead is not None:
            self._read_ahead.expect(keys)
        try:
            rows = [self._opened(epoch, asked) for epoch, asked in keys]
            payload = None if self._for_gpu else self._make(rows)
            encoded = self._encoded(rows) if self._for_gpu else None
        except _NothingReadableError:
            return Batch(
                spec=self._spec,
                indices=torch.tensor([asked for _, asked in keys]),
                failures=tuple(self._unreadable.values()),
            )
        return Batch(
            payload=payload,
            encoded=encoded,
            spec=self._spec,
            indices=torch.tensor([row.index for row in rows]),
            failures=tuple(
                self._unreadable[bad]
                for row in rows
                if row.index != row.asked
                for bad in self._places(row.asked, row.index)
            ),
        )

    def _crops(self, rows: list[_Row]) -> WorkerCrops:
        crops = empty_crops(self._spec, batch_size=len(rows))
        params = self._drawn(rows)
        least = self._least_sizes(rows, params)
        for number, row in enumerate(rows):
            image = self._pixels(row, number, params, least[number])
            write_crops(crops, number, image, params[number], self._spec)
        return crops

    def _decoded(self, rows: list[_Row]) -> DeviceBatch:
        params = self._drawn(rows)
        least = self._least_sizes(rows, params)
        sizes = [row.image.decoded_size(own) for row, own in zip(rows, least, strict=True)]
        room = room_for(np.array(sizes, dtype=np.int32))
        images = [
            self._pixels(row, number, params, least[number], out=room.slot(number))
            for number, row in enumerate(rows)
        ]
        if any(row.is_substitute for row in rows):
            room = pack_images(images)
        full_sizes = np.array([row.image.size for row in rows], dtype=np.int32)
        return DeviceBatch(images=room, params=params, full_sizes=full_sizes)

    def _encoded(self, rows: list[_Row]) -> EncodedBatch:
        params = self._drawn(rows)
        others: list[np.ndarray | None] = []
        for number, row in enumerate(rows):
            for_gpu = isinstance(row.image, EncodedImage) and is_for_gpu(row.image.data)
            others.append(None if for_gpu else self._pixels(row, number, params, None))
        return encoded_batch(
            [row.image.data if isinstance(row.image, EncodedImage) else b"" for row in rows],
            others,
            params,
            [self._images.location(row.index) for row in rows],
        )

    def _drawn(self, rows: Sequence[_Row]) -> CropParams:
        return draw_batch(
            self._spec,
            seed=self._seed,
            keys=[(row.epoch, row.index) for row in rows],
            sizes=np.array([row.image.size for row in rows]),
        )

    def _least_sizes(
        self, rows: Sequence[_Row], params: CropParams
    ) -> list[tuple[int, int] | None]:
        """Heights and widths that suffice for the crops of each image: of all epochs, if kept."""
        sizes = np.array([row.image.size for row in rows])
        sides = least_box_sides(self._spec, sizes) if self._any_epoch else box_sides(params)
        return sufficient_sizes(sides, self._spec, sizes)

    def _pixels(
        self,
        row: _Row,
        number: int,
        params: CropParams,
        least: tuple[int, int] | None,
        *,
        out: UInt8[np.ndarray, " bytes"] | None = None,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Decode an image, or the next readable one; its parameters are put right."""
        while True:
            try:
                image = row.image.pixels(least, out=out)
                break
            except ImageError as error:
                self._fail(row.index, error)
                following = self._opened(row.epoch, row.asked)
                row.index, row.image, row.is_substitute = following.index, following.image, True
                params.replace_row(number, self._drawn([row])[0])
                (least,) = self._least_sizes([row], params[number : number + 1])
                out = None  # it may be larger
        if self._cache is not None:
            self._cache.keep(row.index, image, full_size=row.image.size)
        if image.shape[:2] != row.image.size:
            scaled = params[number].scaled(from_size=row.image.size, to_size=image.shape[:2])
            params.replace_row(number, scaled)
        return image

    def _opened(self, epoch: int, asked: int) -> _Row:
        """The image asked for, or the next one whose header can be read."""
        for index in itertools.chain([asked], self._places(asked + 1, asked)):
            if index in self._unreadable:
                continue
            try:
                return _Row(epoch, asked, index, self._image(index))
            except ImageError as error:
                self._fail(index, error)
        raise _NothingReadableError

    def _image(self, index: int) -> Image:
        kept = None if self._cache is None else self._cache.image(index)
        if kept is not None:
            return kept
        image = EncodedImage(self._images.read(index), path=self._images.name(index))
        _ = image.size  # read now, so that a damaged header is known in time
        return image

    def _fail(self, index: int, error: ImageError) -> None:
        place = self._images.location(index)
        self._unreadable[index] = ImageFailure(place, error.kind, error.reason)

    def _places(self, start: int, end: int) -> Iterator[int]:
        """Yield places of the listing from one up to another, around its end if need be."""
        count = len(self)
        place = start % count
        while place != end:
            yield place
            place = (place + 1) % count
