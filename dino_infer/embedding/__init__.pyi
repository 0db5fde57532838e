from .attention import Attention as Attention
from .batches import EmbeddedBatch as EmbeddedBatch
from .decoding import ImageFile as ImageFile
from .embedder import Embedder as Embedder, Embedding as Embedding
from .engines import Engine as Engine
