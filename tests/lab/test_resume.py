"""A restart as clients notice it: how long does a connection stand still?"""

import contextlib
import select
import signal
import socket
import threading
import time

import pytest

from . import topology

PORT = 7100
PIECE = 1 << 14


class Stream:
    """A connection of a client to the server on which one end sends all the time and the other one
    notes the longest pause."""

    def __init__(self, lab, client, port, upwards):
        with lab.server.entered():
            listener = socket.create_server((topology.SERVER, port))
        with listener, client.machine.entered():
            near = socket.create_connection((topology.SERVER, port), 10)
            far, _ = listener.accept()
        self._ends = near, far
        self._source, self._target = self._ends if upwards else reversed(self._ends)
        self._end = threading.Event()
        self.pause, self.bytes, self.failure = 0, 0, None
        self._threads = [threading.Thread(target=self._try, args=(work,), daemon=True)
                         for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _try(self, work):
        try:
            work()
        except OSError as error:
            self.failure = error

    def _send(self):
        while not self._end.is_set():
            self._source.sendall(bytes(PIECE))

    def _receive(self):
        last = time.monotonic()
        while self._target.recv(PIECE):
            now = time.monotonic()
            self.pause = max(self.pause, now - last)
            self.bytes += 1
            last = now

    def move(self):
        """Waits until more has arrived."""
        before = self.bytes
        deadline = time.monotonic() + 30
        while self.bytes == before and not self.failure and time.monotonic() < deadline:
            time.sleep(0.005)
        assert self.bytes > before and not self.failure, self.failure

    def close(self):
        self._end.set()
        for end in self._ends:
            with end, contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_connections_continue_soon_after_a_restart(lab, start_gateway, end):
    clients = lab.clients(3)
    gateway = start_gateway(clients, "vcgate")
    with contextlib.ExitStack() as stack:
        streams = {name: stack.enter_context(contextlib.closing(Stream(lab, client, PORT + n, n == 1)))
                   for n, (client, name) in enumerate(zip(clients, ["down", "up"]))}
        with lab.server.entered():
            listener = stack.enter_context(socket.create_server((topology.SERVER, PORT + 9)))
        with clients[2].machine.entered():
            idle = stack.enter_context(socket.create_connection((topology.SERVER, PORT + 9), 10))
        served, _ = listener.accept()
        stack.enter_context(served)
        for stream in streams.values():
            stream.move()
            stream.pause = 0
        began = time.monotonic()
        assert gateway.stop(end) == (0 if end == signal.SIGTERM else -end)
        stopped = time.monotonic()
        gateway.launch()
        served.sendall(b"for a client that only listens")
        assert select.select([idle], [], [], 30)[0]
        listening = time.monotonic()
        for stream in streams.values():
            stream.move()
        print(f"{end.name}: stopped in {stopped - began:.3f} s; the client that only listens was served after "
              f"{listening - stopped:.3f} s; longest pauses:",
              {name: f"{stream.pause:.3f} s" for name, stream in streams.items()})
        assert gateway.process.text().count("peer connected") == 3
