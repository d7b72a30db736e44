"""Log lines are JSON whatever is in them, and numbers read as Prometheus reads them."""

import json
import logging
import sys

import pytest

from agentd.telemetry import JsonLines, Metrics, fields, request_id


def line(message: str, *values: object, **extra: object) -> dict[str, object]:
    record = logging.LogRecord("agentd.x", logging.WARNING, __file__, 1, message, values, None)
    record.__dict__.update(fields(**extra))
    found: dict[str, object] = json.loads(JsonLines().format(record))
    return found


def test_a_line_has_time_level_logger_message_and_fields() -> None:
    found = line("sent %d", 3, status=200)
    assert str(found.pop("time")).endswith("Z")
    assert found == {"level": "warning", "logger": "agentd.x", "message": "sent 3", "status": 200}


def test_a_line_carries_the_request_it_belongs_to() -> None:
    mark = request_id.set("r-1")
    try:
        assert line("x")["request_id"] == "r-1"
    finally:
        request_id.reset(mark)


def test_what_json_cannot_say_is_written_somehow() -> None:
    found = line("a\udcff\n", odd={1}, kind=object)
    assert found["message"] == "a\udcff\n"
    assert "object" in str(found["kind"])


def test_an_exception_is_one_line_with_its_traceback() -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "KeyError: 'gone'" in json.loads(text)["traceback"]


def test_counters_and_gauges_are_rendered_with_escaped_labels() -> None:
    metrics = Metrics()
    counter = metrics.counter("c_total", "How many", "what")
    counter.add('a"\\\n')
    counter.add('a"\\\n', amount=2**40)
    metrics.gauge("g", "How much", lambda: 1.5)
    assert metrics.render().splitlines() == [
        *("# HELP c_total How many", "# TYPE c_total counter", 'c_total{what="a\\"\\\\\\n"} 1099511627777'),
        *("# HELP g How much", "# TYPE g gauge", "g 1.5"),
    ]


def test_histogram_buckets_are_cumulative() -> None:
    metrics = Metrics()
    seconds = metrics.histogram("s", "Time", "what")
    for value in (0.005, 0.006, 1000.0):
        seconds.observe("x", value=value)
    text = metrics.render()
    assert 's_bucket{what="x",le="0.005"} 1' in text
    assert 's_bucket{what="x",le="0.025"} 2' in text
    assert 's_bucket{what="x",le="+Inf"} 3' in text
    assert 's_sum{what="x"} 1000.011' in text
    assert 's_count{what="x"} 3' in text


def test_two_metrics_of_one_name_are_refused() -> None:
    metrics = Metrics()
    metrics.counter("c", "")
    with pytest.raises(ValueError, match="two metrics are called c"):
        metrics.counter("c", "")
