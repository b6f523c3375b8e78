"""Downloads from servers that break every rule, on this machine."""

import gzip
import hashlib
import http.server
import io
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader

import mmdefmamba  # noqa: F401 (installs the loaders)
from mmdefmamba.compat.downloads import LIMIT, TIMEOUT, cache_name, expected_hash, fetch


def checkpoint(value):
    file = io.BytesIO()
    torch.save({'state_dict': {'a': torch.full((300,), float(value))}}, file)
    return file.getvalue()


BODY = checkpoint(1)
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def send(self, body, status=200, length=None, wait=0.0, **headers):
        self.send_response(status)
        headers.setdefault('Content-Type', 'application/octet-stream')
        if length != 'none':
            headers['Content-Length'] = len(body) if length is None else length
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        for at in range(0, len(body), 1 if wait else len(body)):
            self.wfile.write(body[at : at + 1] if wait else body)
            if wait and self.server.ended.wait(wait):
                break

    def do_GET(self):
        self.server.asked.append(self.path)
        kind, name = self.path.split('?')[0].strip('/').split('/', 1)
        try:
            getattr(self, f'on_{kind}')(name)
        except OSError:  # the client has gone
            self.close_connection = True

    def on_good(self, name):
        self.send(BODY)

    def on_other(self, name):
        self.send(checkpoint(2))

    def on_silent(self, name):
        self.server.ended.wait(20)

    def on_stalled(self, name):
        self.send(BODY[:100], length=len(BODY))
        self.server.ended.wait(20)

    def on_letters(self, name):
        for _ in range(400):
            self.wfile.write(b'H')
            if self.server.ended.wait(0.05):
                break

    def on_drip(self, name):
        self.send(BODY, wait=0.05)

    def on_cut(self, name):
        self.send(BODY[:-50], length=len(BODY))

    def on_cut_without_length(self, name):
        self.send(BODY[:-50], length='none')

    def on_cut_chunks(self, name):
        self.send(b'1000\r\n' + BODY[:500], length='none', Transfer_Encoding='chunked')

    def on_long(self, name):
        self.send(BODY, length=2**40)

    def on_endless(self, name):
        self.send(b'x' * 2**21, length='none')

    def on_missing(self, name):
        self.send(b'gone', status=404)

    def on_broken(self, name):
        self.send(b'oh', status=500)

    def on_page(self, name):
        self.send(b'<!DOCTYPE html><p>Log in', Content_Type='text/html')

    def on_plain_page(self, name):
        self.send(b'\n<html><p>Log in')

    def on_empty(self, name):
        self.send(b'')

    def on_zipped(self, name):
        self.send(gzip.compress(BODY), Content_Encoding='gzip')

    def on_zipped_cut(self, name):
        self.send(gzip.compress(BODY)[:-9], Content_Encoding='gzip')

    def on_bomb(self, name):
        self.send(gzip.compress(bytes(2**22)), Content_Encoding='gzip')

    def on_brotli(self, name):
        self.send(BODY, Content_Encoding='br')

    def on_moved(self, name):
        self.send(b'', status=302, Location=f'/good/{name}')

    def on_loop(self, name):
        self.send(b'', status=302, Location=self.path)

    def on_elsewhere(self, name):
        self.send(b'', status=302, Location='file:///etc/passwd')


@pytest.fixture(scope='module')
def server():
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as running:
        running.ended, running.asked = threading.Event(), []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running, f'http://127.0.0.1:{running.server_address[1]}'
        running.ended.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def limits(monkeypatch, tmp_path):
    monkeypatch.setenv(TIMEOUT, '0.5')
    monkeypatch.setenv(LIMIT, '0.001')  # a million bytes
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(torch.hub, '_hub_dir', None)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('silent', r'does not answer within 0\.5 s'),
        ('stalled', 'timed out'),
        ('letters', 'does not answer within 1 s'),
        ('drip', r'sent \d+ bytes in 1 s, which is too slow'),
        ('cut', r'announced 1,\d+ bytes and sent 1,\d+|announced \d,\d+ bytes and sent \d,\d+'),
        ('cut_without_length', 'the end of the file is missing'),
        ('cut_chunks', 'IncompleteRead'),
        ('long', r'has 1,099,511,627,776 bytes, the limit is 1,073,741 \(MMDEFMAMBA_DOWNLOAD_LIMIT'),
        ('endless', 'has more than 1,073,741 bytes'),
        ('bomb', 'has more than 1,073,741 bytes'),
        ('missing', 'the server answers 404 Not Found'),
        ('broken', 'the server answers 500 Internal Server Error'),
        ('page', 'sends a web page instead of a file'),
        ('plain_page', 'sends a web page instead of a file'),
        ('empty', 'sends an empty file'),
        ('zipped_cut', 'the end of the compressed file is missing'),
        ('brotli', "sends the file as 'br'"),
        ('loop', 'redirect'),
        ('elsewhere', r'file:///etc/passwd'),
    ],
)
def test_a_download_that_fails_is_named_and_leaves_nothing(kind, message, server, tmp_path):
    url, start = f'{server[1]}/{kind}/epoch_300.pth', time.monotonic()
    with pytest.raises(OSError, match=message) as caught:
        fetch(url, tmp_path / 'cache', progress=False)
    assert str(caught.value).startswith(f'{url} could not be downloaded: ') and len(str(caught.value)) < 500
    assert time.monotonic() - start < 10
    assert list((tmp_path / 'cache').iterdir()) == []


