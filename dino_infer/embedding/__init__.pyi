from .embedder import Embedder as Embedder, Embedding as Embedding
