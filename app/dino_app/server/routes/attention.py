"""Attention of a Vision Transformer in an image, drawn by the code of dino-attention."""

import functools
import io

import numpy as np
from fastapi import APIRouter, Request, Response

from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS, form_or_json
from dino_app.server.request_images import QuickRoute, json_or_form
from dino_app.server.requests import AttentionRequest
from dino_app.server.service import ImageEmbedder, Service, Serving
from dino_infer.attention.grids import whole_image
from dino_infer.attention.maps import AttentionMaps, attention_maps
from dino_infer.attention.views import checked_view
from dino_infer.embedding.attention import Attention
from dino_infer.embedding.engines import TorchEngine
from dino_infer.errors import ImageError
from dino_infer.images.pictures import png_bytes
from dino_infer.images.read import read_image
from dino_infer.networks.backbone import Backbone

router = APIRouter(tags=["attention"], responses=ERRORS, route_class=QuickRoute)

TYPES = {"png": "image/png", "npz": "application/zip"}


@router.post(
    "/v1/attention",
    response_class=Response,
    openapi_extra=form_or_json(AttentionRequest),
    responses={200: {"content": {kind: {} for kind in TYPES.values()}}},
)
async def attention(serving: Serving, request: Request) -> Response:
    """[CLS] attention of one image: a sheet of heat maps and masks, an overlay, or arrays."""
    asked = await json_or_form(request, AttentionRequest, text={"url", "image"})
    backbone = _vision_transformer(serving.embedder)
    image = await serving.image(asked.image, asked.url)
    draw = functools.partial(_draw, serving, backbone, image, asked)
    return Response(await serving.look(draw), media_type=TYPES[asked.format])


def _vision_transformer(embedder: ImageEmbedder) -> Backbone:
    engine = embedder.engine
    if isinstance(engine, TorchEngine) and engine.backbone.has_attention:
        return engine.backbone
    arch = embedder.description()["arch"]
    what = "runs an .onnx file" if not isinstance(engine, TorchEngine) else f"is a {arch!r}"
    message = f"attention needs the PyTorch weights of a Vision Transformer; this server {what}"
    raise ApiError(400, "no_attention", message)


def _draw(serving: Service, backbone: Backbone, image: bytes, asked: AttentionRequest) -> bytes:
    size = max(asked.size, backbone.patch_size)
    preprocess = whole_image(serving.embedder.preprocess, size=size, patch_size=backbone.patch_size)
    pixels = read_image(
        image, path="image", max_pixels=serving.max_pixels,
        min_scale_size=preprocess.least_decoded,
    )  # fmt: skip
    try:
        checked_view(
            *pixels.shape[:2], preprocess=preprocess, patch_size=backbone.patch_size, path="image"
        )
        look = attention_maps(
            pixels, backbone=backbone, preprocess=preprocess, mass=asked.threshold,
            layer=asked.layer,
        )  # fmt: skip
        if asked.format == "npz":
            return _npz(look)
        found = Attention(
            look=look, image=pixels, backbone=backbone, preprocess=preprocess, mass=asked.threshold
        )
        return png_bytes(found.sheet() if asked.heads == "all" else found.overlay(asked.heads))
    except ValueError as error:  # no such layer or head
        raise ApiError(400, "invalid_value", str(error)) from error
    except ImageError as error:
        raise ApiError(413, "too_many_patches", error.reason, param="size") from error


def _npz(maps: AttentionMaps) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, attention=maps.heads, masks=maps.masks)
    return file.getvalue()
