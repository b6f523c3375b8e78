"""Which names of the server the page answers to.

A web page of a stranger can have a name of its own point to this machine (DNS rebinding). The visitor's browser then
takes the answers of our page for that stranger's, and lets his scripts read them. Such a request carries the stranger's
name in its Host header, so the page answers to its own names only.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

LOOPBACK = ('localhost', '127.0.0.1', '::1')


def allowed_names(host, more=()):
    """Return the names that the page answers to, a set.

    Args:
        host: the address at which the page listens.
        more: further names, such as the one that a proxy in front of the page has.
    """
    names = {*LOOPBACK, host, *more}
    if is_everywhere(host):
        names |= {socket.gethostname(), socket.getfqdn()}
    return {name.lower().strip('[]') for name in names if name}


def is_everywhere(host):
    """Return whether an address stands for all addresses of a machine."""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_unspecified
    except ValueError:
        return False


class AllowedHosts:
    """An ASGI middleware that refuses requests and websockets to, or from the page of, another name.

    Args:
        app: the application behind it.
        names: as :func:`allowed_names` returns them.
        any_address: whether to answer to every address that is written in numbers: a stranger's name is none.
    """

    def __init__(self, app, names, any_address=False):
        self.app, self.names, self.any_address = app, names, any_address

    async def __call__(self, scope, receive, send):
        if scope['type'] not in ('http', 'websocket'):
            await self.app(scope, receive, send)
            return
        found = {name: [value.decode('latin1') for key, value in scope['headers'] if key == name] for name in _HEADERS}
        hosts, origins = found[b'host'], found[b'origin']
        if len(hosts) != 1 or not self._is_allowed(hosts[0]):
            await _refuse(scope, send, 421, 'This page does not answer to this name. See --host and --allow-host.')
        elif any(not self._is_allowed(_place_of(origin)) for origin in origins):
            await _refuse(scope, send, 403, 'This page does not answer to the pages of others.')
        else:
            await self.app(scope, receive, send)

    def _is_allowed(self, host):
        name = _name_of(host)
        if name is None:
            return False
        if self.any_address:
            try:
                ipaddress.ip_address(name)
                return True
            except ValueError:
                pass
        return name in self.names


_HEADERS = (b'host', b'origin')


def _place_of(origin):
    """Return host and port of an origin, such as ``http://localhost:7860``; None for one without, such as ``null``."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _name_of(host):
    """Return the name in ``name``, ``name:port`` or ``[address]:port`` in lower case; None if it is none of these."""
    if not host or '@' in host or '/' in host:
        return None
    try:
        parts = urlsplit(f'//{host}')
        parts.port  # noqa: B018  raises where it is no number
        return parts.hostname
    except ValueError:
        return None


async def _refuse(scope, send, status, text):
    if scope['type'] == 'websocket':
        await send({'type': 'websocket.close', 'code': 1008, 'reason': text})
        return
    headers = [(b'content-type', b'text/plain; charset=utf-8'), (b'connection', b'close')]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': text.encode()})
