"""Found by every Python that has this folder on its path: look-ups and connections fail, and are noted.

Sockets of the machine itself (AF_UNIX) go on: processes of one run talk over them.
"""

import os
import socket
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
