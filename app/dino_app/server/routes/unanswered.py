"""Refusal of requests to unknown paths of the API, and to known ones with another method."""

from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from dino_app.server.auth import is_api


class Unanswered(BaseRoute):
    """Refuses requests that endpoints leave, before an application mounted at ``/`` gets them."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = tuple(routes)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every path of the API, and the others of the endpoints."""
        ours = scope["type"] == "http" and (is_api(scope["path"]) or self._methods(scope))
        return (Match.FULL if ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request.

        Raises:
            HTTPException: Always: 405 with the methods of its path, or 404.
        """
        if methods := self._methods(scope):
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        raise HTTPException(404)

    def _methods(self, scope: Scope) -> set[str]:
        """Methods that the path of a request allows."""
        found: set[str] = set()
        for route in self._routes:
            if route.matches(scope)[0] is Match.PARTIAL:
                found |= getattr(route, "methods", None) or set()
        return found
