"""k-NN of an untrained backbone, as it is and with its batch norms calibrated on training images.

    python benchmarks/untrained_knn.py --arch resnet_micro --small-stem --size 32 --data DIR

``DIR`` holds class folders in ``train/`` and ``val/``. A batch norm that has never seen an image
normalises with mean 0 and variance 1; some of what training seems to gain is only its statistics.
The calibrated number is the fair bar for a trained convnet.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from dino_infer import Embedder, Preprocess, accuracies, build_backbone, list_images, nearest
from dino_infer.images.read import read_image

CALIBRATION_BATCHES = 30


def main() -> None:
    """Print both numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default="resnet_micro")
    parser.add_argument("--small-stem", action="store_true")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    backbone = build_backbone(options.arch, image_size=options.size, small_stem=options.small_stem)
    embedder = Embedder(
        backbone, Preprocess(size=options.size), batch_size=256, workers=options.workers
    )
    train, val = (list_images([options.data / split]) for split in ("train", "val"))
    print(f"as it is:   {_top1(embedder, train, val):.2f} %")
    rng = np.random.default_rng(options.seed)
    backbone.train()
    with torch.no_grad():
        for _ in range(CALIBRATION_BATCHES):
            chosen = rng.choice(len(train), 256, replace=False)
            names = [(train.read(int(i)), train.name(int(i))) for i in chosen]
            pixels = [embedder.preprocess(read_image(data, path=name)) for data, name in names]
            backbone(torch.stack(pixels).to(embedder.device))
    backbone.eval()
    print(f"calibrated: {_top1(embedder, train, val):.2f} %")


def _top1(embedder: Embedder, train: object, val: object) -> float:
    features, classes = [], []
    for images in (train, val):
        embedding = embedder.embed(images)
        numbers, names = images.labels()
        features.append(embedding.features)
        classes.append(np.array(names)[numbers][embedding.ok])
    found = nearest(*features, k=20)
    return accuracies(found, *classes, ks=[20])[20].top1_percent


if __name__ == "__main__":
    main()
