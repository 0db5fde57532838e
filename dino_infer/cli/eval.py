"""dino-eval: the quality of features, by the published protocols."""

from collections.abc import Callable, Sequence

from dino_infer.cli.exit_codes import exit_code
from dino_infer.cli.parsing import parsed_verbs
from dino_infer.cli.protocols.all import all_protocols
from dino_infer.cli.protocols.compare import compare
from dino_infer.cli.protocols.copy_detection import copy_detection
from dino_infer.cli.protocols.dense_knn import dense_knn
from dino_infer.cli.protocols.health import health
from dino_infer.cli.protocols.knn import knn
from dino_infer.cli.protocols.linear import linear
from dino_infer.cli.protocols.logistic import few_shot, logistic
from dino_infer.cli.protocols.objects import objects
from dino_infer.cli.protocols.retrieval import retrieval
from dino_infer.cli.protocols.segmentation import segmentation
from dino_infer.cli.protocols.video import video

VERBS: dict[str, Callable[..., int]] = {
    "knn": knn,
    "linear": linear,
    "logistic": logistic,
    "few-shot": few_shot,
    "dense-knn": dense_knn,
    "segmentation": segmentation,
    "objects": objects,
    "copy-detection": copy_detection,
    "retrieval": retrieval,
    "video": video,
    "health": health,
    "all": all_protocols,
    "compare": compare,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-eval and return its exit code."""
    return exit_code(
        lambda args: parsed_verbs(VERBS, prog="dino-eval", args=args), prog="dino-eval", args=args
    )
