"""The echo backend: sends every UDP payload and every TCP byte back. `python -m infra.echo --bind ADDR --port PORT`.

UDP is read in batches without a task per datagram, so that it is never the bottleneck of a measurement.
"""

import argparse
import asyncio
import contextlib
import signal
import socket

BATCH = 64
LARGEST_DATAGRAM_BYTES = 65_535
BUFFER_BYTES = 4 << 20
CHUNK_BYTES = 65_536
TCP_IDLE_S = 300.0
MAX_CONNECTIONS = 1024


def bind_udp(address: str, port: int) -> socket.socket:
    """Return a non-blocking UDP socket with large buffers. Raises OSError when the port is in use."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    sock.bind((address, port))
    return sock


def echo_datagrams(sock: socket.socket) -> None:
    """Send back up to BATCH waiting datagrams; what the kernel refuses to send is lost, as UDP may lose it."""
    for _ in range(BATCH):
        try:
            payload, source = sock.recvfrom(LARGEST_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error of an earlier datagram, reported here (RFC 1122 section 4.1.3.3)
            continue
        with contextlib.suppress(OSError):
            sock.sendto(payload, source)


class StreamEcho:
    """The TCP side; at most MAX_CONNECTIONS at a time, each closed after TCP_IDLE_S of silence."""

    def __init__(self) -> None:
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Echo one connection until its peer closes its half; then close ours."""
        if self._open >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open += 1
        try:
            while chunk := await asyncio.wait_for(reader.read(CHUNK_BYTES), TCP_IDLE_S):
                writer.write(chunk)
                await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            self._open -= 1
            writer.close()


async def run(address: str, port: int) -> None:
    """Serve both protocols on one port until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    udp = bind_udp(address, port)
    server = await asyncio.start_server(StreamEcho().serve, address, port, backlog=1024)
    loop.add_reader(udp, echo_datagrams, udp)
    print(f"echo on {address}:{port} udp and tcp", flush=True)
    await stop.wait()
    loop.remove_reader(udp)
    udp.close()
    server.close()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.echo", description="Echo UDP and TCP on one port.")
    parser.add_argument("--bind", required=True, help="IPv4 address to listen on")
    parser.add_argument("--port", type=int, required=True, help="port of both protocols")
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments.bind, arguments.port))
    except OSError as error:
        parser.exit(1, f"echo: cannot listen on {arguments.bind}:{arguments.port}: {error.strerror or error}\n")


if __name__ == "__main__":
    main()
