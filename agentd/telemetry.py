"""What the daemon says about itself: JSON lines on stderr, and numbers.

A log line is one JSON object: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``request_id`` inside a
request, the values given as ``extra=fields(...)``, and ``traceback`` for an exception. Never bodies, arguments, paths
or tokens.

Metrics are counters, gauges that are read when they are scraped, and histograms, rendered in the Prometheus text
format, version 0.0.4. Labels are names that the code chose, never what a caller sent.
"""

import bisect
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Protocol

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0)

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """For ``log.info("request", extra=fields(status=200))``: the values stand in the line beside the message."""
    return {"fields": values}


class JsonLines(logging.Formatter):
    """One record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if ident := request_id.get():
            line["request_id"] = ident
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=repr).decode()
        except UnicodeEncodeError:
            return json.dumps(line, default=repr)


def configure(level: int = logging.INFO) -> None:
    """Sends every logger of the process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # What no line says need not be found out for each (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    escaped = (value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for value in values)
    return (
        "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True)) + "}" if names else ""
    )


class Counter:
    """A number that only grows, one for each combination of label values."""

    kind = "counter"

    def __init__(self, *labels: str) -> None:
        self._names = labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, *values: str, amount: float = 1) -> None:
        self._values[values] = self._values.get(values, 0) + amount

    def lines(self, name: str) -> list[str]:
        return [f"{name}{_labels(self._names, values)} {number}" for values, number in sorted(self._values.items())]


class Gauge:
    """A number that is asked for when somebody looks."""

    kind = "gauge"

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    def lines(self, name: str) -> list[str]:
        return [f"{name} {self._read()}"]


class Histogram:
    """How often a value fell below each bound, one row of bounds for each combination of label values."""

    kind = "histogram"

    def __init__(self, *labels: str, bounds: Sequence[float] = SECONDS) -> None:
        self._names = labels
        self._bounds = bounds
        self._rows: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, *labels: str, value: float) -> None:
        row = self._rows.setdefault(labels, [0] * (len(self._bounds) + 1))
        row[bisect.bisect_left(self._bounds, value)] += 1
        self._sums[labels] = self._sums.get(labels, 0.0) + value

    def lines(self, name: str) -> list[str]:
        lines = []
        for values, row in sorted(self._rows.items()):
            below = 0
            for bound, count in zip((*self._bounds, "+Inf"), row, strict=True):
                below += count
                labels = _labels((*self._names, "le"), (*values, str(bound)))
                lines.append(f"{name}_bucket{labels} {below}")
            lines.append(f"{name}_sum{_labels(self._names, values)} {self._sums[values]}")
            lines.append(f"{name}_count{_labels(self._names, values)} {below}")
        return lines


class Metric(Protocol):
    kind: str

    def lines(self, name: str) -> list[str]: ...


class Metrics:
    """The numbers of one daemon, by name."""

    def __init__(self) -> None:
        self._metrics: dict[str, tuple[str, Metric]] = {}

    def _add(self, name: str, meaning: str, metric: Metric) -> None:
        if name in self._metrics:
            raise ValueError(f"two metrics are called {name}")
        self._metrics[name] = (meaning, metric)

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        counter = Counter(*labels)
        self._add(name, meaning, counter)
        return counter

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        self._add(name, meaning, Gauge(read))

    def histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        histogram = Histogram(*labels)
        self._add(name, meaning, histogram)
        return histogram

    def render(self) -> str:
        """All of them in the Prometheus text format."""
        lines: list[str] = []
        for name, (meaning, metric) in self._metrics.items():
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {metric.kind}", *metric.lines(name)]
        return "\n".join([*lines, ""])
