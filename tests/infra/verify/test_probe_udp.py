"""The UDP probes against plain loopback sockets whose faults are known."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from infra.verify import probe
from infra.verify.probe_udp import echo_payload, find_gaps

Answer = Callable[[bytes, int], bytes | None]


@contextlib.contextmanager
def echo_server(answer: Answer) -> Iterator[str]:
    """A UDP server on loopback answering `answer(payload, packet number)`; nothing for None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.05)
        stop = threading.Event()

        def serve() -> None:
            number = 0
            while not stop.is_set():
                try:
                    data, address = sock.recvfrom(65535)
                except TimeoutError:
                    continue
                reply = answer(data, number)
                number += 1
                if reply is not None:
                    sock.sendto(reply, address)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert probe.main(argv) == 0
    loaded: dict[str, object] = json.loads(capsys.readouterr().out)
    return loaded


def test_equal_packets_are_counted_per_size(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, _: data) as target:
        result = run(capsys, "udp-echo", "--target", target, "--sizes", "1,64,1200", "--count", "20")
    assert (result["sent"], result["equal"], result["altered"], result["lost"]) == (60, 60, 0, 0)
    assert [entry["size"] for entry in result["sizes"]] == [1, 64, 1200]  # type: ignore[attr-defined]


def test_an_altered_byte_is_not_an_echo(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: data[:-1] + b"\xff" if number == 3 else data) as target:
        result = run(capsys, "udp-echo", "--target", target, "--sizes", "64", "--count", "10", "--timeout-s", "0.1")
    assert (result["equal"], result["altered"], result["lost"]) == (9, 1, 1)


def test_a_late_answer_is_lost_but_not_altered(capsys: pytest.CaptureFixture[str]) -> None:
    held: list[bytes] = []

    def one_behind(data: bytes, number: int) -> bytes | None:
        held.append(data)
        return held[number - 1] if number else None

    with echo_server(one_behind) as target:
        result = run(
            capsys,
            "udp-echo",
            "--target",
            target,
            "--sizes",
            "1",
            "--count",
            "3",
            "--timeout-s",
            "0.1",
            "--window",
            "1",
        )
    assert (result["equal"], result["altered"], result["lost"]) == (0, 0, 3)


def test_tries_repair_loss_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: None if number % 2 == 0 else data) as target:
        options = ("--sizes", "32", "--count", "3", "--timeout-s", "0.5", "--tries", "3", "--window", "1")
        result = run(capsys, "udp-echo", "--target", target, *options)
    assert (result["equal"], result["lost"]) == (3, 0)
    assert result["sizes"][0]["repeated"] == 3  # type: ignore[index]


def test_payloads_differ_by_sequence_even_at_one_byte() -> None:
    assert len({echo_payload(1, sequence) for sequence in range(256)}) == 256
    assert all(len(echo_payload(size, 7)) == size for size in (1, 2, 1200))


def test_rtt_has_one_sample_per_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: None if number == 2 else data) as target:
        result = run(capsys, "udp-rtt", "--target", target, "--count", "10", "--interval-ms", "0", "--timeout-s", "0.1")
    samples = result["rtt_us"]
    assert isinstance(samples, list)
    assert (len(samples), result["lost"]) == (9, 1)
    assert all(0 < sample < 100_000 for sample in samples)


def test_window_counts_only_what_came_back(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: None if number % 4 == 0 else data) as target:
        result = run(capsys, "udp-window", "--target", target, "--seconds", "0.8", "--window", "8", "--size", "100")
    delivered, sent = result["delivered"], result["sent"]
    assert isinstance(delivered, int)
    assert isinstance(sent, int)
    assert 0.6 * sent < delivered < 0.9 * sent
    course = result["per_100_ms"]
    assert isinstance(course, list)
    assert sum(course) <= delivered


def test_watch_finds_the_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: None if 20 <= number < 60 else data) as target:
        result = run(capsys, "udp-watch", "--target", target, "--interval-ms", "5", "--seconds", "0.6")
    gaps = result["gaps"]
    assert isinstance(gaps, list)
    # A busy machine may add silences of its own, and lengthen this one.
    assert 0.1 < max(gap["seconds"] for gap in gaps) < 5


def test_watch_ends_soon_after_the_outage_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: None if 20 <= number < 90 else data) as target:
        arguments = ("--interval-ms", "10", "--seconds", "20", "--settle-s", "0.2")
        result = run(capsys, "udp-watch", "--target", target, *arguments)
    started, ended = result["started"], result["ended"]
    assert isinstance(started, float)
    assert isinstance(ended, float)
    assert 0.8 < ended - started < 5
    assert len(result["gaps"]) == 1  # type: ignore[arg-type]


def test_a_trace_has_the_time_and_the_rtt_of_each_echo(capsys: pytest.CaptureFixture[str]) -> None:
    with echo_server(lambda data, number: None if number in (3, 4) else data) as target:
        arguments = ("--interval-ms", "10", "--seconds", "0.2", "--timeout-s", "0.3")
        samples = run(capsys, "udp-trace", "--target", target, *arguments)["samples"]
    assert isinstance(samples, list)
    assert [number for number, (_, rtt) in enumerate(samples) if rtt is None] == [3, 4]
    assert len(samples) == 20
    times = [at for at, _ in samples]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 30


def test_gaps_are_strictly_longer() -> None:
    assert find_gaps([0.0, 1.0, 3.0], 1.0) == [{"from": 1.0, "to": 3.0, "seconds": 2.0}]


def test_a_sink_counts_distinct_packets_of_its_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
        reserved.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{reserved.getsockname()[1]}"
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(probe.main(["udp-sink", "--listen", target, "--stream", "7", "--idle-s", "0.2"]))
    )
    thread.start()
    for _ in range(20):  # the sink may not be bound yet: its own count says what it saw
        run_quietly("udp-send", "--target", target, "--stream", "6", "--rate", "100", "--seconds", "0.02")
    run_quietly("udp-send", "--target", target, "--stream", "7", "--rate", "1000", "--seconds", "0.1", "--size", "200")
    thread.join()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    sink = next(line for line in lines if "delivered" in line)
    assert results == [0]
    assert (sink["delivered"], sink["duplicates"], sink["size"]) == (100, 0, 200)


def run_quietly(*argv: str) -> int:
    return probe.main(argv)


@pytest.mark.parametrize("argv", [["udp-rtt", "--target", "nowhere"], ["udp-echo", "--target", "h:1", "--sizes", "0"]])
def test_bad_arguments_are_named(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        probe.main(argv)
    assert stopped.value.code == 2
    assert "HOST:PORT" in capsys.readouterr().err or argv[0] == "udp-echo"


def test_a_probe_that_cannot_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["udp-sink", "--listen", "192.0.2.1:9"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)
