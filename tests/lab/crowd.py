"""Many SMB users who log on, copy, crash and log off at random, all at the same time."""

import contextlib
import dataclasses
import multiprocessing
import os
import random
import socket
import threading
import time

from impacket.smb import FILE_OPEN_IF

from . import smb

PROCESSES = 4
"""Python's threads share one core."""
PATIENCE = 240
"""Seconds, over the time they work, for the last of them to finish."""
READ_AND_WRITE = 0x0012019F
NO_SHARING = 0
SMALLEST_COPY, LARGEST_COPY = 3, 6.3
"""Powers of ten, in bytes."""
CRASHES = 0.3
"""Of all sessions, where clients can crash."""
SECOND_CONNECTIONS = 0.2


@dataclasses.dataclass
class Pace:
    """Limits of the users' times, in seconds."""

    session: float = 8
    pause: float = 3
    answer: float = 10
    """The time after which a connection that does not answer is lost."""


@dataclasses.dataclass
class Figures:
    """Actions of the users and their outcome. `lost` lists failures and should stay empty."""

    sessions: int = 0
    logons: int = 0
    copies: int = 0
    bytes: int = 0
    crashes: int = 0
    opened: list = dataclasses.field(default_factory=list)
    """Seconds from the first packet of a logon until a file of one's own was open, exclusively."""
    recovered: list = dataclasses.field(default_factory=list)
    """The same after a crash; its old connection had that file open."""
    recovered_stealth: list = dataclasses.field(default_factory=list)
    """The same for clients whose firewall says nothing to what they do not know any more."""
    lost: list = dataclasses.field(default_factory=list)

    def __add__(self, other):
        mine, others = vars(self), vars(other)
        return Figures(**{name: mine[name] + others[name] for name in mine})


def work(clients, server, seconds):
    """Lets them all work for `seconds`; returns the figures of each."""
    return begin(clients, server, seconds, Pace())()


def begin(clients, server, seconds, pace):
    """Lets them all begin to work for `seconds`; returns a function that waits for the figures of each."""
    # Forked, for a client is more than can be sent to another process.
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    for number in range(PROCESSES):
        group = clients[number::PROCESSES]
        context.Process(target=_work, args=(group, server, seconds, pace, results), daemon=True).start()
    return lambda: [figures for _ in range(PROCESSES) for figures in results.get(timeout=seconds + PATIENCE)]


def _work(clients, server, seconds, pace, results):
    users = [User(client, server, seconds, pace) for client in clients]
    for user in users:
        user.join(seconds + PATIENCE / 2)
        if user.is_alive():
            user.figures.lost.append(f"{user.client.name}: hangs")
    results.put([user.figures for user in users])


class User(threading.Thread):
    """One of the crowd. He crashes if his client can."""

    def __init__(self, client, server, seconds, pace):
        super().__init__(daemon=True)
        self.client = client
        self.figures = Figures()
        self._server = server
        self._pace = pace
        self._random = random.Random(client.name)
        self._end = time.monotonic() + seconds
        self._connections = []
        self._crashed = False
        self.start()

    def run(self):
        self._pause()
        while time.monotonic() < self._end:
            recovers, self._crashed = self._crashed, False
            try:
                self._session(recovers)
                self.figures.sessions += 1
            except Exception as error:  # whatever it was, this user lost his work
                if not self._crashed:
                    self.figures.lost.append(f"{self.client.name}: {error!r}")
            self._clean_up()
            self._pause()
            if self._crashed:
                self.client.come_back()

    def _session(self, recovers):
        began = time.monotonic()
        first = self._log_on()
        self._open_exclusively(first)
        self._opened(time.monotonic() - began, recovers)
        length = min(self._random.uniform(0, self._pace.session), self._end - time.monotonic())
        with self._may_crash_within(length):
            second = self._random.random() < SECOND_CONNECTIONS and self._log_on()
            self._copy(first)
            while time.monotonic() < began + length:
                self._copy(self._random.choice([first, second or first]))
                self._pause()
            for connection in self._connections:
                connection.logoff()

    def _log_on(self):
        connection = smb.connect(self.client, self._server, timeout=self._pace.answer)
        self._connections.append(connection)
        smb.authenticate(connection, self.client)
        # As every client with a drive does. Samba ends a connection that has no tree for 60 seconds.
        connection.connectTree(smb.SHARE)
        self.figures.logons += 1
        return connection

    def _open_exclusively(self, connection):
        """A file opened exclusively, with a batch oplock (impacket requests it by default)."""
        connection.getSMBServer().nt_create_andx(
            connection.connectTree(smb.SHARE), f"{self.client.name}.mdb",
            shareAccessMode=NO_SHARING, disposition=FILE_OPEN_IF, accessMask=READ_AND_WRITE)

    def _opened(self, seconds, recovers):
        if not recovers:
            self.figures.opened.append(seconds)
        elif self.client.stealth:
            self.figures.recovered_stealth.append(seconds)
        else:
            self.figures.recovered.append(seconds)

    def _copy(self, connection):
        path = f"{self.client.name}.bin"
        size = int(10 ** self._random.uniform(SMALLEST_COPY, LARGEST_COPY))
        content = os.urandom(size)
        smb.put(connection, path, content)
        assert smb.digest(smb.get(connection, path)) == smb.digest(content), "the copy differs"
        self.figures.copies += 2
        self.figures.bytes += 2 * size

    def _pause(self):
        # A person at work, not synchronisation.
        left = max(self._end - time.monotonic(), 0)
        time.sleep(min(self._random.uniform(0, self._pace.pause), left))

    @contextlib.contextmanager
    def _may_crash_within(self, seconds):
        """His machine dies at some moment, whatever is under way, or does not."""
        if not self.client.crashes or self._random.random() >= CRASHES:
            yield
            return
        timer = threading.Timer(self._random.uniform(0, max(seconds, 0)), self._crash)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _crash(self):
        self._crashed = True
        self.figures.crashes += 1
        self.client.crash()
        # No one receives it any more, but it wakes the user.
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.getSMBServer().get_socket().shutdown(socket.SHUT_RDWR)

    def _clean_up(self):
        for connection in self._connections:
            if self._crashed:
                smb.vanish(connection)
            else:
                connection.getSMBServer().get_socket().close()
        self._connections.clear()
