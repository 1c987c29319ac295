"""What an operator may watch: counts and times by route, never by user."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "tacit_requests", "Answers.", ("route", "method", "status"), registry=registry
        )
        self._seconds = Histogram(
            "tacit_request_seconds",
            "Time to an answer's end.",
            ("route",),
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._swaps = Counter("tacit_swaps", "Deliveries taken up.", registry=registry)
        self._refused = Counter(
            "tacit_refused_deliveries", "Deliveries refused.", registry=registry
        )
        self._ready = Gauge("tacit_ready", "1 where a delivery is in use.", registry=registry)
        self._sentences = Counter(
            "tacit_sentences", "Sentences, by what wrote them.", ("by",), registry=registry
        )

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answer; ``route`` is the template, so that no identifier becomes a label."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def swapped(self) -> None:
        """A delivery was taken up."""
        self._swaps.inc()
        self._ready.set(1)

    def refused(self) -> None:
        """A delivery could not be used."""
        self._refused.inc()

    def wrote(self, by: str) -> None:
        """A sentence by ``model``, ``retry`` or ``template``."""
        self._sentences.labels(by).inc()

    def text(self) -> bytes:
        """In Prometheus's text form."""
        return generate_latest(self._registry)
