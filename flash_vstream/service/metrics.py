"""Figures of the server in Prometheus' format, read from the streams when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from flash_vstream.serve.session import Answer

if TYPE_CHECKING:
    from flash_vstream.service.server import Server

GAUGES = {
    "lag_seconds": ("lag", "How old the newest picture is"),
    "stream_time_seconds": ("stream_time", "Stream time of the newest frame"),
    "memory_tokens": ("memory_tokens", "Tokens that the memory gives the language model"),
    "memory_bytes": ("memory_bytes", "Bytes of the memory"),
}
COUNTERS = {
    "frames": ("frames_seen", "Frames watched"),
    "frames_dropped": ("frames_dropped", "Frames dropped"),
    "reconnects": ("reconnects", "Connections made again"),
}


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.first_token = Histogram(
            "vstream_first_token_seconds", "From the question to the first token", registry=self.registry
        )
        self.answers = Counter("vstream_answers", "Answers, by how they ended", ["end"], registry=self.registry)
        self.tokens = Counter("vstream_answer_tokens", "Tokens of answers", registry=self.registry)

    def count(self, end: str, answer: Answer) -> None:
        """Add an answer that ended."""
        self.answers.labels(end).inc()
        self.tokens.inc(answer.n_tokens)
        if answer.time_to_first_token_s is not None:
            self.first_token.observe(answer.time_to_first_token_s)

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self.registry)

    def describe(self) -> list[Metric]:
        """Nothing: the registry must not read the streams when it is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of the streams."""
        facts = [(stream.definition.name, stream.describe()) for stream in self._server.all()]
        for name, (key, text) in GAUGES.items():
            gauge = GaugeMetricFamily(f"vstream_{name}", text, labels=["stream"])
            for stream, described in facts:
                if described[key] is not None:
                    gauge.add_metric([stream], described[key])
            yield gauge
        for name, (key, text) in COUNTERS.items():
            counter = CounterMetricFamily(f"vstream_{name}", text, labels=["stream"])
            for stream, described in facts:
                counter.add_metric([stream], described[key])
            yield counter
        states = GaugeMetricFamily("vstream_state", "1 for the state of each stream", labels=["stream", "state"])
        for stream, described in facts:
            states.add_metric([stream, described["state"]], 1)
        yield states
        queue = GaugeMetricFamily("vstream_questions", "Questions, by whether they wait or run", labels=["state"])
        for state, count in self._server.engine.load().items():
            queue.add_metric([state], count)
        yield queue
