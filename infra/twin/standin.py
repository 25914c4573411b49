"""Stands for the process of an image that the twin cannot have: answers on TCP ports. Alone, standard library alone.

    python -I standin.py TEXT PORT...

Each port answers any HTTP request by 200 and the text.
"""

import http.server
import sys
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Says what it stands for."""

    text = b""
    timeout = 10.0

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text)


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    Handler.text = f"{arguments[0]}\n".encode()
    servers = [http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler) for port in arguments[1:]]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
