from .attention import Attention as Attention
from .decoding import ImageFile as ImageFile
from .embedder import (
    EmbeddedBatch as EmbeddedBatch,
    Embedder as Embedder,
    Embedding as Embedding,
)
from .engines import Engine as Engine
