"""Limits of the server, each a flag of dino-serve with an environment variable ``DINO_NAME``."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import tyro

Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits of requests; each flag has an environment variable, say DINO_MAX_K."""

    max_body_mb: float = 32
    """Megabytes of one request's body, counted as they arrive."""
    max_bodies_mb: float = 256
    """Megabytes of all bodies and answers in work together; beyond it requests are refused with
    429."""
    max_image_mb: float = 20
    """Megabytes of one encoded image."""
    max_megapixels: float = 50
    """Millions of pixels of one image, judged by its header."""
    max_images: int = 32
    """Images of one embedding request."""
    max_items: int = 256
    """Items of one write, ids of one delete, and searches of one batch."""
    max_k: int = 1000
    """Results of one search."""
    max_batch: int = 16
    """Images that the network sees at once."""
    batch_wait_ms: float = 5
    """Milliseconds that an image waits for others to share its batch."""
    max_queue: int = 64
    """Images waiting to be decoded, and as many for the network; the next is refused with 429."""
    max_searches: int = 256
    """Searches that may wait."""
    max_requests: int = 512
    """Requests in work at once; the next is refused before its body is read."""
    max_connections: int = 1024
    """Open connections."""
    decode_threads: int = 0
    """Threads that decode images; 0 takes one a core."""
    embed_threads: int = 0
    """Batches that a CPU computes at once, each on its share of the cores; 0 takes one a core.
    On a GPU there is always one."""
    search_threads: int = 0
    """Searches at once, each on one core; 0 takes one a core."""
    request_timeout_s: float = 30
    """Seconds for a request once its body is there; then 504."""
    body_timeout_s: float = 30
    """Seconds for a body to arrive; then 408."""
    header_timeout_s: float = 10
    """Seconds for the header of a request to arrive; then the connection is closed."""
    keep_alive_s: int = 15
    """Seconds that an idle connection stays open."""
    requests_per_minute: int = 0
    """Requests a minute of one key, or without keys of one address; 0 is no limit."""
    url_input: Flag = False
    """Fetch images from http and https addresses in the public internet."""
    url_timeout_s: float = 10
    """Seconds to fetch one image."""
    open_metrics: Flag = False
    """Answer /metrics without a key."""
    open_docs: Flag = False
    """Answer /docs and /openapi.json without a key."""
    access_log: bool = True
    """Write a line of JSON to stderr for each request."""

    def __post_init__(self) -> None:
        may_be_zero = {"decode_threads", "embed_threads", "search_threads", "requests_per_minute"}
        may_be_zero |= {"batch_wait_ms"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in may_be_zero or isinstance(value, bool) else 1e-3
            if value < least:
                sign = "not be negative" if field.name in may_be_zero else "be positive"
                raise ValueError(f"`{field.name}` must {sign}, got {value}")
        if self.max_k > 1000:
            raise ValueError(f"`max_k` must be at most 1000, got {self.max_k}")

    def shown(self) -> dict[str, Any]:
        """The limits that clients have to keep, for /v1/info."""
        names = ("max_body_mb", "max_image_mb", "max_megapixels", "max_images", "max_items")
        more = ("max_k", "request_timeout_s", "requests_per_minute", "url_input")
        return {name: getattr(self, name) for name in (*names, *more)}
