"""Which names the page answers to: raw requests to the real server, and the rule by itself."""

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from mmdefmamba.app.hosts import AllowedHosts, allowed_names, is_everywhere
from mmdefmamba.app.trained_models import TrainedModel

ALLOWED = ('localhost', 'LOCALHOST:1', '127.0.0.1', '127.0.0.1:7860', '[::1]', '[::1]:7860')
REFUSED = (
    'evil.example', 'evil.example:7860', 'localhost.evil.example', '127.0.0.1.evil.example', '127.0.0.1@evil.example',
    'evil.example@127.0.0.1', '', '10.0.0.1', '[::2]', 'localhost/x', 'localhost:x', '[::1', '\x00', 'localhost,evil',
)  # fmt: skip


def answer(names, *headers, kind='http', any_address=False):
    """Return the status of a request, or the code with which a websocket is closed; 200 if the application answers."""
    sent = []

    async def app(scope, receive, send):
        sent.append({'status': 200})

    async def send(message):
        sent.append(message)

    scope = dict(type=kind, headers=[(key.encode(), value.encode('latin1')) for key, value in headers])
    asyncio.run(AllowedHosts(app, names, any_address)(scope, None, send))
    return sent[0].get('status', sent[0].get('code'))


@pytest.mark.parametrize('kind', ['http', 'websocket'])
def test_page_answers_to_loopback_names_alone(kind):
    names, no = allowed_names('127.0.0.1'), 421 if kind == 'http' else 1008
    assert {host: answer(names, ('host', host), kind=kind) for host in ALLOWED} == dict.fromkeys(ALLOWED, 200)
    assert {host: answer(names, ('host', host), kind=kind) for host in REFUSED} == dict.fromkeys(REFUSED, no)
    assert answer(names, kind=kind) == no
    assert answer(names, ('host', 'localhost'), ('host', 'evil.example'), kind=kind) == no


def test_pages_of_others_are_refused():
    names = allowed_names('127.0.0.1')
    for origin, status in (
        ('http://localhost:7860', 200),
        ('http://127.0.0.1', 200),
        ('https://evil.example', 403),
        ('null', 403),
        ('http://[', 403),
    ):
        assert answer(names, ('host', 'localhost:7860'), ('origin', origin)) == status


def test_host_option_and_further_names():
    assert answer(allowed_names('my.host'), ('host', 'My.Host:80')) == 200
    assert answer(allowed_names('127.0.0.1', ['proxy.example']), ('host', 'proxy.example')) == 200
    assert is_everywhere('0.0.0.0') and is_everywhere('::') and not is_everywhere('127.0.0.1')
    everywhere = allowed_names('0.0.0.0')
    for host in ('10.1.2.3:7860', '[fe80::1]', 'localhost', socket.gethostname()):
        assert answer(everywhere, ('host', host), any_address=True) == 200
    assert answer(everywhere, ('host', 'evil.example'), any_address=True) == 421


def test_the_server_refuses_other_names_on_every_path(pico_checkpoints):
    pytest.importorskip('gradio')
    from mmdefmamba.app.gradio_page import serve

    name, path = pico_checkpoints['classification']
    page, url = serve([TrainedModel('digits', name, str(path))], port=0, block=False)
    port = urlsplit(url).port

    def status(host, method='GET', target='/', more=''):
        with socket.create_connection(('127.0.0.1', port), timeout=30) as connection:
            request = f'{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n'
            connection.sendall(request.encode())
            return int(connection.makefile('rb').readline().split()[1])

    upload = 'Content-Length: 0\r\nContent-Type: multipart/form-data; boundary=x\r\n'
    key = 'A' * 22
    upgrade = f'Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}==\r\n'
    try:
        for host in (f'localhost:{port}', f'127.0.0.1:{port}', f'[::1]:{port}'):
            assert status(host) == 200
        assert status('localhost', target='/config') == 200
        for target, method, more in (
            ('/', 'GET', ''),
            ('/config', 'GET', ''),
            ('/gradio_api/info', 'GET', ''),
            ('/gradio_api/queue/data?session_hash=x', 'GET', ''),
            ('/gradio_api/queue/join', 'POST', 'Content-Length: 0\r\n'),
            ('/gradio_api/upload', 'POST', upload),
            ('/gradio_api/file=x', 'GET', ''),
            ('/', 'OPTIONS', 'Origin: http://evil.example\r\n'),
        ):
            assert status(f'evil.example:{port}', method, target, more) == 421, target
        assert status('evil.example', more=upgrade) in (403, 421)
        assert (
            status(
                'localhost', 'POST', '/gradio_api/queue/join', 'Origin: http://evil.example\r\nContent-Length: 0\r\n'
            )
            == 403
        )
    finally:
        page.close(verbose=False)