def test_no_server_is_named(tmp_path, free_port):
    with pytest.raises(OSError, match=r'epoch_300\.pth could not be downloaded: .*refused'):
        fetch(f'http://127.0.0.1:{free_port()}/epoch_300.pth', tmp_path, progress=False)


@pytest.mark.parametrize('kind', ['good', 'zipped', 'moved'])
def test_a_whole_file_is_downloaded_once(kind, server, tmp_path):
    running, address = server
    running.asked.clear()
    for _ in range(2):
        path = fetch(f'{address}/{kind}/epoch_300.pth', tmp_path, progress=False)
        assert Path(path).read_bytes() == BODY
    assert len(running.asked) == (2 if kind == 'moved' else 1)
    assert [file.name for file in tmp_path.iterdir()] == [cache_name(f'{address}/{kind}/epoch_300.pth')]


def test_two_urls_with_one_last_part_are_two_files(server):
    values = [
        CheckpointLoader.load_checkpoint(f'{server[1]}/{kind}/epoch_300.pth', 'cpu', None)['state_dict']['a'][0].item()
        for kind in ('good', 'other', 'good')
    ]
    assert values == [1, 2, 1]
    names = {cache_name(f'http://h/{path}') for path in ('a/x.pth', 'b/x.pth', 'a/x.pth?v=1', 'a/x.pth?v=2')}
    assert len(names) == 4


def test_the_hash_in_a_name_is_compared(server, tmp_path):
    good = f'{server[1]}/good/net-{SHA[:8]}.pth'
    assert expected_hash(good) == SHA[:8]
    path = Path(fetch(good, tmp_path, progress=False))
    path.write_bytes(b'changed since')
    assert Path(fetch(good, tmp_path, progress=False)).read_bytes() == BODY
    with pytest.raises(OSError, match=f'its SHA-256 begins with {SHA[:8]}, but its name says 01234567'):
        fetch(f'{server[1]}/good/net-01234567.pth', tmp_path, progress=False)
    assert expected_hash('http://h/net-20210831.pth') is None and expected_hash('http://h/epoch_300.pth') is None
    # what PyTorch has in its cache is taken where the hash proves it
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own' / f'net-{SHA[:8]}.pth').write_bytes(BODY)
    assert fetch(f'http://127.0.0.1:1/net-{SHA[:8]}.pth', tmp_path / 'own').endswith(f'own/net-{SHA[:8]}.pth')


def test_a_file_that_is_no_checkpoint_does_not_stay_in_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Handler, 'on_good', lambda self, name: self.send(b'no checkpoint', length='none'))
    url = f'{server[1]}/good/late.pth'
    with pytest.raises(RuntimeError, match=r'late\.pth cannot be read as a checkpoint'):
        CheckpointLoader.load_checkpoint(url, 'cpu', None)
    monkeypatch.undo()
    assert not list(tmp_path.rglob('*late.pth'))


def test_several_at_once_get_whole_files(server, tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(f'{server[1]}/good/many.pth', tmp_path, False)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and Path(found[0]).read_bytes() == BODY
    assert [file.name for file in tmp_path.iterdir()] == [Path(found[0]).name]


@pytest.mark.parametrize('variable', [TIMEOUT, LIMIT])
@pytest.mark.parametrize('value', ['0', '-1', 'ten', 'nan', 'inf'])
def test_limits_that_are_no_positive_number_are_an_error(variable, value, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f'environment variable {variable} must be a positive number, got {value!r}'):
        fetch('http://127.0.0.1:1/x.pth', tmp_path)
