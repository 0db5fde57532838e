"""Schemas of answers."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel

Scalar = str | bool | int | float

MAX_ANSWER_BYTES = 32 << 20


class ErrorBody(BaseModel):
    """Description of an error."""

    message: str
    type: str
    code: str
    param: str | None
    request_id: str | None


class ErrorAnswer(BaseModel):
    """Every answer other than success."""

    error: ErrorBody


class Status(BaseModel):
    """Health of the server."""

    status: str
    checks: dict[str, str] = {}


class Info(BaseModel):
    """Facts about the server for clients."""

    version: str
    model: str
    """Architecture, the name that /v1/models gives."""
    dim: int
    description: dict[str, Any]
    """Settings that determine how vectors are made."""
    limits: dict[str, Any]
    read_only: bool
    index: dict[str, Any] | None
    """Facts about the index; None where no index is served."""
    head: dict[str, Any] | None
    """Facts about the head; None where there is none."""


class Model(BaseModel):
    """A model, as OpenAI's API describes it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970 when the server started."""
    owned_by: str = "dino-toolkit"


class Models(BaseModel):
    """The models of the server, of which there is one."""

    object: Literal["list"] = "list"
    data: list[Model]


class EmbeddingRow(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Images, under the names of OpenAI's API."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[EmbeddingRow]
    model: str
    usage: Usage


class Result(BaseModel):
    """One item that was found."""

    id: str
    score: float
    """Cosine similarity: higher is nearer, 1 is the same direction."""
    image_url: str
    """URL of its thumbnail, if it has one."""
    metadata: dict[str, Scalar] | None = None
    vector: list[float] | None = None


class SearchAnswer(BaseModel):
    """The nearest items, best first."""

    results: list[Result]
    snapshot: str
    """The version of the index that was searched."""
    exact: bool
    """True if every vector that may match was compared."""
    timing_ms: dict[str, float]


class BatchSearchAnswer(BaseModel):
    """One answer a search, in order."""

    results: list[SearchAnswer]


class ItemAnswer(BaseModel):
    """One item."""

    id: str
    metadata: dict[str, Scalar]
    image_url: str
    vector: list[float] | None = None


class ItemPage(BaseModel):
    """Items in the order of their ids."""

    items: list[ItemAnswer]
    next_cursor: str | None
    """Cursor for the next page; None at the end."""


class ItemStatus(BaseModel):
    """Outcome for one item."""

    id: str
    status: Literal["ok", "failed"]
    error: ErrorBody | None = None


class UpsertAnswer(BaseModel):
    """Outcome for each item; those that are ok survive a power cut."""

    items: list[ItemStatus]
    snapshot: str | None
    """The version that holds them; None where all failed."""


class DeleteAnswer(BaseModel):
    """The ids that were there."""

    deleted: list[str]


class Snapshots(BaseModel):
    """Names that can be restored."""

    snapshots: list[str]


class SnapshotAnswer(BaseModel):
    """A named state."""

    name: str


class Share(BaseModel):
    """Share of the vote that a class has, or its probability."""

    label: Scalar
    probability: float


class Voter(BaseModel):
    """A neighbour that voted."""

    id: str
    score: float
    label: Scalar
    image_url: str


class Classes(BaseModel):
    """Classes by the vote of the neighbours or by a head, largest share first."""

    method: Literal["knn", "linear"]
    """Method by which the image was classified."""

    label: Scalar | None
    """The winner; None where no neighbour has a label."""
    probabilities: list[Share]
    neighbors: list[Voter]
    """Those that voted; none where a head classifies."""
    snapshot: str | None
    """The version of the index that voted; None where a head classifies."""


def json_with_list(name: str, parts: Sequence[bytes], rest: BaseModel | None = None) -> bytes:
    """An answer as JSON whose list ``name`` is written already.

    Writing a large answer in one go would keep every other request waiting, in a thread too.
    """
    others = b"{}" if rest is None else rest.model_dump_json(exclude={name}).encode()
    comma = b"," if len(others) > 2 else b""
    return b'{"%s":[%s]%s%s' % (name.encode(), b",".join(parts), comma, others[1:])
