"""Vectors as requests and answers write them: lists of numbers, or base64 of float32."""

import base64

import numpy as np
from jaxtyping import Float, Float32

from dino_app.server.errors import ApiError
from dino_app.server.request_images import base64_bytes

Row = Float32[np.ndarray, " dim"]

LARGEST = float(np.finfo(np.float32).max)
MAX_BYTES = 1 << 20


def numbers(given: list[float] | str, param: str) -> Float[np.ndarray, " dim"]:
    """The numbers of a request; base64 is of float32, little-endian.

    Raises:
        ApiError: No base64 of whole numbers, or one that float32 cannot hold.
    """
    vector = np.array(given, dtype=np.float64) if isinstance(given, list) else _read(given, param)
    if np.abs(vector).max(initial=0) > LARGEST:
        message = "a vector must hold finite float32 numbers"
        raise ApiError(400, "invalid_vector", message, param=param)
    return vector


def check_width(vector: Float[np.ndarray, " width"], dim: int, param: str) -> None:
    """Refuse a vector of another width than the server's.

    Raises:
        ApiError: It has one.
    """
    if len(vector) != dim:
        message = f"a vector has {dim} values here, as /v1/info says; got {len(vector)}"
        raise ApiError(400, "invalid_vector", message, param=param)


def encoded(vector: Float[np.ndarray, " dim"]) -> str:
    """A vector as base64 of float32, little-endian."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _read(text: str, param: str) -> Float32[np.ndarray, " dim"]:
    data = base64_bytes(text, param=param, max_bytes=MAX_BYTES)
    if len(data) % 4:
        message = f"expected float32 values, got {len(data)} bytes"
        raise ApiError(400, "invalid_vector", message, param=param)
    return np.frombuffer(data, dtype="<f4")
