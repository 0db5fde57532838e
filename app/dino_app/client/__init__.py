"""Clients of ``dino-serve``, for threads and for asyncio."""

from dino_app.client.clients import AsyncClient, Client
from dino_app.client.messages import NewItem, ServerError

__all__ = ["AsyncClient", "Client", "NewItem", "ServerError"]
