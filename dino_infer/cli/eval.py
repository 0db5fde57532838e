"""dino-eval: the quality of features, by the published protocols."""

from collections.abc import Callable, Sequence
from typing import Any

from dino_infer.cli.exit_codes import exit_code
from dino_infer.cli.parsing import parsed_verbs
from dino_infer.cli.protocols.knn import knn
from dino_infer.cli.protocols.segmentation import segmentation
from dino_infer.cli.protocols.video import video

VERBS: dict[str, Callable[..., Any]] = {
    "knn": knn,
    "segmentation": segmentation,
    "video": video,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-eval and return its exit code."""
    return exit_code(
        lambda args: parsed_verbs(VERBS, prog="dino-eval", args=args), prog="dino-eval", args=args
    )
