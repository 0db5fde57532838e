"""Schemas of requests; anything else is refused with 422."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from dino_app.store.interface import Included, SearchParams
from dino_infer.knn.votes import TEMPERATURE

MAX_DIM = 65_536
MAX_FIELDS = 256
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGNgaGDAioaqDgMAM3wwAWxXKF0AAAAASUVORK5CYII="  # noqa: E501

Number = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Number], Field(min_length=1, max_length=MAX_DIM)]
Base64 = Annotated[str, Field(min_length=1, max_length=1 << 28)]
Id = Annotated[str, Field(min_length=1, max_length=1024)]
Text = Annotated[str, Field(max_length=65_536)]
Integer = Annotated[int, Field(ge=-(2**63) + 1, le=2**63 - 1)]
Scalar = Text | bool | Integer | Number
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=256)], Scalar],
    Field(max_length=MAX_FIELDS),
]


class Strict(BaseModel):
    """Request body without unknown fields or conversions."""

    model_config = ConfigDict(strict=True, extra="forbid")


class EmbeddingsRequest(Strict):
    """Images to vectors, as clients of OpenAI's API ask."""

    model: Annotated[str, Field(max_length=256)] = ""
    """Any name: the server has one model, which /v1/models names."""
    input: Base64 | Annotated[list[Base64], Field(min_length=1, max_length=10_000)]
    """Images as data URIs or base64; addresses where the server allows them."""
    modality: Literal["image"] = "image"
    encoding_format: Literal["float", "base64"] = "float"
    """base64: float32, little-endian."""
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIM)] | None = None
    """The width of the vectors, which cannot be changed."""
    user: Annotated[str, Field(max_length=256)] | None = None
    """Ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "vit_small", "input": [PICTURE]}]}
    )


class OneOf(Strict):
    """A request that gives exactly one of several things."""

    one_of: ClassVar[tuple[str, ...]] = ("image", "url")

    image: Base64 | SkipJsonSchema[bytes] | None = None
    """A data URI or base64."""
    url: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """Address of the image, where the server allows it."""

    @model_validator(mode="after")
    def _one(self) -> "OneOf":
        given = [name for name in self.one_of if getattr(self, name)]
        if len(given) != 1:
            *names, last = self.one_of
            choice = f"{', '.join(names)} and {last}"
            raise ValueError(f"expected exactly one of {choice}, got {given}")
        return self


class Subject(OneOf):
    """Subject of a request: exactly one of an image, a vector, an item, an address."""

    one_of = ("image", "vector", "id", "url")

    vector: Vector | Base64 | None = None
    """Numbers, or base64 of float32, little-endian."""
    id: Id | None = None
    """An item of the index, which is then left out of the results."""


class Effort(Strict):
    """Effort of a search."""

    exact: bool = False
    """Compare with every vector."""
    ef: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Candidates of a graph index."""
    nprobe: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Lists visited of an inverted file."""

    def search_params(self) -> SearchParams:
        """Return the same settings for a store."""
        return SearchParams(**self.model_dump())


class SearchRequest(Subject):
    """The nearest items."""

    k: Annotated[int, Field(ge=1, le=1000)] = 10
    """Number of results."""
    filter: dict[str, Any] | None = None
    """Conditions on metadata, such as {"label": "cat", "year": {"$gte": 2020}}."""
    include: Annotated[list[Included], Field(max_length=2)] = ["metadata"]
    """Fields that results carry beside id and score."""
    params: Effort = Effort()

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": PICTURE, "k": 5}, {"id": "a/b.jpg", "k": 5}]}
    )


class BatchSearchRequest(Strict):
    """Several searches at once."""

    searches: Annotated[list[SearchRequest], Field(min_length=1, max_length=10_000)]


class ItemBody(OneOf):
    """A new item, from an image, of which a thumbnail is kept, or from a vector."""

    one_of = ("image", "vector", "url")

    vector: Vector | Base64 | None = None
    """Numbers, or base64 of float32, little-endian."""
    metadata: Metadata = {}
    """Texts, numbers and truth values by name."""


class NamedItem(ItemBody):
    """A new item with its id."""

    id: Id


class UpsertRequest(Strict):
    """Items to add or to replace."""

    items: Annotated[list[NamedItem], Field(min_length=1, max_length=10_000)]


class DeleteRequest(Strict):
    """Items to delete."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)]


class SnapshotRequest(Strict):
    """A name for the present state."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]


class ClassifyRequest(Subject):
    """A class by the vote of the nearest items, or by the head of the server."""

    method: Literal["knn", "linear"] | None = None
    """The vote of the nearest items, or the head of the server; by default the head if there is
    one."""
    k: Annotated[int, Field(ge=1, le=1000)] = 20
    """Neighbours that vote; of a head the most probable classes to tell."""
    temperature: Annotated[float, Field(gt=1e-6, le=1000, allow_inf_nan=False)] = TEMPERATURE
    """Temperature of the vote; lower listens more to the very nearest."""
    label: Annotated[str, Field(min_length=1, max_length=256)] = "label"
    """The field of the metadata that names the class."""
    filter: dict[str, Any] | None = None
    """Conditions on the metadata of the items that may vote."""


class AttentionRequest(OneOf):
    """Request for the attention of a Vision Transformer in an image."""

    heads: Literal["all", "mean", "max"] | Annotated[int, Field(ge=0, le=1000)] = "all"
    """Maps that a picture shows: a sheet of all heads, or the overlay of one map."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the attention that the masks keep."""
    layer: Annotated[int, Field(ge=-1000, le=1000)] = -1
    """Block to look at; negative counts from the last."""
    size: Annotated[int, Field(ge=16, le=1024)] = 480
    """Pixels of the shorter side that the network sees."""
    format: Literal["png", "npz"] = "png"
    """npz: arrays ``attention`` and ``masks``, heads x rows x columns."""
