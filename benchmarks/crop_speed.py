"""Images per second from JPEG files to multi-crop batches, beside the original's pipeline.

    python benchmarks/crop_speed.py                   # photos of scikit-image as 500x375 JPEGs
    python benchmarks/crop_speed.py --large           # the same as 2000x1500 photos
    python benchmarks/crop_speed.py --images FOLDER   # your own

Every contender runs in every round, in turn, each through a DataLoader with the same workers, the
same files and the same crops (2x224 + 8x96). The original's pipeline is written here in our own
words: Pillow decodes, and torchvision's transforms make ten crops, on float tensors in the end.
CPU time is that of the workers and of this process together, start of the workers included; it says
more than the clock where other programs run. The second table is CPU time of one thread of this
process, stage by stage.
"""

import argparse
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dino_infer.images.encoded import EncodedImage
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.sources.image_list import ImageList, list_images
from dino_train.crops import in_workers
from dino_train.crops.parameters import draw_batch
from dino_train.crops.spec import CropSpec
from dino_train.data.dataset import CropDataset
from dino_train.data.loader import build_loader
from dino_train.data.ram_cache import RamCache
from dino_train.data.sampler import StepSampler

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
SMALL, LARGE = (500, 375), (2000, 1500)
JPEG_QUALITY = 90


class SolarizeSometimes:
    """Invert the bright half of a picture, with a probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture, or its solarised copy."""
        return ImageOps.solarize(picture) if random.random() < self.probability else picture


class BlurSometimes:
    """Blur a picture by a radius from 0.1 to 2 pixels, with a probability."""

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, picture: Image.Image) -> Image.Image:
        """The picture, or its blurred copy."""
        if random.random() >= self.probability:
            return picture
        return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class OriginalDataset(Dataset[list[Tensor]]):
    """Ten crops an image as the authors' release makes them: Pillow pictures throughout."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.first = original_transform(224, (0.4, 1.0), blur=1.0)
        self.second = original_transform(224, (0.4, 1.0), blur=0.1, solarize=0.2)
        self.local = original_transform(96, (0.05, 0.4), blur=0.5)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> list[Tensor]:
        with open(self.paths[index], "rb") as file:
            picture = Image.open(file).convert("RGB")
        crops = [self.first(picture), self.second(picture)]
        return crops + [self.local(picture) for _ in range(8)]


def original_transform(
    size: int, scale: tuple[float, float], *, blur: float, solarize: float = 0.0
) -> transforms.Compose:
    """The transforms of one kind of crop."""
    jitter = transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    bicubic = transforms.InterpolationMode.BICUBIC
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=scale, interpolation=bicubic),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(0.2),
            BlurSometimes(blur),
            SolarizeSometimes(solarize),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of JPEGs (default: made here)")
    parser.add_argument("--large", action="store_true", help="make 2000x1500 photos")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=24, help="measured in a round, of ours")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = options.images or made_photos(Path(folder), LARGE if options.large else SMALL)
        images = list_images(source)
        print(
            f"{len(images)} images, {options.workers} workers, batches of {options.batch_size}, "
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
            f"Python {sys.version.split()[0]}, torch {torch.__version__}, load {os.getloadavg()[0]}"
        )
        print_speeds(images, options)
        print_stages(images)


def made_photos(folder: Path, size: tuple[int, int], *, copies: int = 16) -> Path:
    """JPEGs of real photos, each a little different from the others."""
    from skimage import data

    rng = np.random.default_rng(0)
    for copy in range(copies):
        for name in PHOTOS:
            picture = Image.fromarray(getattr(data, name)()).resize(size, Image.Resampling.BICUBIC)
            grain = rng.normal(0, 2, (size[1], size[0], 1)).round()
            levels = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
            path = folder / f"{name}_{copy:02}.jpg"
            Image.fromarray(levels).save(path, quality=JPEG_QUALITY)
    return folder


def print_speeds(images: ImageList, options: argparse.Namespace) -> None:
    """Images per second of each contender, and how many times the original that is."""
    contenders = contender_table(images, options)
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, loader in contenders.items():
            before_s = cpu_s()
            speed, count = images_per_s(loader(), options)
            speeds[name].append(speed)
            costs[name].append((cpu_s() - before_s) / count * 1e3)
    original = speeds["original"]
    print(
        f"\n{'contender':34}{'images/s':>10}{'lowest':>9}{'highest':>9}{'x original (paired)':>21}"
        f"{'CPU ms/image':>16}{'x less (paired)':>19}"
    )
    for name, values in speeds.items():
        ratio = statistics.median(a / b for a, b in zip(values, original, strict=True))
        pairs = zip(costs["original"], costs[name], strict=True)
        print(
            f"{name:34}{statistics.median(values):10.1f}{min(values):9.1f}{max(values):9.1f}"
            f"{ratio:21.2f}{statistics.median(costs[name]):16.2f}"
            f"{statistics.median(a / b for a, b in pairs):19.2f}"
        )


def contender_table(
    images: ImageList, options: argparse.Namespace
) -> dict[str, Callable[[], Iterable[Any]]]:
    """Each contender as a function that starts its workers."""
    spec = CropSpec()
    paths = [images.location(i) for i in range(len(images))]
    count = options.batches + options.workers * 2
    sampler = StepSampler(
        len(images),
        batch_size_per_process=options.batch_size,
        seed=0,
        steps_per_epoch=len(images) // options.batch_size,
        start_step=0,
        total_steps=count,
    )
    whole = 3 * sum(int(np.prod(EncodedImage(images.read(i), path="").size)) for i in range(64))
    cache = RamCache(len(images), capacity_bytes=whole // 64 * len(images) * 2)

    def original() -> Iterable[Any]:
        fewer = max(count // 4, options.workers * 2 + 4)
        order = [i % len(paths) for i in range(fewer * options.batch_size)]
        shown = OriginalDataset([paths[i] for i in order])
        return DataLoader(shown, batch_size=options.batch_size, num_workers=options.workers)

    def ours(executor: Any, **changes: Any) -> Callable[[], Iterable[Any]]:
        return lambda: build_loader(
            images, spec, executor=executor, sampler=sampler, workers=options.workers, **changes
        )

    return {
        "original": original,
        "worker executor": ours("worker"),
        "worker executor, cache in memory": ours("worker", cache=cache),
        "device executor (workers decode)": ours("device"),
        "device executor, cache in memory": ours("device", cache=cache),
    }


def cpu_s() -> float:
    """CPU time of this process and of its workers that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def images_per_s(loader: Iterable[Any], options: argparse.Namespace) -> tuple[float, int]:
    """The speed after what the workers had prepared ahead is used up, and the images in all."""
    batches: Iterator[Any] = iter(loader)
    for _ in range(options.workers * 2):
        next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += 1
    speed = count * options.batch_size / (time.perf_counter() - start)
    return speed, (count + options.workers * 2) * options.batch_size


