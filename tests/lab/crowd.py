"""Many SMB users who log on, work and log off at random, all at the same time."""

import os
import random
import threading
import time

from . import smb

SIZE = 50_000
LONGEST_SESSION = 5
LONGEST_PAUSE = 2


class User(threading.Thread):
    """One of the crowd. `lost` has what went wrong, which should be nothing."""

    def __init__(self, client, server, seconds):
        super().__init__(daemon=True)
        self._client = client
        self._server = server
        self._end = time.monotonic() + seconds
        self._content = os.urandom(SIZE)
        self.sessions = 0
        self.reads = 0
        self.lost = []
        self.start()

    def run(self):
        while time.monotonic() < self._end:
            try:
                self._session()
                self.sessions += 1
            except Exception as error:  # whatever it was, this user lost his work
                self.lost.append(f"{self._client.name}: {error!r}")
            # A person at work, not synchronisation.
            time.sleep(random.uniform(0, LONGEST_PAUSE))

    def _session(self):
        end = min(self._end, time.monotonic() + random.uniform(0, LONGEST_SESSION))
        connection = smb.logon(self._client, self._server)
        path = f"{self._client.name}.bin"
        smb.put(connection, path, self._content)
        while True:
            assert smb.get(connection, path) == self._content, "the file differs"
            self.reads += 1
            if time.monotonic() >= end:
                break
            time.sleep(random.uniform(0, 0.5))
        connection.logoff()
        connection.close()


def work(clients, server, seconds):
    """Lets them all work for `seconds`; returns the users, for what they have to tell."""
    users = [User(client, server, seconds) for client in clients]
    for user in users:
        user.join(seconds + 60)
        assert not user.is_alive(), "a user hangs"
    print(f"{len(users)} users, {sum(user.sessions for user in users)} sessions,",
          f"{sum(user.reads for user in users)} reads, {sum(len(user.lost) for user in users)} lost")
    return users
