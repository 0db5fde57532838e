"""How far exported ONNX files are from PyTorch, for the backbones that people export.

    python benchmarks/export_parity.py

One file each, for every size; random weights with no parameter at its start value. Errors are in
units of the output's root mean square.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

SIZES = ((224, 224), (96, 96), (480, 480), (224, 320), (518, 392))
BATCHES = (1, 3)  # the export itself compares 8 as well, at smaller sizes
NETWORKS = {
    "vit_tiny/16": ("vit_tiny", 16),
    "vit_tiny/8": ("vit_tiny", 8),
    "vit_small/16": ("vit_small", 16),
    "vit_small/8": ("vit_small", 8),
    "vit_small/14 reg4": ("vit_small_patch14_reg4_dinov2", 14),
    "resnet50": ("resnet50", 32),
}


def main() -> None:
    """Export each network and print a row for every output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    options = parser.parse_args()
    print(f"{'network':20}{'output':10}{'max error':>10}{'mean error':>11}{'cosine':>11}{'s':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            print_rows(name, options.precision, Path(folder, "model.onnx"))


def print_rows(name: str, precision: str, path: Path) -> None:
    """Export one network and compare it at every size."""
    import torch

    from dino_export.exports import export
    from dino_export.graph import default_outputs
    from dino_export.parity import parity, reference, sample_photos
    from dino_export.runtimes import open_export
    from dino_export.settings import ExportSettings
    from dino_infer.images.preprocess import Preprocess
    from dino_infer.networks.build import build_backbone
    from dino_infer.networks.vit import ViTBackbone
    from dino_infer.weights.info import CheckpointInfo

    torch.manual_seed(0)
    started_s = time.perf_counter()
    arch, patch_size = NETWORKS[name]
    backbone = build_backbone(arch, patch_size=patch_size, image_size=224).eval()
    if isinstance(backbone, ViTBackbone):
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        if "reg" in arch:
            backbone.position_embedding = "antialiased"
    info = CheckpointInfo(arch=arch, patch_size=patch_size)
    settings = ExportSettings(
        format="onnx",
        outputs=default_outputs(backbone),
        size=(224, 224),
        precision=precision,  # type: ignore[arg-type]
    )
    export(path, backbone, info, settings, photos=sample_photos())
    found = parity(
        reference(backbone, settings.outputs, None),
        open_export(path, device=torch.device("cpu")).run,
        settings,
        sizes=SIZES,
        preprocess=Preprocess(),
        photos=sample_photos(),
        device=torch.device("cpu"),
        batches=BATCHES,
    )
    for output, row in found.deviations.items():
        print(
            f"{name:20}{output:10}{row.max_error:10.1e}{row.mean_error:11.1e}{row.cosine:11.7f}"
            f"{time.perf_counter() - started_s:6.0f}"
        )
    print(f"{name:20}nearest neighbour the same: {100 * found.neighbor_agreement:.1f} %")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
