"""dino-attention: attention or objects of a Vision Transformer as pictures, arrays and boxes."""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dino_infer.cli.attention_options import (
    ATTENTION,
    LookOptions,
    VideoOptions,
    WriteOptions,
    check_objects,
)
from dino_infer.cli.exit_codes import UsageError, exit_code, inputs_code, printable
from dino_infer.cli.options import (
    DEFAULT_WEIGHTS,
    TableOptions,
    WeightOptions,
    check_images,
    check_out,
)
from dino_infer.cli.parsing import parsed

if TYPE_CHECKING:
    from dino_infer.attention.patches import PatchPCA
    from dino_infer.cli.attention_files import Drawing, Looking
    from dino_infer.drawing.videos import VideoPath
    from dino_infer.images.read import ImageFailure
    from dino_infer.sources.image_list import ImageList

logger = logging.getLogger(__name__)


def attention(
    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGES ...", help_behavior_hint="(required)"),
    ],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    look: tyro.conf.OmitArgPrefixes[LookOptions] = LookOptions(),  # noqa: B008
    files: tyro.conf.OmitArgPrefixes[WriteOptions] = WriteOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    frames: tyro.conf.OmitArgPrefixes[VideoOptions] = VideoOptions(),  # noqa: B008
    device: str = "auto",
) -> int:
    """Draw the attention of each head of a Vision Transformer, or the objects that it sees.

    Writes for each image NAME.attention.png (heat maps of the mean and of every head, and below
    them the patches that hold most of the attention) and NAME.attention.npz (arrays `attention`
    and `masks`, heads x rows x columns of patches), or what --write, --boxes and --pca ask for;
    for each video NAME.attention.mp4, the overlay; and MAPS/failed.jsonl. With another --method the
    names are NAME.METHOD.png and .npz, with the arrays `scores` and `masks` of each object.

    Args:
        images: Folders of images and videos, images, videos (.mp4, .mov, .avi, .mkv, .webm, .m4v),
            .txt files that list images, or WebDataset .tar files.
        out: Folder to write to, created if it does not exist; files of the same names are replaced.
        weights: Weights of a Vision Transformer; by default timm:vit_small_patch16_224.dino.
        look: Attention or objects to draw.
        files: Files to write.
        tables: Reading of image tables.
        frames: Frames of videos to use.
        device: Device to compute on: cpu, cuda or cuda:N; auto takes a GPU if there is one.
    """
    check_images(images)
    if look.method != ATTENTION:
        check_objects(look.method, files)
    from dino_infer.drawing.videos import imported_av, split_videos
    from dino_infer.errors import DataError
    from dino_infer.images.read import write_failures
    from dino_infer.sources.image_list import list_images

    if out.exists() and not out.is_dir():
        shown = printable(out)
        raise DataError(f"maps go to a folder, but {shown!r} is a file; pass another `out`")
    check_out(out)
    videos, others = split_videos(images)
    listed = list_images(others, image_column=tables.image_column) if others else None
    if frames != VideoOptions() and not videos:
        raise UsageError("--frame-step and --max-frames are for videos, and there are none")
    if videos and look.method != ATTENTION:
        first = printable(videos[0].name)
        raise UsageError(f"--method {look.method} is for images; leave out videos such as {first}")
    if videos:
        imported_av()  # before the first image, not after the last
    looking = _looking(weights, look, device=device)
    drawing = _drawing(look, files)
    names = [] if listed is None else [listed.name(i) for i in range(len(listed))]
    targets = _targets(out, [*names, *(video.name for video in videos)])
    failures = []
    if listed is not None:
        failures += _draw_images(listed, targets, looking, drawing, files)
    failures += _draw_videos(videos, targets, looking, drawing, frames)
    out.mkdir(parents=True, exist_ok=True)
    write_failures(out / "failed.jsonl", failures)
    return inputs_code(total=len(names) + len(videos), failed=len(failures))


def _drawing(look: LookOptions, files: WriteOptions) -> "Drawing":
    from dino_infer.cli.attention_files import Drawing
    from dino_infer.drawing.overlays import check_colormap

    try:
        check_colormap(files.colormap)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Drawing(
        mass=_mass(look),
        head="mean" if files.head is None else files.head,
        opacity=files.opacity,
        colormap=files.colormap,
        min_patches=files.min_patches or 1,
    )


def _mass(look: LookOptions) -> float:
    from dino_infer.attention.maps import MASS

    return MASS if look.mass is None else look.mass


