"""Structured logs: levels, formats, addresses, rates."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from ztna.io.logs import Logger, setup


class Bed:
    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now = 0.0

    def logger(self, level: str = "info", format: str = "json", **bound: str) -> Logger:
        return setup(level=level, format=format, stream=self.stream, clock=lambda: self.now, **bound)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def bed() -> Iterator[Bed]:
    yield Bed()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler).__module__ == "ztna.io.logs":
            root.removeHandler(handler)


def test_json_line_has_event_level_time_and_values(bed: Bed) -> None:
    bed.logger(node="relay").info("started", port=4433)
    (event,) = bed.events
    assert event.pop("timestamp")
    assert event == {"event": "started", "level": "info", "node": "relay", "port": 4433}


def test_text_line_quotes_what_could_forge_a_line(bed: Bed) -> None:
    bed.logger(format="text").warning("client refused", reason="a\nb error c", port=1, empty="")
    (line,) = bed.lines
    assert line.endswith(r" warning client refused reason='a\nb error c' port=1 empty=''")


def test_level_is_honoured(bed: Bed) -> None:
    log = bed.logger("warning")
    log.info("no")
    log.debug("no")
    log.error("yes")
    assert [event["event"] for event in bed.events] == ["yes"]


def test_peer_addresses_appear_at_debug_only(bed: Bed) -> None:
    log = bed.logger("debug")
    log.debug("one", address=("192.0.2.1", 1), peer="agent")
    log.info("two", address=("192.0.2.1", 1), peer="agent")
    assert "192.0.2.1" in bed.lines[0]
    assert "192.0.2.1" not in bed.lines[1]
    assert bed.events[1]["peer"] == "agent"


def test_event_that_repeats_is_limited_and_its_loss_is_told(bed: Bed) -> None:
    log = bed.logger()
    for _ in range(1000):
        log.info("flood")
    log.info("other")
    assert [event["event"] for event in bed.events] == ["flood"] * 20 + ["other"]
    bed.now = 1.0
    log.info("flood")
    assert bed.events[-1]["suppressed"] == 980


def test_warnings_of_libraries_come_the_same_way(bed: Bed) -> None:
    bed.logger()
    # Not asyncio's own logger: the Pulumi SDK, which other tests of the same process import, silences that one.
    logging.getLogger("some.library").error("Task exception", exc_info=ValueError("broken"))
    (event,) = bed.events
    assert (event["event"], event["library"]) == ("library", "some.library")
    assert event["detail"] == "Task exception: ValueError('broken')"


def test_stream_that_fails_stops_nothing(bed: Bed) -> None:
    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    setup(level="info", format="json", stream=Full()).info("lost")
