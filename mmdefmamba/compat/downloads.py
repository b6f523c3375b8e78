"""Downloading checkpoints: within limits of time and size, checked, and never half a file under its final name.

Defect: MMEngine downloads with PyTorch's ``download_url_to_file`` without a time limit, so that a silent server holds a
process for ever. It keeps a body that was cut short under its final name, and names the file by the last part of the
URL, so that two files ``epoch_300.pth`` of two servers are one.
Seen in: mmengine 0.11.0rc3, torch 2.14.
Can go: when MMEngine checks length and time, and keys its cache by the whole URL.

This is part of the mend ``safe_loading``, whose loader for ``http://`` and ``https://`` calls :func:`fetch`.
"""

import contextlib
import hashlib
import http.client
import os
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..files import say, sha256_of, shorten, shown
from ..version import __version__

#: Environment variables: seconds without an answer or a byte; the largest file, in GiB.
TIMEOUT, LIMIT = 'MMDEFMAMBA_DOWNLOAD_TIMEOUT', 'MMDEFMAMBA_DOWNLOAD_LIMIT'
DEFAULT_TIMEOUT, DEFAULT_LIMIT = 30, 20
#: The slowest download, in bytes per second: measured over each period of twice the time limit.
SLOWEST = 1024
_CHUNK = 2**16
# the hash that model_zoo files have in their names; eight digits that are a date are none
_HASH = re.compile(r'-([0-9a-f]{8,64})\.[A-Za-z0-9.]+$')
_DATE = re.compile(r'(19|20)\d{6}')


def fetch(url, folder, progress=True):
    """Return the path of a file that was downloaded from a URL, now or earlier.

    The file is written under a name of this process and moved when it is complete, so several processes can fetch one
    URL at once. The name in the folder has a hash of the whole URL.

    Args:
        url: of ``http`` or ``https``. A name that ends in ``-`` and 8 or more hexadecimal digits, such as
            ``resnet50-0676ba61.pth``, gives the beginning of the file's SHA-256.
        folder: of the downloaded files.
        progress: whether to say on stderr that a download begins and ends.

    Raises:
        OSError: the server does not answer, answers with an error or a web page, is too slow, or sends too much, too
            little or another file than the hash says; or the file cannot be written. Names the URL and the remedy.
        ValueError: one of the environment variables is no positive number.
    """
    timeout, limit = _number(TIMEOUT, DEFAULT_TIMEOUT), int(_number(LIMIT, DEFAULT_LIMIT) * 2**30)
    path = Path(folder, cache_name(url))
    wanted = expected_hash(url)
    if path.is_file() and (wanted is None or sha256_of(path).startswith(wanted)):
        return str(path)
    # what PyTorch downloaded: its name says nothing about the server, but a hash proves it
    other = Path(folder, os.path.basename(urlsplit(url).path))
    if wanted is not None and other.is_file() and sha256_of(other).startswith(wanted):
        return str(other)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f'.{path.name[:100]}.', suffix='.part', dir=path.parent)
    try:
        with open(handle, 'wb') as file:
            if progress:
                say(f'downloading {url} to {path}', file=sys.stderr)
            _download(url, file, timeout, limit)
        _check_file(part, wanted)
        os.replace(part, path)
    except (OSError, http.client.HTTPException, zlib.error) as error:
        raise OSError(
            f'{shown(url)} could not be downloaded: {shorten(error)}. Try again, or '
            'download the file yourself and give its path'
        ) from error
    finally:
        Path(part).unlink(missing_ok=True)
    return str(path)


def cache_name(url):
    """Return the name of a URL's file in the cache: a hash of the whole URL, and the last part of its path."""
    name = re.sub(r'[^A-Za-z0-9._-]', '_', unquote(os.path.basename(urlsplit(url).path)))[-100:]
    return f'{hashlib.sha256(url.encode()).hexdigest()[:16]}_{name or "file"}'


def expected_hash(url):
    """Return the beginning of the SHA-256 that the name in a URL gives, or None."""
    match = _HASH.search(os.path.basename(urlsplit(url).path))
    return match[1] if match and not _DATE.fullmatch(match[1]) else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, new_url):
        scheme = urlsplit(new_url).scheme
        if scheme not in ('http', 'https') or (request.type == 'https' and scheme == 'http'):
            raise OSError(f'the server redirects to {shorten(new_url, 200)}, which is not followed')
        return super().redirect_request(request, file, code, message, headers, new_url)


