"""How a server is reached, and what it says when it refuses."""

import json
import urllib.request
from typing import final

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
SHOWN = 300


@final
class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: data goes to the host that the user named and to no other."""

    def redirect_request(self, *_: object) -> None:
        """No further request."""


def straight(host: str) -> urllib.request.OpenerDirector:
    """What opens addresses of this host: without redirects, and without a proxy where the host is this machine."""
    direct = [urllib.request.ProxyHandler({})] if host in LOOPBACK else []
    return urllib.request.build_opener(_Stay(), *direct)


def reason(body: str) -> str:
    """What a refusal says in words, where it does: vLLM's is {"error": {"message": ...}}.

    >>> reason('{"error": {"message": "no such model", "code": 404}}')
    'no such model'
    >>> reason("busy")
    'busy'
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # no JSON, or such as Python does not take
        return short(body)
    for key in ("error", "message", "detail"):
        found = found.get(key, found) if isinstance(found, dict) else found
    return short(found if isinstance(found, str) else body)


def short(words: str) -> str:
    """At most 300 characters of it, in one line."""
    line = " ".join(words.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."
