"""dino-export: learned weights to ONNX and other formats, and to other projects' files.

dino-export WEIGHTS -o model.onnx
dino-export WEIGHTS --to hf -o folder/
dino-export info model.onnx
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dino_export.choices import Format, Precision, Target
from dino_infer.cli.exit_codes import UsageError, exit_code, printable, usage_errors
from dino_infer.cli.options import SourceOptions
from dino_infer.cli.parsing import parsed
from dino_infer.files import why_not_writable

if TYPE_CHECKING:
    from torch import Tensor

    from dino_export.parity import Parity
    from dino_export.settings import ExportSettings
    from dino_infer.networks.backbone import Backbone
    from dino_infer.weights.info import CheckpointInfo

logger = logging.getLogger(__name__)

AXES = ({"batch", "size"}, {"batch"}, {"size"}, {"none"})
# Flags of the library's parameters that are called otherwise there.
FLAGS = {"calibration": "--images", "dynamic_size": "--dynamic"}


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Content of the exported file."""

    format: Format | None = None
    """Format of the file; pt2 is torch.export, aoti its compiled form. By default that of the file
    name's ending."""
    outputs: str | None = None
    """Outputs, some of cls,patches,attention; by default all that the network has."""
    with_head: tyro.conf.FlagCreatePairsOff[bool] = False
    """Add the projection head, whose output is "logits"."""
    dynamic: Annotated[str | None, tyro.conf.arg(metavar="batch,size|batch|size|none")] = None
    """Sides of the input that may vary; by default both, and batch for TorchScript."""
    size: tuple[int, ...] | None = None
    """Height and width in pixels, or one number for both, of a file whose size may not vary; by
    default the size of the weights."""
    preprocess: tyro.conf.FlagCreatePairsOff[bool] = False
    """Take uint8 images (batch, height, width, 3), resized by the caller, and normalise them inside
    the file."""
    precision: Precision | None = None
    """Precision of the weights, by default fp32; int8 is for ONNX: a scale for each channel,
    calibrated with --images."""
    opset: int | None = None
    """Version of ONNX's operators, 18 to 23; by default 20."""

    def __post_init__(self) -> None:
        if self.dynamic is not None and self.axes not in AXES:
            raise UsageError(
                f"--dynamic takes batch,size, batch, size or none, got {self.dynamic!r}"
            )
        if self.size is not None and (len(self.size) not in (1, 2) or min(self.size) < 1):
            raise UsageError(f"--size takes one side, or height and width, got {self.size}")

    @property
    def axes(self) -> set[str]:
        """Names in ``dynamic``."""
        return set((self.dynamic or "").split(","))

    def given(self) -> list[str]:
        """Flags that the user has given."""
        values = asdict(self).items()
        given = [name for name, value in values if value is not None and value is not False]
        return ["--" + name.replace("_", "-") for name in given]


def export(
    weights: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    to: Target | None = None,
    source: tyro.conf.OmitArgPrefixes[SourceOptions] = SourceOptions(),  # noqa: B008
    file: tyro.conf.OmitArgPrefixes[FileOptions] = FileOptions(),
    images: Path | None = None,
    device: str | None = None,
) -> int:
    """Export weights, or with --to convert them, and prove that the result is equal.

    The result is run and compared with PyTorch; if it is not equal, nothing is written.
    "dino-export info FILE" prints what an exported file says about itself.

    Args:
        weights: Run folder, .safetensors or .pt of ours, published DINO .pth, timm:NAME or
            hf:ORG/NAME.
        out: File to write; with --to hf or timm, a folder.
        to: Convert the weights instead: to files of transformers, timm or the original.
        source: Network that a file of weights holds, where the file does not tell.
        file: Content of the exported file.
        images: Folder of your images, to compare on beside a photograph of ours; with int8,
            every other one calibrates.
        device: Device to compare on and to compile for: cpu, cuda or cuda:N; by default auto,
            which takes a GPU if there is one.
    """
    from dino_export.convert import FOLDERS
    from dino_infer.files import hold_output, remove_leftovers

    if to is not None:
        beside = {"--images": images, "--device": device}
        if given := [*file.given(), *(flag for flag in beside if beside[flag] is not None)]:
            raise UsageError(
                f"--to converts weights; {', '.join(given)} would say how to export them: leave "
                "that out, or leave --to out"
            )
    _check_writable(out, is_file=to not in FOLDERS)
    with hold_output(out):
        remove_leftovers(out)
        if to is not None:
            return _convert(weights, out, to, source)
        return _export(weights, out, source, file, images, "auto" if device is None else device)


