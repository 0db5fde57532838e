"""Metrics of the server for Prometheus; all names begin with ``dino_``."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dino_app.store.interface import StoreInfo

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dino_requests", "Answers", ["route", "method", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "dino_request_seconds", "Header to answer", ["route"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "dino_stage_seconds", "Work of one stage on one batch", ["stage"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "dino_queue_seconds", "Wait for a stage", ["stage"], buckets=SECONDS, registry=registry
        )
        self.queue_depth = Gauge(
            "dino_queue_depth", "Waiting for a stage", ["stage"], registry=registry
        )
        self.batch_size = Histogram(
            "dino_batch_size", "Done at once", ["stage"], buckets=BATCHES, registry=registry
        )
        self.rejected = Counter(
            "dino_rejected", "Requests refused, by code", ["reason"], registry=registry
        )
        self.in_work = Gauge("dino_requests_in_work", "Requests not answered", registry=registry)
        self._rows = Gauge("dino_store_rows", "Items in the index", registry=registry)
        self._deleted = Gauge(
            "dino_store_deleted_rows", "Deleted rows not yet cleared away", registry=registry
        )
        self._version = Gauge(
            "dino_store_info", "1 for the version in use", ["backend", "index", "version"],
            registry=registry,
        )  # fmt: skip

    def text(self, store: StoreInfo | None) -> bytes:
        """Return all metrics in Prometheus' text format."""
        if store is not None:
            self._rows.set(store.rows)
            self._deleted.set(store.deleted)
            self._version.clear()
            self._version.labels(store.backend, store.index, store.version).set(1)
        return generate_latest(self._registry)
