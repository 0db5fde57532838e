"""dino-eval: how good features are, by the published protocols."""

import functools
import logging
from collections.abc import Sequence

import tyro

from dino_infer.cli.options import ComputeOptions, WeightOptions, check_positive, load_embedder
from dino_infer.cli.run import UsageError, exit_code, inputs_code

logger = logging.getLogger(__name__)


def knn(
    *,
    train: str,
    val: str | None = None,
    k: tuple[int, ...] = (10, 20, 100, 200),
    temperature: float = 0.07,
    leave_one_out: tyro.conf.FlagCreatePairsOff[bool] = False,
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    size: int | None = None,
) -> int:
    """Classify images by a weighted vote of their nearest neighbours.

    Prints top-1 and top-5 accuracy in percent for each k.

    Args:
        train: The neighbours: a feature file of dino-embed with labels, or a folder of class
            folders.
        val: The images to classify, likewise.
        k: Numbers of neighbours that vote.
        temperature: Of the vote; lower listens more to the very nearest.
        leave_one_out: Classify each training image by all the others, instead of --val.
        weights: Which weights embed the images, where folders are given.
        compute: How to run the network.
        size: Side in pixels of the centre crop; by default that of the training crops.
    """
    if leave_one_out == (val is not None):
        raise UsageError("pass either --val or --leave-one-out")
    if not k or min(k) < 1:
        raise UsageError(f"--k must be at least 1, got {' '.join(map(str, k)) or 'nothing'}")
    if temperature <= 0:
        raise UsageError(f"--temperature must be above 0, got {temperature}")
    check_positive("--size", size)
    from dino_infer.evaluate.knn import knn_accuracies, labelled_features

    embedder = functools.cache(lambda: load_embedder(weights, compute, size=size))
    sides = [labelled_features(side, embedder=embedder) for side in (train, val) if side]
    results = knn_accuracies(
        sides[0], None if leave_one_out else sides[1], ks=k, temperature=temperature
    )
    print("    k   top-1   top-5")
    for count, accuracy in results.items():
        print(f"{count:5}  {accuracy.top1_percent:6.2f}  {accuracy.top5_percent:6.2f}")
    failed = sum(side.failed for side in sides)
    if failed:
        logger.warning("%d images could not be read and were left out", failed)
    return inputs_code(total=sum(side.images for side in sides), failed=failed)


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-eval and return its exit code."""
    return exit_code(
        lambda: tyro.extras.subcommand_cli_from_dict({"knn": knn}, prog="dino-eval", args=args),
        prog="dino-eval",
    )