def print_stages(images: ImageList) -> None:
    """CPU time of each stage, for one image."""
    some = images.select(range(min(len(images), 64)))
    count = len(some)
    spec, everything = CropSpec(), range(count)
    data = [some.read(i) for i in everything]
    sizes = np.array([EncodedImage(one, path="").size for one in data])
    keys = [(0, i) for i in everything]
    params = draw_batch(spec, seed=0, keys=keys, sizes=sizes)
    decoded = [EncodedImage(one, path="").pixels() for one in data]
    made = in_workers.empty_crops(spec, batch_size=1)
    worker, device = (
        CropDataset(some, spec, executor=executor, seed=0) for executor in ("worker", "device")
    )
    original = OriginalDataset([some.location(i) for i in everything])
    stages: dict[str, Callable[[], Any]] = {
        "original: all": lambda: [original[i] for i in everything],
        "bare libjpeg-turbo, new memory": lambda: [bare(one) for one in data],
        "bare libjpeg-turbo, one buffer": lambda: [bare(one, room) for one in data],
        "read": lambda: [some.read(i) for i in everything],
        "header and limits": lambda: [EncodedImage(one, path="") for one in data],
        "draw parameters": lambda: draw_batch(spec, seed=0, keys=keys, sizes=sizes),
        "cut and resize": lambda: [cut(decoded[i], params[i]) for i in everything],
        "all crops of decoded images": lambda: [
            in_workers.write_crops(made, 0, decoded[i], params[i], spec) for i in everything
        ],
        "device executor: all of a worker": lambda: [
            device.__getitems__(keys[i : i + 16]) for i in everything[::16]
        ],
        "worker executor: all": lambda: [
            worker.__getitems__(keys[i : i + 16]) for i in everything[::16]
        ],
    }
    room = np.empty(max(image.size for image in decoded), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in stages}
    for number in range(8):
        for name, stage in stages.items():
            start = time.thread_time()
            stage()
            if number:  # the first round warms up
                times[name].append((time.thread_time() - start) / count * 1e3)
    bare_ms = times["bare libjpeg-turbo, new memory"]
    print(
        f"\n{'one thread, ms an image':34}{'median':>9}{'lowest':>9}{'x bare decode (paired)':>25}"
    )
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, bare_ms, strict=True))
        print(f"{name:34}{statistics.median(values):9.3f}{min(values):9.3f}{ratio:25.2f}")


def bare(jpeg: bytes, room: np.ndarray | None = None) -> np.ndarray:
    """Nothing but the decoder."""
    import simplejpeg

    decoded: np.ndarray = simplejpeg.decode_jpeg(jpeg, buffer=room)
    return decoded


def cut(image: np.ndarray, params: Any) -> None:
    """All boxes of an image, resized."""
    in_workers.resized_crops(image, params[:2], size=224)
    in_workers.resized_crops(image, params[2:], size=96)


if __name__ == "__main__":
    main()