def info(path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]) -> int:
    """Print the description inside an exported file, as JSON.

    Args:
        path: File that dino-export wrote.
    """
    import torch

    from dino_export.runtimes import open_export

    print(json.dumps(open_export(path, device=torch.device("cpu")).metadata, indent=2))
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-export and return its exit code."""
    return exit_code(_main, prog="dino-export", args=args, renamed=FLAGS)


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["info"]:
        return int(parsed(info, prog="dino-export info", args=arguments[1:]))
    return int(parsed(export, prog="dino-export", args=arguments))


def _export(
    weights: str,
    out: Path,
    source: SourceOptions,
    file: FileOptions,
    images: Path | None,
    device: str,
) -> int:
    from dino_export import exports
    from dino_export.onnx import check_onnx_installed
    from dino_export.parity import sample_photos
    from dino_export.settings import format_of
    from dino_infer.devices import resolved_device
    from dino_infer.weights.checkpoints import load_backbone

    with usage_errors():
        form = file.format or format_of(out)
        if form == "onnx":
            check_onnx_installed()
        own = [] if images is None else _photos(images)
        calibration = own[::2] if file.precision == "int8" else []
        photos = sample_photos() + (own[1::2] if calibration else own)
        backbone, about = load_backbone(weights, **source.keywords())
        head = _head(weights, source) if file.with_head else None
        settings = _settings(form, file, backbone, about)
        found = exports.export(
            out,
            backbone,
            about,
            settings,
            photos=photos,
            calibration=calibration,
            head=head,
            device=resolved_device(device),
        )
    _print_parity(out, found)
    return 0


def _check_writable(out: Path, *, is_file: bool) -> None:
    """Refuse early what would fail after minutes."""
    from dino_export.errors import ExportError

    if is_file and out.is_dir():
        raise ExportError(f"{str(out)!r} is a folder; name a file")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise ExportError(f"no folder {str(folder)!r} to write {out.name!r} to; create it first")
    if reason := why_not_writable(folder):
        raise ExportError(f"cannot write to {str(folder)!r} ({reason}); name another folder")


def _convert(weights: str, out: Path, to: Target, source: SourceOptions) -> int:
    from dino_export.convert import check_target, convert_weights
    from dino_infer.weights.checkpoints import load_backbone

    with usage_errors():
        check_target(out, to)
        backbone, about = load_backbone(weights, **source.keywords())
        difference = convert_weights(out, backbone, about, to=to)
    print(f"{printable(out)}: read back, features differ by at most {difference:.1e} of their rms")
    if out.is_dir():
        print(*(printable(path) for path in sorted(out.iterdir())), sep="\n")
    return 0


def _head(weights: str, source: SourceOptions) -> "Mapping[str, Tensor]":
    """Tensors of the projection head."""
    from dino_export.errors import ExportError
    from dino_infer.weights.checkpoints import read_training_weights

    head = read_training_weights(weights, source.checkpoint_key or "teacher").get("head")
    if head is None:
        raise ExportError(
            f"--with-head: {weights!r} holds no head; pass a snapshot (RUN/snapshots/step-*.pt) or "
            "a full .pth"
        )
    return head


def _settings(
    form: Format, file: FileOptions, backbone: "Backbone", about: "CheckpointInfo"
) -> "ExportSettings":
    from dino_export.graph import default_outputs
    from dino_export.settings import OPSET, ExportSettings

    outputs: Any = default_outputs(backbone)
    if file.outputs is not None:
        outputs = tuple(file.outputs.split(","))
    if file.with_head and "logits" not in outputs:
        outputs += ("logits",)
    if file.opset is not None and form != "onnx":
        raise UsageError(f"--opset is for ONNX files, got format {form!r}")
    axes = {"batch"} if form == "torchscript" else {"batch", "size"}
    if file.dynamic is not None:
        axes = file.axes
    side = about.view_size
    size = (file.size[0], file.size[-1]) if file.size else (side, side)
    if form == "torchscript":
        logger.warning(
            "PyTorch has deprecated TorchScript, and this file holds for images of %d x %d alone; "
            "an .onnx or .pt2 file takes any size",
            *size,
        )
    return ExportSettings(
        format=form,
        outputs=outputs,
        dynamic_batch="batch" in axes,
        dynamic_size="size" in axes,
        size=size,
        preprocess=file.preprocess,
        precision=file.precision or "fp32",
        opset=OPSET if file.opset is None else file.opset,
    )


def _photos(folder: Path) -> list[Any]:
    """The user's images as arrays, spread over the folder: enough to compare and to calibrate."""
    from dino_export.parity import NEIGHBOR_IMAGES
    from dino_infer.images.read import read_image
    from dino_infer.sources.image_list import list_images

    listed = list_images([folder])
    step = max(1, len(listed) // (2 * NEIGHBOR_IMAGES))
    places = range(0, len(listed), step)
    return [read_image(listed.read(i), path=listed.location(i)) for i in places]


def _print_parity(out: Path, found: "Parity") -> None:
    print(f"{'output':10} {'max error':>10} {'mean error':>10} {'cosine':>11}")
    for name, row in found.deviations.items():
        print(f"{name:10} {row.max_error:10.1e} {row.mean_error:10.1e} {row.cosine:11.8f}")
    sizes = ", ".join(f"{height}x{width}" for height, width in found.sizes)
    print(f"over {found.images} images of {sizes}, photographs and noise; errors in units of rms")
    print(f"nearest neighbour the same for {100 * found.neighbor_agreement:.1f} % of photographs")
    print(f"{printable(out)}: {out.stat().st_size / 2**20:.1f} MiB")
