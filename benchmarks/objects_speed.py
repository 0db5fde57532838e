"""Seconds of TokenCut, LOST and MaskCut on one thread, beside the forward pass that makes the keys.

Processor seconds are counted: on one thread, those that an idle machine takes.

    python benchmarks/objects_speed.py --sides 28 58

Keys are those of a photograph from a ViT-S/8 (random weights, or --weights), on square grids of
so many patches a side. "dense" is the same cut with the whole matrix in double precision and
``numpy.linalg.eigh``, up to --dense-side.
"""

import argparse
import os
import statistics
import time

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Measure each side and print a line for each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[28, 58], help="patches a side")
    parser.add_argument("--image", help="a photograph; by default one of scikit-image")
    parser.add_argument("--weights", help="of a ViT; by default ViT-S/8 with random weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dense-side", type=int, default=28, help="largest side of the dense form")
    options = parser.parse_args()
    os.environ.update(dict.fromkeys(THREADS, "1"))  # before NumPy reads them
    for side in options.sides:
        measure(side, options)


def measure(side: int, options: argparse.Namespace) -> None:
    """Time all parts on one grid, in turn."""
    import torch

    from dino_infer.images.preprocess import Preprocess
    from dino_infer.images.read import read_image
    from dino_infer.networks.build import build_backbone
    from dino_infer.objects import lost, mask_cut, token_cut
    from dino_infer.weights.checkpoints import load_backbone

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.weights:
        backbone, _ = load_backbone(options.weights)
    else:
        backbone = build_backbone("vit_small", patch_size=8)
    backbone.eval()
    pixels = side * backbone.patch_size
    if options.image:
        with open(options.image, "rb") as file:
            picture = read_image(file.read(), path=options.image)
    else:
        from skimage import data

        picture = data.chelsea()
    preprocess = Preprocess(size=(pixels, pixels), crop="none", patch_size=backbone.patch_size)
    images = preprocess(picture, path="picture")[None]
    with torch.inference_mode():
        keys = backbone.keys(images)[0].reshape(side, side, -1).numpy()
        parts = {
            "forward": lambda: backbone.keys(images),
            "tokencut": lambda: token_cut(keys),
            "lost": lambda: lost(keys),
            "maskcut": lambda: mask_cut(keys),
        }
        if side <= options.dense_side:
            parts["dense"] = lambda: dense(keys)
        for part in parts.values():  # a round that does not count
            part()
        seconds = {name: [] for name in parts}
        for _ in range(options.rounds):
            for name, part in parts.items():
                start = time.process_time()
                part()
                seconds[name].append(time.process_time() - start)
    for name, times in seconds.items():
        print(
            f"{side} x {side} patches  {name:10}{statistics.median(times):8.3f} s  "
            f"fastest {min(times):.3f} s"
        )


def dense(keys):  # type: ignore[no-untyped-def]
    """The second vector of TokenCut's graph from the whole matrix."""
    import numpy as np

    flat = keys.reshape(-1, keys.shape[-1])
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    weights = np.where(flat @ flat.T >= 0.2, 1.0, 1e-5)
    scale = 1 / np.sqrt(weights.sum(axis=1))
    laplacian = np.eye(len(flat)) - scale[:, None] * weights * scale
    return scale * np.linalg.eigh(laplacian).eigenvectors[:, 1]


if __name__ == "__main__":
    main()
