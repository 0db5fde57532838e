"""Images per second from JPEG files to features, against the bare network and the obvious script.

    python benchmarks/embed_speed.py --images FOLDER [--onnx model.onnx] [--device cuda]

Contenders run in turn in every round, on the same images in the same process, so that a busy
machine hits all of them; medians over the rounds and ratios are printed. "bare" is the network
alone over a tensor that is in memory; "script" is what people write: timm, Pillow, torchvision
transforms, a DataLoader with a worker for each core, float32.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from dino_infer import Embedder, ImageList, Preprocess, build_backbone, list_images
from dino_infer.devices import cores
from dino_infer.embedding.engines import OnnxEngine, TorchEngine
from dino_infer.networks.backbone import Backbone
from dino_infer.networks.build import imported_timm

SCRIPT_BATCH = 32


def main() -> None:
    """Print a line for each contender, the fastest ways compared with the plain ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=128, help="images in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--patch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[], help="exports to compare")
    options = parser.parse_args()
    listed = list_images([options.images])
    images = listed.select([i % len(listed) for i in range(options.limit)])
    contenders = _contenders(options, images)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()  # warm-up, and compilation
    for _ in range(options.rounds):
        for name, run in contenders.items():
            start_s = time.perf_counter()
            run()
            rates[name].append(len(images) / (time.perf_counter() - start_s))
    _print(rates)


def _contenders(options: argparse.Namespace, images: ImageList) -> dict[str, Callable[[], None]]:
    device = torch.device(options.device)
    backbone = build_backbone(
        options.arch, patch_size=options.patch_size, image_size=options.size
    ).eval()
    preprocess = Preprocess(size=options.size)
    settings = {"batch_size": options.batch_size, "workers": options.workers}
    engines = {
        f"{precision}{' compiled' if compiled else ''}": TorchEngine(
            backbone, feature="cls", device=device, precision=precision, compiled=compiled
        )
        for precision in ("fp32", "auto")
        for compiled in ((False, True) if options.compile else (False,))
    }
    engines |= {p.name: OnnxEngine(p, feature="cls", device=device) for p in options.onnx}
    found: dict[str, Callable[[], None]] = {}
    for name, engine in engines.items():
        embedder = Embedder(engine, preprocess, **settings)
        found[f"bare {name}"] = _bare(embedder, len(images), options.size)
        found[f"embed {name}"] = _end_to_end(embedder, images)
    found["script"] = _script(options, images, backbone, device)
    return found


def _bare(embedder: Embedder, count: int, size: int) -> Callable[[], None]:
    """The network alone, with all threads on each batch."""
    pixels = torch.randn(embedder.batch_size, 3, size, size, device=embedder.device)

    def run() -> None:
        done = 0
        while done < count:
            part = pixels[: count - done]
            embedder.engine(part)
            done += len(part)
        if embedder.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _end_to_end(embedder: Embedder, images: ImageList) -> Callable[[], None]:
    def run() -> None:
        rows = sum(len(batch.features) for batch in embedder.batches(images))
        assert rows == len(images), "the benchmark needs images that can be read"

    return run


class _Script(Dataset[torch.Tensor]):
    """Files as a tutorial would read them."""

    def __init__(self, paths: list[str], size: int) -> None:
        from torchvision import transforms

        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize(size * 256 // 224, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        picture: torch.Tensor = self._transform(Image.open(self._paths[index]).convert("RGB"))
        return picture


def _script(
    options: argparse.Namespace, images: ImageList, backbone: Backbone, device: torch.device
) -> Callable[[], None]:
    name = f"{options.arch}_patch{options.patch_size}_224"
    network = imported_timm().create_model(name, num_classes=0, img_size=options.size)
    network = network.to(device).eval()
    paths = [images.location(i) for i in range(len(images))]

    def run() -> None:
        loader = DataLoader(
            _Script(paths, options.size), batch_size=SCRIPT_BATCH, num_workers=cores()
        )
        with torch.no_grad():
            for batch in loader:
                network(batch.to(device)).cpu()

    return run


def _print(rates: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    script = medians["script"]
    print(f"{'':28}images/s  (lowest - highest)  / script  / bare")
    for name, values in rates.items():
        bare = medians.get(name.replace("embed", "bare"), medians[name])
        ratios = [a / b for a, b in zip(values, rates["script"], strict=True)]
        print(
            f"{name:28}{medians[name]:8.1f}  ({min(values):6.1f} - {max(values):6.1f})"
            f"  {statistics.median(ratios):7.2f}  {medians[name] / bare:6.2f}"
        )
    print(f"script: {script:.1f} images/s; ratios to it are medians of the paired rounds")


if __name__ == "__main__":
    main()
