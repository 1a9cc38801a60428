"""What a server counts, for Prometheus: vLLM's suffixes under a prefix of our own, and those of sound.

Every server has a registry of its own, so that two in one process do not meet.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
PER_TOKEN = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0)


class Metrics:
    """Counters of one server."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.model_name = model_name
        self.running = self._gauge("num_requests_running", "Answers being computed.")
        self.waiting = self._gauge("num_requests_waiting", "Requests in line.")
        self.sessions = self._gauge("num_live_sessions", "Live sessions that are open.")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self.cached_tokens = self._counter("prompt_tokens_cached", "Tokens of prompts that were in a cache already.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens written.")
        self.requests = self._counter("request_success", "Answers by how they ended.", "finished_reason")
        self.failures = self._counter("request_failure", "Requests that were refused or failed.", "code")
        self.ttft = self._histogram("time_to_first_token_seconds", "From the request to its first word.", SECONDS)
        self.tpot = self._histogram("inter_token_latency_seconds", "Between words.", PER_TOKEN)
        self.e2e = self._histogram("e2e_request_latency_seconds", "From the request to its end.", SECONDS)
        self.queue_time = self._histogram("request_queue_time_seconds", "In line.", SECONDS)
        self.audio_ttfp = self._histogram("audio_ttfp_s", "From the request to its first sound.", SECONDS)
        self.audio_rtf = self._histogram("audio_rtf", "Seconds of computing for a second of sound.", RATIOS)
        self.audio_duration = self._counter("audio_duration_s", "Seconds of sound given out.")
        self.audio_underrun = self._counter("audio_underrun_s", "Seconds in which a player had nothing to play.")
        self.barge_ins = self._counter("barge_in", "Answers that the user spoke into.")

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"minicpm_o:{name}", words, ["model_name"], registry=self.registry).labels(self.model_name)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        counter = Counter(f"minicpm_o:{name}", words, ["model_name", *labels], registry=self.registry)
        return counter if labels else counter.labels(self.model_name)

    def _histogram(self, name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"minicpm_o:{name}", words, ["model_name"], registry=self.registry,
                         buckets=buckets).labels(self.model_name)

    def watch(self) -> RequestWatch:
        """Times one request from now on."""
        return RequestWatch(self)


@dataclass
class RequestWatch:
    """One request's times."""

    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    begun: float = field(default=0.0)
    last_word: float | None = None
    first_sound: float | None = None
    sound_s: float = 0.0

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def word(self) -> None:
        """A word went out."""
        now = self.clock()
        if self.last_word is None:
            self.metrics.ttft.observe(now - self.begun)
        else:
            self.metrics.tpot.observe(now - self.last_word)
        self.last_word = now

    def sound(self, seconds: float) -> None:
        """Sound went out; a player that began at the first has to wait where it comes late."""
        now = self.clock()
        if self.first_sound is None:
            self.first_sound = now
            self.metrics.audio_ttfp.observe(now - self.begun)
        late_s = now - self.first_sound - self.sound_s
        if late_s > 0:
            self.metrics.audio_underrun.inc(late_s)
            self.first_sound += late_s
        self.sound_s += seconds
        self.metrics.audio_duration.inc(seconds)

    def end(self, reason: str, prompt: int = 0, cached: int = 0, output: int = 0) -> None:
        """The answer is complete."""
        total_s = self.clock() - self.begun
        self.metrics.e2e.observe(total_s)
        self.metrics.requests.labels(self.metrics.model_name, reason).inc()
        self.metrics.prompt_tokens.inc(prompt)
        self.metrics.cached_tokens.inc(cached)
        self.metrics.generation_tokens.inc(output)
        if self.sound_s:
            self.metrics.audio_rtf.observe(total_s / self.sound_s)

    def failed(self, code: str) -> None:
        self.metrics.failures.labels(self.metrics.model_name, code).inc()
