"""Found by every Python that has this folder on its path: look-ups and connections fail, and are noted.

Sockets of the machine itself (AF_UNIX) go on: processes of one run talk over them.
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from typing import Any, NoReturn


def _refuse(what: str, where: object) -> NoReturn:
    with open(os.environ["NO_NETWORK_NOTES"], "a") as notes:
        notes.write(f"{what} {where}\n")
    raise OSError(f"no network: {what}")


class _Socket(socket.socket):
    def connect(self, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            _refuse("connect", address)
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        if self.family != socket.AF_UNIX:
            _refuse("connect_ex", address)
        return super().connect_ex(address)

    def sendto(self, *given: Any) -> int:
        if self.family != socket.AF_UNIX:
            _refuse("sendto", given[-1])
        return super().sendto(*given)


socket.socket = _Socket  # type: ignore[misc]
for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
    setattr(socket, _name, lambda *given, _name=_name, **named: _refuse(_name, given))


def refuse_in_kernel() -> bool:
    """Let the kernel refuse (EACCES) every socket that is not of the machine itself; tell whether it took the rule.

    This holds for libraries and programs as well, and for all that is started from here. The rule is a seccomp
    filter: five instructions that look at the number of the call and at its first argument.
    """
    call = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
    if sys.platform != "linux" or call is None:
        return False
    load, equal, give = 0x20, 0x15, 0x06
    refuse, allow = 0x00050000 | errno.EACCES, 0x7FFF0000
    rules = [
        (load, 0, 0, 0),  # the call's number
        (equal, 0, 3, call),
        (load, 0, 0, 16),  # the low half of its first argument, the family
        (equal, 1, 0, socket.AF_UNIX),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    packed = b"".join(struct.pack("=HBBI", *rule) for rule in rules)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    program = struct.pack("@HP", len(rules), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, seccomp, with_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0):
        return False
    return libc.prctl(seccomp, with_filter, program, 0, 0) == 0


REFUSED_IN_KERNEL = refuse_in_kernel()
