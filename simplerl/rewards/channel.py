"""Carries messages between a grading process and the process that supervises it.

A message is a pickled value after its length. Reading is split into `read`, which takes what has arrived, and
`next_message`, so that the supervisor never waits for the rest of a message without a limit.
"""

from __future__ import annotations

import pickle
import socket
import struct
from array import array
from typing import Any, NamedTuple

# Kinds of messages from a grading process.
LOADED, READY, UNUSABLE, BEGIN, VERDICT = "loaded", "ready", "unusable", "begin", "verdict"
MAX_BYTES = 2**31  # a greater length shows that the bytes were not sent by `Channel.send`
_LENGTH = struct.Struct("!Q")


class PackedResponse(NamedTuple):
    """Holds a response in the form in which it is sent to a grading process: tokens are 32-bit integers."""

    text: str
    tokens: array[int]
    finish_reason: str
    key: int = 0


class Message(NamedTuple):
    """Holds a message of a grading process; the supervisor checks `pid` and `number` to refuse unexpected messages."""

    pid: int  # of the sender: a process that a reward forked also holds the connection
    number: int  # of the answer, counted from 0 since the process started
    cpu_seconds: float  # used by the process so far
    kind: str  # LOADED | READY | UNUSABLE | BEGIN | VERDICT
    body: Any


class Channel:
    """Sends and receives messages over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._received = bytearray()

    def send(self, message: Any, seconds: float | None = None) -> None:
        """Send a message. Raises TimeoutError if the peer does not receive it within `seconds`."""
        data = pickle.dumps(tuple(message), pickle.HIGHEST_PROTOCOL)
        if seconds is not None:
            self.socket.settimeout(seconds)
        self.socket.sendall(_LENGTH.pack(len(data)) + data)
        if seconds is not None:
            self.socket.settimeout(None)

    def read(self) -> None:
        """Read the bytes that have arrived, waiting if there are none. Raises EOFError if the peer has closed the
        channel."""
        data = self.socket.recv(2**18)
        if not data:
            raise EOFError
        self._received += data

    def next_message(self) -> Any:
        """Return the next message that has been read completely, as a tuple, or None if there is none.

        Raises ConnectionError if the bytes are not a message.
        """
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > MAX_BYTES:
            raise ConnectionError("the grading process sent bytes that are not a message")
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        data = bytes(memoryview(self._received)[_LENGTH.size : end])
        del self._received[:end]
        try:
            return pickle.loads(data)
        except Exception as error:
            raise ConnectionError(f"the grading process sent an unreadable message ({error!r})") from error

    def close(self) -> None:
        self.socket.close()