def _download(url, file, timeout, limit):
    """Write the body of an answer into a file, within the limits."""
    agent = {'User-Agent': f'mmdefmamba/{__version__}', 'Accept-Encoding': 'identity'}
    opener = urllib.request.build_opener(_Redirects)
    with contextlib.closing(_answer(opener, urllib.request.Request(url, headers=agent), timeout)) as answer:
        headers = answer.headers
        length = _length(headers)
        if length is not None and length > limit:
            raise OSError(f'the file has {length:,} bytes, the limit is {limit:,} ({LIMIT}, in GiB)')
        if headers.get_content_type() == 'text/html':
            raise OSError('the server sends a web page instead of a file')
        unpack = _unpacker(headers)
        received = written = counted = 0
        since = time.monotonic()
        while chunk := answer.read1(_CHUNK):
            received += len(chunk)
            data = unpack(chunk, limit - written + 1) if unpack else chunk
            written += len(data)
            if max(received, written) > limit:
                raise OSError(f'the file has more than {limit:,} bytes, which is the limit ({LIMIT}, in GiB)')
            file.write(data)
            passed = time.monotonic() - since
            if passed > 2 * timeout:
                if received - counted < SLOWEST * passed:
                    raise OSError(f'the server sent {received - counted} bytes in {passed:.0f} s, which is too slow')
                since, counted = time.monotonic(), received
        if length is not None and received != length:
            raise OSError(f'the server announced {length:,} bytes and sent {received:,}')
        if unpack and not unpack.__self__.eof:
            raise OSError('the end of the compressed file is missing')
    file.flush()
    os.fsync(file.fileno())


def _answer(opener, request, timeout):
    """Open a request in a thread of its own: a socket's time limit begins anew with each letter that a server sends."""
    found = []

    def open_request():
        try:
            found.append(opener.open(request, timeout=timeout))
        except Exception as error:  # handed to the caller
            found.append(error)

    thread = threading.Thread(target=open_request, daemon=True)
    thread.start()
    thread.join(2 * timeout)
    if not found:
        raise OSError(f'the server does not answer within {2 * timeout:g} s ({TIMEOUT}, in seconds, is {timeout:g})')
    if isinstance(found[0], TimeoutError) or isinstance(getattr(found[0], 'reason', None), TimeoutError):
        raise OSError(f'the server does not answer within {timeout:g} s ({TIMEOUT})') from found[0]
    if isinstance(found[0], urllib.error.HTTPError):
        raise OSError(f'the server answers {found[0].code} {shorten(found[0].reason, 100)}') from found[0]
    if isinstance(found[0], Exception):
        raise OSError(shorten(getattr(found[0], 'reason', None) or found[0])) from found[0]
    return found[0]


def _length(headers):
    """Return the announced length of a body, or None where there is none."""
    if headers.get('Transfer-Encoding'):
        return None  # in chunks, whose end is marked
    try:
        return int(headers['Content-Length'])
    except (TypeError, ValueError):
        return None


def _unpacker(headers):
    kind = (headers.get('Content-Encoding') or 'identity').strip().lower()
    if kind == 'identity':
        return None
    if kind not in ('gzip', 'x-gzip', 'deflate'):
        raise OSError(f'the server sends the file as {shorten(kind, 50)!r}, for which it was not asked')
    return zlib.decompressobj(47).decompress


def _check_file(path, wanted):
    """Refuse a web page, the first part of a zip file, and a file of another hash."""
    with open(path, 'rb') as file:
        head = file.read(256)
    if not head:
        raise OSError('the server sends an empty file')
    if re.match(rb'\s*<(!doctype|html|\?xml)', head, re.IGNORECASE):
        raise OSError('the server sends a web page instead of a file')
    if head.startswith(b'PK\x03\x04') and not zipfile.is_zipfile(path):
        raise OSError('the end of the file is missing')
    if wanted is not None and not (found := sha256_of(path)).startswith(wanted):
        raise OSError(f'its SHA-256 begins with {found[: len(wanted)]}, but its name says {wanted}')


def _number(variable, default):
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float('inf'):
        raise ValueError(f'environment variable {variable} must be a positive number, got {text!r}')
    return value
