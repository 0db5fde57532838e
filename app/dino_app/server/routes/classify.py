"""The class of an image by the vote of its nearest items."""

from fastapi import APIRouter, Request

from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS, form_or_json
from dino_app.server.request_images import QuickRoute, json_or_form
from dino_app.server.requests import ClassifyRequest
from dino_app.server.responses import Classes, Share, Voter
from dino_app.server.routes.search import check_k, image_url, nearest_others, subject_vector
from dino_app.server.service import Serving
from dino_app.store.interface import Hit
from dino_infer.knn.votes import vote

router = APIRouter(tags=["classify"], responses=ERRORS, route_class=QuickRoute)

MAX_LABEL_LETTERS = 1 << 20  # of all neighbours together


@router.post("/v1/classify", openapi_extra=form_or_json(ClassifyRequest))
async def classify(serving: Serving, request: Request) -> Classes:
    """DINO's weighted k-NN over the items whose metadata has a label.

    Each of the `k` nearest votes with weight exp(similarity / temperature). Of classes with equal
    votes that of the nearer item is first; equally near items come in the order of their ids.
    """
    asked = await json_or_form(request, ClassifyRequest, text={"id", "url", "image", "label"})
    serving.require_index()
    check_k(serving, asked.k)
    vector, own = await subject_vector(serving, asked)
    labelled = {asked.label: {"$exists": True}}
    who = labelled if asked.filter is None else {"$and": [labelled, asked.filter]}
    found = await nearest_others(serving, vector, own, k=asked.k, filter=who, include=["metadata"])
    return _classes(found.hits, asked.label, asked.temperature, found.version)


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
    return Classes(label=winner, probabilities=shares, neighbors=voters, snapshot=version)
