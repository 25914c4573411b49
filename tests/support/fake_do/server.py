"""The stand-in over HTTP: authentication, pages, injected failures, and a window of its own under /_fake."""

import json
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from tests.support.fake_do import routes_names as routes_names  # registers its endpoints
from tests.support.fake_do.forms import ApiError, Json, not_found
from tests.support.fake_do.routes import ROUTES, Reply, Request
from tests.support.fake_do.world import World

LOOPBACK = "127.0.0.1"
PER_PAGE, MOST_PER_PAGE = 20, 200


@dataclass
class Failure:
    """The next `times` requests of a method to a path (a regular expression) fail.

    Attributes:
        status: what is answered; 0 closes the connection without an answer.
        after: the request is carried out all the same, and only its answer is lost.
        retry_after_s: sent as Retry-After where it is not None.
    """

    method: str
    path: str
    status: int = 503
    times: int = 1
    after: bool = False
    retry_after_s: int | None = None

    def takes(self, method: str, path: str) -> bool:
        """Whether it is the turn of this request; counts down when it is."""
        if self.times <= 0 or method != self.method or not re.fullmatch(self.path, path):
            return False
        self.times -= 1
        return True


class FakeDo:
    """The stand-in, listening from construction on; a context manager. `url` is the provider's `apiEndpoint`.

    Args:
        port: 0 takes any.
        ssh_hosts: public IPv4 addresses of droplets, taken in turn.
        token: the only one that is accepted; None takes any.
        boot_polls: looks at a droplet or an action until it is done.
        domains: domains that the account holds.
        on_boot: called with each new droplet (its public keys under `ssh_keys`) and its user data, by which a test may
            set up an sshd.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        ssh_hosts: Sequence[str] = (LOOPBACK,),
        token: str | None = None,
        boot_polls: int = 1,
        domains: Sequence[str] = (),
        on_boot: Callable[[Json, str], None] | None = None,
    ) -> None:
        self.world = World(ssh_hosts=ssh_hosts, boot_polls=boot_polls)
        if on_boot is not None:
            self.world.on_boot = on_boot
        self.world.domains.update({name: {} for name in domains})
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str, int]] = []
        self.token = token
        self.lock = threading.RLock()
        fake = self

        class Handler(_Handler):
            owner = fake

        self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where the API is, without `/v2`."""
        return f"http://{LOOPBACK}:{self.port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "FakeDo":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def answer(self, method: str, path: str, query: dict[str, str], body: Json) -> Reply:
        """Find the route and carry it out. Raises ApiError."""
        with self.lock:
            for known, pattern, handler in ROUTES:
                found = pattern.fullmatch(path)
                if found and known == method:
                    parts = tuple(unquote(part) for part in found.groups())
                    return handler(self.world, Request(parts, query, body))
        raise not_found()

    def window(self, method: str, path: str, body: Json) -> tuple[int, Any]:
        """What tests ask of the tool itself: state, requests so far, a droplet's user data, a failure to come."""
        with self.lock:
            world = self.world
            if method == "POST" and path == "/_fake/failures":
                self.failures.append(Failure(**body))
                return 201, asdict(self.failures[-1])
            if method == "GET" and path == "/_fake/requests":
                return 200, self.requests
            if method == "GET" and path == "/_fake/state":
                names = ("keys", "vpcs", "droplets", "reserved", "firewalls", "domains", "actions")
                return 200, {**{name: getattr(world, name) for name in names}, "tags": sorted(world.tags)}
            found = re.fullmatch(r"/_fake/droplets/(\d+)/user_data", path)
            if method == "GET" and found and found[1] in world.user_data:
                return 200, {"user_data": world.user_data[found[1]]}
        return 404, {}


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: FakeDo

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else {}
        except ValueError:
            self._reply(400, {"id": "bad_request", "message": "the body is not JSON"})
            return
        path = re.sub("/+", "/", parts.path)
        if path.startswith("/_fake/"):
            self._reply(*self.owner.window(self.command, path, body))
            return
        with self.owner.lock:
            failure = next((found for found in self.owner.failures if found.takes(self.command, path)), None)
        if failure is None or failure.after:
            status, answer = self._answer(path, dict(parse_qsl(parts.query)), body)
        if failure is not None:
            status, answer = failure.status, {"id": "injected", "message": "injected failure"}
        with self.owner.lock:
            self.owner.requests.append((self.command, path, status))
        if status == 0:
            self.close_connection = True
            return
        self._reply(status, answer, failure.retry_after_s if failure else None)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    def _answer(self, path: str, query: dict[str, str], body: Json) -> tuple[int, Json | None]:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme != "Bearer" or not token or self.owner.token not in (None, token):
            return 401, {"id": "unauthorized", "message": "Unable to authenticate you"}
        try:
            with self.owner.lock:
                reply = self.owner.answer(self.command, path, query, body)
                # Serialised under the lock: another request may change what the answer refers to.
                made = reply.body if reply.listed is None else self._page(path, query, *reply.listed)
                return reply.status, json.loads(json.dumps(made))
        except ApiError as error:
            return error.status, {"id": error.word, "message": error.message, "request_id": "fake"}
        except (KeyError, TypeError, ValueError) as error:
            return 400, {"id": "bad_request", "message": f"{type(error).__name__}: {error}", "request_id": "fake"}

    def _page(self, path: str, query: dict[str, str], key: str, items: Sequence[Any]) -> Json:
        """One page of a list, with the links and the total that clients walk by."""
        per_page = min(max(int(query.get("per_page") or PER_PAGE), 1), MOST_PER_PAGE)
        page, last = max(int(query.get("page") or 1), 1), max(math.ceil(len(items) / per_page), 1)

        def link(number: int) -> str:
            return f"{self.owner.url}{path}?{urlencode({**query, 'page': number, 'per_page': per_page})}"

        pages = {"first": link(1), "prev": link(page - 1)} if page > 1 else {}
        pages |= {"next": link(page + 1), "last": link(last)} if page < last else {}
        start = (page - 1) * per_page
        links = {"pages": pages} if pages else {}
        return {key: items[start : start + per_page], "links": links, "meta": {"total": len(items)}}

    def _reply(self, status: int, answer: Any, retry_after_s: int | None = None) -> None:
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("RateLimit-Limit", "5000")
        self.send_header("RateLimit-Remaining", "4999")
        self.send_header("RateLimit-Reset", "1893456000")
        if retry_after_s is not None:
            self.send_header("Retry-After", str(retry_after_s))
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 204:
            self.wfile.write(content)