def _looking(weights: WeightOptions, look: LookOptions, *, device: str) -> "Looking":
    from dino_infer.attention.grids import check_has_attention, whole_image
    from dino_infer.attention.maps import attention_maps, rollout_maps
    from dino_infer.cli.attention_files import Looking
    from dino_infer.devices import resolved_device
    from dino_infer.images.preprocess import Preprocess
    from dino_infer.weights.checkpoints import load_backbone

    place = resolved_device(device)
    try:
        backbone, info = load_backbone(weights.weights or DEFAULT_WEIGHTS, **weights.keywords())
    except ValueError as error:  # no such arch, or sizes that do not fit
        raise UsageError(str(error)) from error
    check_has_attention(backbone)
    if look.size < backbone.patch_size:
        patch = backbone.patch_size
        raise UsageError(f"--size must be at least one patch of {patch} px, got {look.size}")
    preprocess = whole_image(
        Preprocess(mean=info.mean, std=info.std), size=look.size, patch_size=backbone.patch_size
    )
    backbone.to(place).eval()
    network: dict[str, Any] = {"backbone": backbone, "preprocess": preprocess}
    layer = -1 if look.layer is None else look.layer
    if look.method != ATTENTION:
        from dino_infer.objects.find import find_objects

        find = functools.partial(find_objects, **network, method=look.method, layer=layer)
        return Looking(look=find, method=look.method, **network)
    if look.rollout:
        maps = functools.partial(rollout_maps, **network, mass=_mass(look))
    else:
        maps = functools.partial(
            attention_maps, **network, mass=_mass(look), layer=layer, query=look.pixel
        )
    return Looking(look=maps, method=look.method, **network)


def _draw_images(
    listed: "ImageList",
    targets: Iterator[Path],
    looking: "Looking",
    drawing: "Drawing",
    files: WriteOptions,
) -> "list[ImageFailure]":
    """Write the files of every image, and return which could not be read."""
    from tqdm import tqdm

    from dino_infer.cli.attention_files import pca_basis
    from dino_infer.errors import ImageError
    from dino_infer.images.read import ImageFailure
    from dino_infer.progress import Progress

    basis = pca_basis(listed, looking) if files.pca else None
    failures = []
    with Progress("attention", total=len(listed)) as progress:
        for i in range(len(listed)):
            target = next(targets)
            try:
                written = _draw_image(listed, i, target, looking, drawing, files, basis)
            except ImageError as error:
                failures.append(ImageFailure.of(error))
                logger.warning("left out %s", error)
            else:
                for path in written:
                    tqdm.write(printable(path))
            progress.advance(1)
    return failures


def _draw_image(
    listed: "ImageList",
    i: int,
    target: Path,
    looking: "Looking",
    drawing: "Drawing",
    files: WriteOptions,
    basis: "PatchPCA | None",
) -> list[Path]:
    from dino_infer.cli.attention_files import write_boxes, write_files, write_pca
    from dino_infer.cli.object_files import write_object_boxes, write_object_files
    from dino_infer.images.read import read_image

    name = listed.name(i)
    image = read_image(listed.read(i), path=name)
    if looking.method == ATTENTION:
        maps = looking.maps(image, name=name, head=drawing.head)
        target.parent.mkdir(parents=True, exist_ok=True)
        written = write_files(target, maps, files.write, drawing)
        if files.boxes:
            written.append(write_boxes(target, image, maps, looking, drawing, name=name))
    else:
        found = looking.objects(image, name=name)
        target.parent.mkdir(parents=True, exist_ok=True)
        written = write_object_files(target, found, files.write, drawing, method=looking.method)
        if files.boxes:
            written.append(write_object_boxes(target, image, found, looking, drawing, name=name))
    if basis is not None:
        written.append(write_pca(target, image, basis, looking, name=name))
    return written


def _draw_videos(
    videos: "Sequence[VideoPath]",
    targets: Iterator[Path],
    looking: "Looking",
    drawing: "Drawing",
    options: VideoOptions,
) -> "list[ImageFailure]":
    """Write the video of every video, and return which could not be read."""
    from tqdm import tqdm

    from dino_infer.cli.attention_files import write_video
    from dino_infer.drawing.videos import VideoFile
    from dino_infer.errors import ImageError
    from dino_infer.images.read import ImageFailure

    failures = []
    for path, name in videos:
        target = next(targets)
        try:
            with VideoFile(path, name=name) as video:
                target.parent.mkdir(parents=True, exist_ok=True)
                written = write_video(
                    target, video, looking, drawing,
                    step=options.frame_step, max_frames=options.max_frames,
                )  # fmt: skip
        except ImageError as error:
            failures.append(ImageFailure.of(error))
            logger.warning("left out %s", error)
        else:
            tqdm.write(printable(written))
    return failures


def _targets(out: Path, names: Iterable[str]) -> Iterator[Path]:
    """Yield the path prefix of each input's files: its own path below ``out``, made unique."""
    taken: set[Path] = set()
    for name in names:
        # Names inside a tar are free text; nothing may lead out of the folder.
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        target = out.joinpath(*parts)
        number = 2
        while target in taken:
            target = target.with_name(f"{parts[-1]}.{number}")
            number += 1
        taken.add(target)
        yield target


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-attention and return its exit code."""
    prog = "dino-attention"
    return exit_code(lambda args: parsed(attention, prog=prog, args=args), prog=prog, args=args)
