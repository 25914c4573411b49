"""Probes that run inside a place: ``python -m infra.verify.probe NAME ...`` prints one JSON object and ends.

Standard library only and quick to start, since each check starts one through the place's `exec` prefix. A probe
measures and reports; it never judges. Exit code 0 means that it measured (also "nothing came back"), 2 that it could
not run, with ``{"error": ...}`` as its object.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from infra.verify import probe_net, probe_tcp, probe_udp

Json = dict[str, Any]
Probe = Callable[[argparse.Namespace], Json]


def parse_endpoint(text: str) -> tuple[str, int]:
    """("100.64.0.100", 9999) of "100.64.0.100:9999"; raises argparse.ArgumentTypeError naming the text."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)


def parse_sizes(text: str) -> list[int]:
    """Payload sizes in bytes, "1,64,1200"."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes such as 1,64,1200") from None
    if any(not 1 <= size <= 65507 for size in sizes):
        raise argparse.ArgumentTypeError("a UDP payload has 1 to 65507 bytes")
    return sizes


def build_parser() -> argparse.ArgumentParser:
    """One sub-command per probe; each sets `run` to the function that measures."""
    parser = argparse.ArgumentParser(prog="python -m infra.verify.probe", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="probe", required=True)
    _add_udp(commands)
    _add_tcp(commands)
    _add_net(commands)
    return parser


def _command(commands: Any, name: str, run: Probe, summary: str, *, target: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    if target:
        parser.add_argument("--target", type=parse_endpoint, required=True, metavar="HOST:PORT")
    return parser


def _add_udp(commands: Any) -> None:
    echo = _command(commands, "udp-echo", probe_udp.run_echo, "send each size COUNT times and compare what comes back")
    echo.add_argument("--sizes", type=parse_sizes, required=True)
    echo.add_argument("--count", type=int, default=100)
    echo.add_argument("--timeout-s", type=float, default=1.0)
    echo.add_argument("--window", type=int, default=10, help="packets under way at a time")
    echo.add_argument("--tries", type=int, default=1, help="attempts per packet, for links with loss")
    rtt = _command(commands, "udp-rtt", probe_udp.run_rtt, "round-trip times of single packets to an echo service")
    rtt.add_argument("--size", type=int, default=64)
    rtt.add_argument("--count", type=int, default=1000)
    rtt.add_argument("--interval-ms", type=float, default=1.0)
    rtt.add_argument("--timeout-s", type=float, default=1.0)
    flood = _command(commands, "udp-window", probe_udp.run_window, "echo throughput with WINDOW packets outstanding")
    flood.add_argument("--size", type=int, default=1200)
    flood.add_argument("--seconds", type=float, default=3.0)
    flood.add_argument("--window", type=int, default=64)
    watch = _command(commands, "udp-watch", probe_udp.run_watch, "an echo each INTERVAL; when were there none?")
    watch.add_argument("--interval-ms", type=float, default=20.0)
    watch.add_argument("--seconds", type=float, default=10.0)
    watch.add_argument("--settle-s", type=float, default=None, help="end this long after the first gap has closed")
    trace = _command(commands, "udp-trace", probe_udp.run_trace, "an echo each INTERVAL, each with its time and RTT")
    trace.add_argument("--interval-ms", type=float, default=20.0)
    trace.add_argument("--seconds", type=float, default=10.0)
    trace.add_argument("--timeout-s", type=float, default=1.0)
    send = _command(commands, "udp-send", probe_udp.run_send, "send at a fixed rate, one way")
    send.add_argument("--size", type=int, default=1200)
    send.add_argument("--rate", type=float, default=6000.0, help="packets per second")
    send.add_argument("--seconds", type=float, default=2.0)
    send.add_argument("--stream", type=int, default=0, help="number carried in each packet, told apart by the sink")
    sink = _command(commands, "udp-sink", probe_udp.run_sink, "count what arrives, at the receiver", target=False)
    sink.add_argument("--listen", type=parse_endpoint, required=True, metavar="HOST:PORT")
    sink.add_argument("--stream", type=int, default=0)
    sink.add_argument("--idle-s", type=float, default=0.5, help="end after this long without a packet")
    sink.add_argument("--wait-s", type=float, default=10.0, help="end when no first packet came by then")


def _add_tcp(commands: Any) -> None:
    tcp = _command(commands, "tcp-echo", probe_tcp.run_tcp_echo, "bytes over TCP, compared with what comes back")
    tcp.add_argument("--bytes", type=int, default=100_000)
    tcp.add_argument("--timeout-s", type=float, default=10.0)
    refused = _command(commands, "tcp-refused", probe_tcp.run_tcp_refused, "how a TCP connection attempt ends")
    refused.add_argument("--timeout-s", type=float, default=3.0)
    http = _command(commands, "http", probe_tcp.run_http, "one HTTP request; status, time and JSON of the answer")
    http.add_argument("--method", default="GET")
    http.add_argument("--path", default="/")
    http.add_argument("--host", default=None, help="Host header; the target's address when not given")
    http.add_argument("--json-body", default=None)
    http.add_argument("--timeout-s", type=float, default=15.0)
    body = _command(commands, "http-body", probe_tcp.run_http_body, "POST a large body; SHA-256 of both directions")
    body.add_argument("--bytes", type=int, default=10_000_000)
    body.add_argument("--path", default="/post")
    body.add_argument("--timeout-s", type=float, default=120.0)


def _add_net(commands: Any) -> None:
    ping = _command(commands, "ping", probe_net.run_ping, "ICMP echo requests", target=False)
    ping.add_argument("--address", required=True)
    ping.add_argument("--count", type=int, default=20)
    ping.add_argument("--interval-ms", type=float, default=10.0)
    ping.add_argument("--size", type=int, default=56)
    ping.add_argument("--timeout-s", type=float, default=1.0)
    get = _command(commands, "get-json", probe_net.run_get_json, "a role's /status, /readyz or /metrics", target=False)
    get.add_argument("--url", required=True)
    get.add_argument("--timeout-s", type=float, default=3.0)
    _command(commands, "udp-counters", probe_net.run_udp_counters, "the kernel's UDP counters here", target=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one probe, print its JSON object; 0 measured, 2 could not run."""
    arguments = build_parser().parse_args(argv)
    run: Probe = arguments.run
    try:
        result = run(arguments)
    except OSError as error:
        json.dump({"error": f"{type(error).__name__}: {error}"}, sys.stdout)
        sys.stdout.write("\n")
        return 2
    json.dump(result, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
