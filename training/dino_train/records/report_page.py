"""The page of a run's report: one HTML file with a sentence beside every curve."""

import base64
import html
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dino_infer.evaluate.reports.page import STYLE as SCORECARD_STYLE
from dino_infer.images.pictures import png_bytes
from dino_train.health import SIGNS

CURVES = {
    "loss_nats": (
        "loss (nats)",
        "Cross-entropy of the student's output with the teacher's. It may fall, rise and fall "
        "again while the teacher sharpens.",
    ),
    "loss_over_ln_k": (
        "loss / ln K",
        "The loss beside that of knowing nothing: 1 at the start, lower as it learns, 0 in one "
        "kind of collapse.",
    ),
    "teacher_entropy_nats": (
        "teacher entropy (nats)",
        "Spread of the teacher's output over the prototypes: ln K is even, 0 a single one.",
    ),
    "kl_nats": (
        "KL teacher to student (nats)",
        "Loss less entropy: what the student has yet to learn from the teacher.",
    ),
    "rate_loss": (
        "loss of the coding rate",
        "Alignment and coding rate in one number, which falls below 0 as both grow.",
    ),
    "alignment": (
        "alignment of crops (cosine)",
        "How alike the outputs for crops of one image are: 1 if they agree, 0 if no more than "
        "those of others.",
    ),
    "coding_rate_nats": (
        "coding rate (nats)",
        "How much space the outputs of all images fill; it grows as images are told apart.",
    ),
    "coding_rate_share": (
        "coding rate, 0 collapsed to 1 full",
        "The coding rate beside the most that the space allows; near 0 is collapse.",
    ),
    "feature_std": (
        "feature spread",
        "Spread of the features over the images of a batch; near 0 all images look the same to "
        "the network.",
    ),
    "center_norm": (
        "centre norm",
        "Length of the mean output that is taken off the teacher's; it should settle.",
    ),
    "rankme": (
        "RankMe (effective rank)",
        "Directions that features use. It often rises at first and falls later, as features gather "
        "around what images have in common: with k-NN rising that is learning. Falling to a few "
        "directions, with k-NN or without, is collapse.",
    ),
    "unique_prototypes_share": (
        "share of unique prototypes",
        "Prototypes that are no copies of others; below 0.1 most of them are wasted.",
    ),
    "knn_top1_percent": (
        "k-NN top-1 (%)",
        "Labelled images whose class their nearest neighbours name: the number to trust.",
    ),
    "lr": ("learning rate", "It rises during the warm-up and falls to the end, as set."),
    "momentum": ("teacher momentum", "How slowly the teacher follows the student, as set."),
    "images_per_s": ("images/s", "Training speed, without the time of measuring and saving."),
    "data_wait_share": (
        "share of time waiting for data",
        "Near 0 the network is the slower part; far above, more workers or a cache help.",
    ),
}
"""Name and meaning of each curve."""
STYLE = (
    SCORECARD_STYLE
    + """
.curves{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1rem}
figure{margin:0}figcaption{color:var(--soft);font-size:.95rem}
.wide img{max-width:none;max-height:32rem;width:auto}
td,th{white-space:normal;vertical-align:top}.signs td,.signs th{text-align:left}
@media(prefers-color-scheme:dark){.curves img{filter:invert(.92) hue-rotate(180deg)}}
"""
)


def page_of(
    run: str,
    *,
    curves: Mapping[str, UInt8[np.ndarray, "height width 3"]],
    latest: Mapping[str, float],
    step: int,
    has_attention: bool,
) -> str:
    """The page as text; curves are in it, the picture of attention is a file beside it.

    Args:
        run: Name of the run.
        curves: Pictures of the curves, by their names in ``CURVES``.
        latest: The newest number of each kind.
        step: Optimizer updates so far.
        has_attention: Show ``attention.png``.
    """
    attention = (
        "<p>What the [CLS] token of the teacher's last block attends to, mean over its heads; "
        "with time it should leave the background for objects.</p>"
        '<div class=wide tabindex=0 role=group aria-label="attention over training">'
        '<img src="attention.png" alt="attention maps, a row for each picture"></div>'
        if has_attention
        else "<p>This backbone is a convnet: it has no [CLS] attention to show.</p>"
    )
    name = html.escape(run)
    signs = [(sign.name, sign.advice) for sign in SIGNS]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{name}</h1><p>After {step:,} steps. "
        '<a href="#learning">Is it learning?</a></p>'
        f"{_curves(curves)}<h2>[CLS] attention over training</h2>{attention}"
        "<h2 id=learning>Is it learning?</h2>"
        "<p>It is where k-NN rises, or without labels, where the loss falls and none of these "
        "shows; dino-train warns of them. docs/training.md has more.</p>"
        f"<table class=signs><tr><th>sign</th><th>what helps</th></tr>{_rows(signs)}</table>"
        "<h2>Latest numbers</h2><table><tr><th>name</th><th>value</th></tr>"
        f"{_rows((key, f'{value:.6g}') for key, value in latest.items())}</table>"
        "</main></body></html>\n"
    )


def _curves(pictures: Mapping[str, np.ndarray]) -> str:
    """Each curve with a sentence on what it tells; nothing where there are none."""
    if not pictures:
        return ""
    figures = "".join(
        f'<figure><img src="{_inline(picture)}" alt="{html.escape(CURVES[name][0])}">'
        f"<figcaption>{html.escape(CURVES[name][1])}</figcaption></figure>"
        for name, picture in pictures.items()
    )
    return (
        f"<h2>Curves</h2><div class=curves>{figures}</div>"
        '<p><a href="curves.png">All in one picture</a></p>'
    )


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    cells = ([html.escape(cell) for cell in pair] for pair in pairs)
    return "".join(f"<tr><td>{first}</td><td>{second}</td></tr>" for first, second in cells)


def _inline(picture: np.ndarray) -> str:
    content = png_bytes(Image.fromarray(picture))
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
