"""Whether weights can be fetched at all, told quickly: the sources' own clients try for half a minute."""

from __future__ import annotations

import os
import socket
import threading
import urllib.parse
import urllib.request

#: Seconds after which a connection that has not come about counts as none.
_PATIENCE = 1.5

#: What the hub's client takes for yes.
_YES = ("1", "ON", "YES", "TRUE")


def unreachable(address: str) -> str | None:
    """Why nothing can be fetched from an address, in words that end a sentence; None where it can be reached.

    HF_HUB_OFFLINE forbids to try. A connection is opened and closed, to the proxy where the environment names
    one; nothing is sent.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _YES:
        return "HF_HUB_OFFLINE is set, so nothing is downloaded"
    place = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(place.scheme)
    if proxy and not urllib.request.proxy_bypass(place.hostname or ""):
        place = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = place.port or (80 if place.scheme == "http" else 443)
    return None if _answers(place.hostname or "", port) else "there is no connection to fetch them"


def _answers(host: str, port: int) -> bool:
    """Whether a connection comes about in time; the search for the name, which has no limit of its own, included."""
    done, answers = threading.Event(), list[bool]()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_PATIENCE).close()
            answers.append(True)
        except OSError:
            pass
        finally:
            done.set()

    threading.Thread(target=connect, daemon=True, name="regraft-connect").start()
    done.wait(_PATIENCE)
    return bool(answers)
