"""The metadata service of one machine: texts by path, as GET answers of HTTP. Runs by itself, standard library alone.

    python -I metadata.py ADDRESS FILE

FILE holds a JSON object, path -> text, and is read anew for each request.
"""

import http.server
import json
import sys
from pathlib import Path

TIMEOUT_S = 10.0


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one connection at a time; who asks is the one machine."""

    source = Path()
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        """Give the text of a path, without a slash at its end."""
        texts = json.loads(self.source.read_text())
        found = texts.get(self.path.split("?")[0].rstrip("/"))
        body = b"not found\n" if found is None else str(found).encode()
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: user data is among the answers' paths."""


def main(arguments: list[str]) -> None:
    """Serve until the process is ended."""
    Handler.source = Path(arguments[1])
    http.server.ThreadingHTTPServer((arguments[0], 80), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
