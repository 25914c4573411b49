"""Elements of nftables sets and maps over netlink, without a process in between.

The ruleset is text and goes through nft(8) once; elements come and go with sessions, so they take this way: one batch
is one system call of about 0.1 ms, applied whole or not at all. Source: Linux <linux/netfilter/nf_tables.h>.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NETLINK_NETFILTER: Final = 12
NFPROTO_INET: Final = 1

_SUBSYSTEM: Final = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWSETELEM, _GETSETELEM, _DELSETELEM = ((_SUBSYSTEM << 8) | number for number in (12, 13, 14))
_NEWTABLE, _GETTABLE, _DELTABLE = ((_SUBSYSTEM << 8) | number for number in (0, 1, 2))
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _CREATE, _DUMP_INTERRUPTED = 0x01, 0x04, 0x300, 0x400, 0x10
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF

_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_TIMEOUT, _ELEMENT_EXPRESSION, _ELEMENT_EXPRESSIONS = 1, 2, 4, 7, 11
_TABLE_NAME, _TABLE_USERDATA = 1, 6

_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_MESSAGE: Final = struct.Struct("!BBH")
_RECEIVE_BYTES: Final = 1 << 18
_ELEMENTS_PER_MESSAGE: Final = 512
_TIMEOUT_S: Final = 2.0


class NftError(OSError):
    """The kernel refused a change; `errno` says why, and nothing of the batch was applied."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element: key and data as the kernel's registers hold them (each part padded to 4 bytes)."""

    key: bytes
    data: bytes = b""
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """Elements to add to (or, with `delete`, to remove from) one set."""

    set_name: str
    elements: Sequence[Element]
    delete: bool = False


class SetElements:
    """Elements of the sets of one `inet` table. Bound to the network namespace of the thread that made it.

    Args:
        table: name of the table.

    Raises:
        OSError: no netlink socket can be had.
    """

    def __init__(self, table: str) -> None:
        self._table = _text(_LIST_TABLE, table)
        self._netlink = _Netlink()

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._netlink.close()

    def apply(self, changes: Iterable[Change]) -> None:
        """Apply all changes as one transaction.

        Raises:
            NftError: nothing was changed.
        """
        requests = []
        for change in changes:
            name = _text(_LIST_SET, change.set_name)
            kind, flags = (_DELSETELEM, 0) if change.delete else (_NEWSETELEM, _CREATE)
            for at in range(0, len(change.elements), _ELEMENTS_PER_MESSAGE):
                part = change.elements[at : at + _ELEMENTS_PER_MESSAGE]
                body = self._table + name + _nested(_LIST_ELEMENTS, b"".join(map(_element, part)))
                requests.append((kind, flags, body))
        if requests:
            self._netlink.transact(requests)

    def elements(self, set_name: str) -> dict[bytes, bytes]:
        """Return {key: data} of a set or map; the data of a set's elements is empty.

        Raises:
            NftError: there is no such set.
        """
        found: dict[bytes, bytes] = {}
        for answer in self._netlink.ask(_GETSETELEM, self._table + _text(_LIST_SET, set_name), dump=True):
            listed = dict(_attributes(answer)).get(_LIST_ELEMENTS, b"")
            for _, element in _attributes(listed):
                key, data = _find(element, (_ELEMENT_KEY, 1)), _find(element, (_ELEMENT_DATA, 1))
                if key is not None:
                    found[element[slice(*key)]] = b"" if data is None else element[slice(*data)]
        return found

    def counters(self, set_name: str, keys: Sequence[bytes] | None = None) -> dict[bytes, tuple[int, int]]:
        """Return {key: (packets, bytes)} of a set whose elements count; of `keys` only, where given.

        Raises:
            NftError: there is no such set or key.
        """
        body = self._table + _text(_LIST_SET, set_name)
        found: dict[bytes, tuple[int, int]] = {}
        if keys is None:
            for answer in self._netlink.ask(_GETSETELEM, body, dump=True):
                found |= _counted(answer)
            return found
        for key in keys:
            wanted = body + _nested(_LIST_ELEMENTS, _element(Element(key)))
            for answer in self._netlink.ask(_GETSETELEM, wanted, dump=False):
                found |= _counted(answer)
        return found


def list_tables() -> dict[str, bytes]:
    """Return {name: user data} of the `inet` tables of this namespace; comments are in the user data.

    Raises:
        OSError: not permitted, or no nftables in this kernel.
    """
    netlink = _Netlink()
    try:
        tables = {}
        for answer in netlink.ask(_GETTABLE, b"", dump=True):
            attributes = dict(_attributes(answer))
            tables[attributes[_TABLE_NAME].rstrip(b"\0").decode()] = attributes.get(_TABLE_USERDATA, b"")
        return tables
    finally:
        netlink.close()


def delete_table(name: str) -> None:
    """Delete an `inet` table with everything in it; no error if there is none.

    Raises:
        OSError: not permitted.
    """
    netlink = _Netlink()
    try:
        netlink.transact([(_DELTABLE, 0, _text(_TABLE_NAME, name))])
    except NftError as exc:
        if exc.errno != errno.ENOENT:
            raise
    finally:
        netlink.close()


