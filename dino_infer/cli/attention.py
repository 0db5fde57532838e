"""dino-attention: what the [CLS] token attends to, as pictures and as arrays."""

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import tyro

from dino_infer.cli.options import (
    ComputeOptions,
    Images,
    WeightOptions,
    check_images,
    check_positive,
    load_embedder,
)
from dino_infer.cli.run import UsageError, exit_code, inputs_code, printable

logger = logging.getLogger(__name__)


def attention(
    images: Images,
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    size: int = 480,
    mass: float = 0.6,
    layer: int = -1,
    device: str = "auto",
) -> int:
    """Draw what each attention head of the [CLS] token looks at.

    Writes for each image NAME.attention.png (heat maps of the mean and of every head, and below
    them the patches that hold most of the attention) and NAME.attention.npz (arrays `attention`
    and `masks`, heads x rows x columns of patches), and MAPS/failed.jsonl.

    Args:
        images: Folders, images, .txt files that list images, or WebDataset .tar files.
        out: Folder to write to; made if need be. Files of the same names are replaced.
        weights: Which weights to use; they must be of a Vision Transformer.
        size: Pixels of the shorter side that the network sees; more shows finer detail.
        mass: Share of a head's attention that its mask keeps.
        layer: Block to look at, from 0; negative counts from the last.
        device: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one.
    """
    check_images(images)
    check_positive("--size", size)
    if not 0 < mass <= 1:
        raise UsageError(f"--mass must lie in (0, 1], got {mass}")
    from tqdm import tqdm

    from dino_infer.attention import attention_maps, check_has_attention, whole_image
    from dino_infer.errors import DataError, ImageError
    from dino_infer.images import ImageFailure, read_image, write_failures
    from dino_infer.listing import list_images
    from dino_infer.progress import Progress
    from dino_infer.render import write_attention

    if out.exists() and not out.is_dir():
        raise DataError(f"maps go to a folder, but {printable(out)!r} is a file; pass another -o")
    listed = list_images(images)
    embedder = load_embedder(weights, ComputeOptions(device=device), size=size)
    backbone = embedder.backbone
    check_has_attention(backbone)
    preprocess = whole_image(embedder.preprocess, size=size, patch_size=backbone.patch_size)
    look = functools.partial(
        attention_maps, backbone=backbone, preprocess=preprocess, mass=mass, layer=layer
    )
    failures = []
    names = [listed.name(i) for i in range(len(listed))]
    with Progress("attention", total=len(listed)) as progress:
        for i, target in enumerate(_targets(out, names)):
            try:
                maps = look(read_image(listed.read(i), path=names[i]), path=names[i])
            except ImageError as error:
                failures.append(ImageFailure.of(error))
                logger.warning("left out %s", error)
            except ValueError as error:  # a layer that this backbone does not have
                raise UsageError(str(error)) from error
            else:
                write_attention(target, maps, mass=mass)
                tqdm.write(printable(target))
            progress.advance(1)
    out.mkdir(parents=True, exist_ok=True)
    write_failures(out / "failed.jsonl", failures)
    return inputs_code(total=len(listed), failed=len(failures))


def _targets(out: Path, names: Iterable[str]) -> Iterator[Path]:
    """The picture to write for each image: the image's own path below ``out``, made unique."""
    taken: set[Path] = set()
    for name in names:
        # Names inside a tar are free text; nothing may lead out of the folder.
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
        target = out.joinpath(*parts[:-1], f"{parts[-1]}.attention.png")
        number = 2
        while target in taken:
            target = target.with_name(f"{parts[-1]}.{number}.attention.png")
            number += 1
        taken.add(target)
        yield target


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-attention and return its exit code."""
    prog = "dino-attention"
    return exit_code(lambda: tyro.cli(attention, prog=prog, args=args), prog=prog)
