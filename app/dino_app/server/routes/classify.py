"""The class of an image by the vote of its nearest items, or by a linear head."""

import numpy as np
from fastapi import APIRouter, Request

from dino_app.server.batching import aside
from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS, form_or_json
from dino_app.server.request_images import QuickRoute, json_or_form
from dino_app.server.requests import ClassifyRequest
from dino_app.server.responses import Classes, Share, Voter
from dino_app.server.routes.search import check_k, image_url, nearest_others, subject_vector
from dino_app.server.service import Service, Serving
from dino_app.store.interface import Hit
from dino_infer.knn.votes import vote

router = APIRouter(tags=["classify"], responses=ERRORS, route_class=QuickRoute)

MAX_LABEL_LETTERS = 1 << 20  # of all neighbours together
QUICK_WEIGHTS = 1 << 20  # of a head: a product with them takes less than a millisecond


@router.post("/v1/classify", openapi_extra=form_or_json(ClassifyRequest))
async def classify(serving: Serving, request: Request) -> Classes:
    """DINO's weighted k-NN over the items whose metadata has a label, or the head of the server.

    The head, which `dino-eval linear` trained, takes an image or its address. Without one, each of
    the `k` nearest votes with weight exp(similarity / temperature). Of classes with equal votes
    that of the nearer item is first; equally near items come in the order of their ids.
    """
    text = {"id", "url", "image", "label", "method"}
    asked = await json_or_form(request, ClassifyRequest, text=text)
    if (asked.method or ("linear" if serving.head else "knn")) == "linear":
        return await _by_head(serving, asked)
    serving.require_index()
    check_k(serving, asked.k)
    vector, own = await subject_vector(serving, asked)
    labelled = {asked.label: {"$exists": True}}
    who = labelled if asked.filter is None else {"$and": [labelled, asked.filter]}
    found = await nearest_others(serving, vector, own, k=asked.k, filter=who, include=["metadata"])
    return _classes(found.hits, asked.label, asked.temperature, found.version)


async def _by_head(serving: Service, asked: ClassifyRequest) -> Classes:
    """The most probable classes by the head of the server."""
    head = serving.head
    if head is None:
        message = "this server has no head; start it with one: dino-serve --head FILE"
        raise ApiError(404, "no_head", message, param="method")
    if asked.id is not None or asked.vector is not None:
        message = "a head takes images; send one, or its address, or ask for the method 'knn'"
        raise ApiError(
            400, "image_needed", message, param="id" if asked.vector is None else "vector"
        )
    vector, _ = await subject_vector(serving, asked)
    shares = await aside(
        lambda: head.predict_proba(vector[None])[0], is_quick=head.weight.size <= QUICK_WEIGHTS
    )
    best = np.argsort(-shares, kind="stable")[: asked.k]
    probabilities = [
        Share(label=head.classes[place], probability=float(shares[place])) for place in best
    ]
    return Classes(
        method="linear",
        label=probabilities[0].label,
        probabilities=probabilities,
        neighbors=[],
        snapshot=None,
    )


def _classes(hits: list[Hit], label: str, temperature: float, version: str) -> Classes:
    labels = [(hit.metadata or {})[label] for hit in hits]
    if sum(len(str(one)) for one in labels) > MAX_LABEL_LETTERS:
        message = (
            f"the field {label!r} of the neighbours holds long texts; name one that has classes"
        )
        raise ApiError(413, "answer_too_large", message, param="label")
    said = vote([hit.score for hit in hits], labels, temperature=temperature)
    shares = [Share(label=name, probability=share) for name, share in said.classes]
    voters = [
        Voter(id=hit.id, score=hit.score, label=name, image_url=image_url(hit.id))
        for hit, name in zip(hits, labels, strict=True)
    ]
    winner = shares[0].label if shares else None
    return Classes(
        method="knn", label=winner, probabilities=shares, neighbors=voters, snapshot=version
    )