class _Netlink:
    """One netlink socket with requests and their answers; every call waits for the kernel, which answers at once."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.settimeout(_TIMEOUT_S)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def transact(self, requests: Sequence[tuple[int, int, bytes]]) -> None:
        first = self._sequence + 1
        batch = _MESSAGE.pack(0, 0, _SUBSYSTEM)
        parts = [self._message(_BATCH_BEGIN, _REQUEST, batch)]
        parts += [
            self._message(kind, _REQUEST | _ACK | flags, _MESSAGE.pack(NFPROTO_INET, 0, 0) + body)
            for kind, flags, body in requests
        ]
        parts.append(self._message(_BATCH_END, _REQUEST, batch))
        self._socket.send(b"".join(parts))
        waiting, failure = len(requests), 0
        while waiting:
            for kind, sequence, _, payload in self._receive():
                if kind != _ERROR or not first <= sequence <= self._sequence:
                    continue
                code = -_signed(payload)
                failure = failure or code
                # A refused batch begin or end ends the transaction and nothing more is answered.
                waiting = 0 if sequence in (first, self._sequence) else waiting - 1
        if failure:
            raise NftError(failure, f"nftables: {os.strerror(failure)}")

    def ask(self, kind: int, body: bytes, *, dump: bool) -> list[bytes]:
        """Return the attributes of each answer."""
        flags = _REQUEST | (_DUMP if dump else _ACK)
        self._socket.send(self._message(kind, flags, _MESSAGE.pack(NFPROTO_INET, 0, 0) + body))
        answers: list[bytes] = []
        while True:
            for answered, sequence, _, payload in self._receive():
                if sequence != self._sequence:
                    continue
                if answered == _DONE:
                    return answers
                if answered == _ERROR:
                    code = -_signed(payload)
                    if code:
                        raise NftError(code, f"nftables: {os.strerror(code)}")
                    return answers
                answers.append(payload[_MESSAGE.size :])

    def _message(self, kind: int, flags: int, payload: bytes) -> bytes:
        self._sequence += 1
        return _HEADER.pack(_HEADER.size + len(payload), kind, flags, self._sequence, 0) + payload

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                return
            yield kind, sequence, flags, data[at + _HEADER.size : at + length]
            at += (length + 3) & ~3


def _signed(payload: bytes) -> int:
    value: int = struct.unpack_from("=i", payload)[0]
    return value


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def _nested(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | _NESTED, payload)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _element(element: Element) -> bytes:
    body = _nested(_ELEMENT_KEY, _attribute(1, element.key))
    if element.data:
        body += _nested(_ELEMENT_DATA, _attribute(1, element.data))
    if element.timeout_ms:
        body += _attribute(_ELEMENT_TIMEOUT, element.timeout_ms.to_bytes(8, "big"))
    return _nested(1, body)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _counted(answer: bytes) -> Mapping[bytes, tuple[int, int]]:
    """Read the counters of one answer. Elements of a set are laid out alike, so only the first is really parsed."""
    listed = dict(_attributes(answer)).get(_LIST_ELEMENTS, b"")
    found: dict[bytes, tuple[int, int]] = {}
    shape: tuple[int, int, int, int, int] | None = None
    at = 0
    while at + _ATTRIBUTE.size <= len(listed):
        length = listed[at] | listed[at + 1] << 8 if _LITTLE else _ATTRIBUTE.unpack_from(listed, at)[0]
        if length < _ATTRIBUTE.size:
            break
        element = listed[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
        if shape is None or shape[0] != length:
            shape = _shape(element, length)
            if shape is None:
                continue
        _, key_at, key_end, packets_at, bytes_at = shape
        found[element[key_at:key_end]] = (
            int.from_bytes(element[packets_at : packets_at + 8], "big"),
            int.from_bytes(element[bytes_at : bytes_at + 8], "big"),
        )
    return found


def _shape(element: bytes, length: int) -> tuple[int, int, int, int, int] | None:
    """Where in an element its key and its counter are: (length, key start, key end, packets, bytes)."""
    key = _find(element, (_ELEMENT_KEY, 1))
    for way in ((_ELEMENT_EXPRESSION, 2), (_ELEMENT_EXPRESSIONS, 1, 2)):
        packets, octets = _find(element, (*way, 2)), _find(element, (*way, 1))
        if key and packets and octets:
            return length, key[0], key[1], packets[0], octets[0]
    return None


def _find(data: bytes, way: Sequence[int], start: int = 0, end: int | None = None) -> tuple[int, int] | None:
    """Return start and end of the payload of a nested attribute."""
    at, stop = start, len(data) if end is None else end
    while at + _ATTRIBUTE.size <= stop:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return None
        if kind & _TYPE_MASK == way[0]:
            inside = at + _ATTRIBUTE.size, at + length
            return inside if len(way) == 1 else _find(data, way[1:], *inside)
        at += (length + 3) & ~3
    return None


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"
