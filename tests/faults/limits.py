"""Pieces of Python that a run executes before it starts, to be poorer than the tests are (`lab.Lab.start`)."""

_CAPABILITIES = """
import ctypes
# The root user may write anywhere; without its capabilities permissions hold for it as for others.
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int)]
class Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]
def keep(only):
    sets = (Sets * 2)(Sets(only, only, 0))
    assert ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(Header(0x20080522, 0)), sets) == 0
"""

NO_PRIVILEGES = f"{_CAPABILITIES}\nkeep(0)\n"

UNKNOWN_USER = f"""{_CAPABILITIES}
import os
if os.getuid() == 0:
    ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
    keep(1 << 2)  # to read whatever Python is made of, wherever it lies
"""


def limited(name: str, value: int) -> str:
    """Limit a resource, such as ``RLIMIT_NOFILE``."""
    return f"import resource\nresource.setrlimit(resource.{name}, ({value}, {value}))\n"


LITTLE_MEMORY = """
import resource
pages = int(open("/proc/self/statm").read().split()[0])
size = pages * resource.getpagesize() + {more}
resource.setrlimit(resource.RLIMIT_AS, (size, size))
"""
"""What the process has already, and ``more`` bytes."""

BACKWARDS = """
import itertools, time
ticks = itertools.count()
now = time.time()
time.time = lambda: now - 3600 * next(ticks)
time.time_ns = lambda: int(1e9 * time.time())
"""
"""Every look at the clock is an hour earlier than the last."""
