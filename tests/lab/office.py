"""Three SMB users at work, and what must and must not happen to them."""

import os
import time

from . import smb
from .net import wait_for

SIZE = 2_000_000


class Office:
    """The first user reads a file over and over while the others log on."""

    def __init__(self, users, samba, port):
        self.users = users
        self.samba = samba
        self.port = port
        self.log = samba.mark()
        self.content = {user.name: os.urandom(SIZE) for user in users}
        first = self.log_on(0)
        smb.put(first, "user1.bin", self.content["user1"])
        self.reader = smb.Reader(first, "user1.bin", self.content["user1"])
        self.first_reads(2)

    def log_on(self, index):
        return smb.logon(self.users[index], self.samba.address, self.port)

    def first_reads(self, more):
        """Waits until the first user has read his file `more` times, or is cut off."""
        goal = self.reader.reads + more
        wait_for("the reader", lambda: self.reader.reads >= goal or not self.reader.alive(), 30)

    def close(self):
        self.reader.stop()

    def assert_nobody_is_cut_off(self):
        """User 2 logs on, user 3 copies a file both ways; all of them can go on working."""
        second = self.log_on(1)
        self.first_reads(2)
        third = self.log_on(2)
        mine = self.content["user3"]
        smb.put(third, "user3.bin", mine)
        assert smb.digest((self.samba.data / "user3.bin").read_bytes()) == smb.digest(mine)
        assert smb.digest(smb.get(third, "user3.bin")) == smb.digest(mine)
        self.first_reads(2)

        assert self.reader.alive(), f"user 1 was cut off: {self.reader.cut_off}"
        assert self.reader.wrong == 0
        smb.put(second, "user2.bin", b"still here")
        assert self.log.zero_logons() == 0
        assert self.log.kills() == []

    def assert_the_first_is_cut_off(self):
        """User 2's logon cuts user 1 off, and the server says that it did it."""
        began = time.monotonic()
        self.log_on(1)
        wait_for("user 1 to be cut off", lambda: not self.reader.alive(), 20)
        after = (self.reader.cut_off_at - began) * 1000
        print(f"user 1 was cut off {after:.0f} ms after user 2 began to log on:", self.reader.cut_off)
        print(*self.log.kills(), sep="\n")
        assert self.log.zero_logons() >= 2
        # The server says it again for the logon's second leg if the victim is not gone by then.
        assert len(set(self.log.kills())) == 1
