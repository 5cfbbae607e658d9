"""The file server: Samba with `reset on zero vc`, which does what Windows 2003 does and says so.

All its state is in a directory of its own, and its users exist only in its own mount namespace.
"""

import pathlib
import re
import tempfile

from impacket import ntlm

from .net import PREFIX

PASSWORD = "Pa55-word"
USERS = 100

CONFIGURATION = """
[global]
    netbios name = FILESERVER
    workgroup = LAB
    server role = standalone
    interfaces = {address}/{length}
    bind interfaces only = yes
    smb ports = 445 139
    disable netbios = no
    server min protocol = NT1
    ntlm auth = yes
    reset on zero vc = yes
    server signing = {signing}
    unix extensions = no
    passdb backend = smbpasswd:{dir}/smbpasswd
    private dir = {dir}/private
    lock directory = {dir}/lock
    state directory = {dir}/state
    cache directory = {dir}/cache
    pid directory = {dir}/pid
    ncalrpc dir = {dir}/ncalrpc
    log file = {dir}/log
    log level = 2
    max log size = 0
    debug hires timestamp = yes
    load printers = no
    printcap name = /dev/null
    disable spoolss = yes
    rpc start on demand helpers = false
[data]
    path = {dir}/data
    read only = no
    force user = root
"""


class Samba:
    """One smbd, from construction to `stop`."""

    def __init__(self, machine, address, signing="auto"):
        self.address = address
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{PREFIX}-samba-"))
        for part in ("private", "lock", "state", "cache", "pid", "ncalrpc", "data"):
            (self.dir / part).mkdir()
        self.data = self.dir / "data"
        (self.dir / "smb.conf").write_text(
            CONFIGURATION.format(
                dir=self.dir, address=address, length=64 if ":" in address else 24, signing=signing))
        self._write_users()
        (self.dir / "log").touch()
        # `ip netns exec` gives the command a mount namespace, so the passwd file is seen by it alone.
        start = (f"mount --bind {self.dir}/passwd /etc/passwd && "
                 f"exec smbd -F --no-process-group -s {self.dir}/smb.conf")
        self._process = machine.start("sh", "-c", start, output=self.dir / "output")
        machine.listening(445)
        machine.listening(139)

    def _write_users(self):
        """user1..userN, in the formats of passwd(5) and smbpasswd(5)."""
        passwd = pathlib.Path("/etc/passwd").read_text()
        nt_hash = ntlm.compute_nthash(PASSWORD).hex().upper()
        smbpasswd = ""
        for number in range(1, USERS + 1):
            name, uid = f"user{number}", 7000 + number
            passwd += f"{name}:x:{uid}:65534::/nonexistent:/usr/sbin/nologin\n"
            smbpasswd += f"{name}:{uid}:{'X' * 32}:{nt_hash}:[U          ]:LCT-00000001:\n"
        (self.dir / "passwd").write_text(passwd)
        (self.dir / "smbpasswd").write_text(smbpasswd)
        (self.dir / "smbpasswd").chmod(0o600)

    def mark(self):
        """Log lines of the server from now on."""
        return Excerpt(self.dir / "log")

    def stop(self):
        self._process.stop()


class Excerpt:
    """The server's log from a certain moment on."""

    def __init__(self, path):
        self._path = path
        self._from = path.stat().st_size

    def text(self):
        with open(self._path, errors="replace") as file:
            file.seek(self._from)
            return file.read()

    def zero_logons(self):
        """How many session setups with VcNumber 0 reached the server."""
        return self.text().count("New VC == 0")

    def kills(self):
        """Log lines about connections that the server ended."""
        return re.findall(r"shutdown_other_smbds: shutting down.*", self.text())

    def sources(self):
        """The addresses that the server saw clients come from (`ipv4:ADDRESS:PORT`)."""
        return set(re.findall(r"ipv[46]:([\da-f.:]+):\d+", self.text()))
