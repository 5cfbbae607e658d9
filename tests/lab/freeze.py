"""Stops one thread of a process, as a defect that makes it hang would."""

import contextlib
import ctypes
import os
import pathlib

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_DETACH = 17
WALL = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def threads(pid, name):
    """The ids of a process's threads with this name."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(task.name) for task in tasks if (task / "comm").read_text().strip() == name)


@contextlib.contextmanager
def stopped(thread):
    """The thread does not run inside the `with`; the other threads of its process do."""
    _ptrace(PTRACE_SEIZE, thread)
    try:
        _ptrace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        try:
            _ptrace(PTRACE_DETACH, thread)
        except ProcessLookupError:
            # It was killed; its process ends when its tracer has noticed that.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(thread, WALL)


def _ptrace(request, thread):
    _libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    _libc.ptrace.restype = ctypes.c_long
    if _libc.ptrace(request, thread, None, None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
