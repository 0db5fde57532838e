"""Images to vectors, in the words of OpenAI's API."""

from fastapi import APIRouter

from dino_app.server.batching import together
from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS
from dino_app.server.request_images import QuickRoute
from dino_app.server.request_vectors import Row, encoded
from dino_app.server.requests import EmbeddingsRequest
from dino_app.server.responses import EmbeddingRow, Embeddings, Usage
from dino_app.server.service import Service, Serving

router = APIRouter(tags=["embeddings"], responses=ERRORS, route_class=QuickRoute)


@router.post("/v1/embeddings")
async def embeddings(serving: Serving, asked: EmbeddingsRequest) -> Embeddings:
    """Vectors of images.

    Inputs are data URIs (`data:image/jpeg;base64,...`) or plain base64. `usage` counts images.
    The server has one model, whatever `model` says; the answer names it.
    """
    images = [asked.input] if isinstance(asked.input, str) else asked.input
    _check(serving, asked, len(images))
    rows = await together(
        [_row(serving, image, f"input[{place}]") for place, image in enumerate(images)]
    )
    as_text = asked.encoding_format == "base64"
    data = [
        EmbeddingRow(index=place, embedding=encoded(row) if as_text else row.tolist())
        for place, row in enumerate(rows)
    ]
    usage = Usage(prompt_tokens=len(images), total_tokens=len(images))
    return Embeddings(data=data, model=serving.model["arch"], usage=usage)


async def _row(serving: Service, image: str, param: str) -> Row:
    return await serving.embedded(await serving.image(image, None, param=param), param=param)


def _check(serving: Service, asked: EmbeddingsRequest, images: int) -> None:
    if asked.dimensions not in (None, serving.dim):
        message = f"the vectors have {serving.dim} dimensions, which cannot be changed"
        raise ApiError(400, "invalid_dimensions", message, param="dimensions")
    if images > serving.settings.max_images:
        message = f"a request may hold {serving.settings.max_images} images, got {images}"
        raise ApiError(413, "too_many_images", message, param="input")
    serving.check_space(images)
