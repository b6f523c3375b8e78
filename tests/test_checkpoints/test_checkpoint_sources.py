"""Code in a pickled checkpoint does not run, wherever the checkpoint is loaded from."""

import functools
import http.server
import json
import os
import pickle
import threading

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.runner import CheckpointLoader, checkpoint

import mmdefmamba  # noqa: F401 (installs the loaders)
from mmdefmamba.compat import safe_loading as checkpoints
from mmdefmamba.compat import trust_checkpoints
from mmdefmamba.compat.downloads import cache_name


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Return a folder and the local URL at which it is served. Downloads go to a cache below ``tmp_path``."""
    folder = tmp_path / 'served'
    folder.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path / 'mmengine'))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f'http://127.0.0.1:{running.server_address[1]}'
        running.shutdown()
        thread.join()


def fake_urls(monkeypatch, tmp_path, url):
    """Replace each list of models by one that holds a single model, at this URL."""
    for function in ('get_torchvision_models', 'get_mmcls_models'):
        monkeypatch.setattr(checkpoint, function, lambda: {'model': url})
    (tmp_path / 'mmengine').mkdir()
    (tmp_path / 'mmengine' / 'open_mmlab.json').write_text(json.dumps({'model': url, 'local': 'local.pth'}))


SCHEMES = ['{url}', 'torchvision://model', 'modelzoo://model', 'mmcls://model', 'open-mmlab://model']


@pytest.mark.parametrize('scheme', SCHEMES)
def test_downloads_load_safely(scheme, server, evil, tmp_path, monkeypatch, assert_refused):
    folder, address = server
    url = f'{address}/net.pth?version=1'
    name = scheme.format(url=url)
    fake_urls(monkeypatch, tmp_path, url)
    cached = tmp_path / 'cache' / 'hub' / 'checkpoints' / cache_name(url)

    torch.save({'state_dict': {'backbone.w': torch.ones(2)}}, folder / 'net.pth')
    weights = CheckpointLoader.load_checkpoint(name, 'cpu')['state_dict']
    assert [value.tolist() for value in weights.values()] == [[1, 1]]
    (folder / 'net.pth').unlink()
    CheckpointLoader.load_checkpoint(name, 'cpu')  # from the cache

    file, mark = evil
    os.replace(file, cached)
    with pytest.raises(pickle.UnpicklingError) as error:
        CheckpointLoader.load_checkpoint(name, 'cpu')
    assert_refused(error, url)
    assert not mark.exists()
    with trust_checkpoints(url):
        CheckpointLoader.load_checkpoint(name, 'cpu')
    assert mark.exists()


def test_failed_download_error_gives_url(server):
    url = f'{server[1]}/absent.pth'
    with pytest.raises(OSError, match=f'{url} could not be downloaded: the server answers 404'):
        CheckpointLoader.load_checkpoint(url, 'cpu')


def test_a_local_file_of_the_model_list_loads_safely(server, evil, tmp_path, monkeypatch, assert_refused):
    fake_urls(monkeypatch, tmp_path, 'http://unused')
    os.replace(evil[0], tmp_path / 'mmengine' / 'local.pth')
    with pytest.raises(pickle.UnpicklingError) as error:
        CheckpointLoader.load_checkpoint('openmmlab://local')
    assert_refused(error, str(tmp_path / 'mmengine' / 'local.pth'))
    assert not evil[1].exists()


@pytest.mark.parametrize('prefix', ['s3://', 'petrel://', 'cluster:s3://'])
def test_object_stores_load_safely(prefix, evil, monkeypatch, assert_refused):
    from mmengine.fileio import io as mmengine_io
    from mmengine.fileio.backends.registry_utils import backends

    class Store(LocalBackend):
        def get(self, filepath):
            return super().get(filepath.split('://')[1])

        def get_local_path(self, filepath):
            return super().get_local_path(filepath.split('://')[1])

    monkeypatch.setitem(backends, 'petrel', Store)
    monkeypatch.setattr(mmengine_io, 'backend_instances', {})
    file, mark = evil
    name = prefix + file
    with pytest.raises(pickle.UnpicklingError) as error:
        CheckpointLoader.load_checkpoint(name)
    assert_refused(error, name)
    assert not mark.exists()
    with trust_checkpoints(name):
        CheckpointLoader.load_checkpoint(name)
    assert mark.exists()


def test_pavi_is_refused_with_a_remedy():
    with pytest.raises(NotImplementedError, match=r'pavi://folder/model\.pth was not loaded.*Download the file'):
        CheckpointLoader.load_checkpoint('pavi://folder/model.pth')


def test_no_scheme_keeps_a_loader_that_runs_pickles():
    left = {
        loader.__name__ for loader in CheckpointLoader._schemes.values() if loader.__module__ == checkpoint.__name__
    }
    assert left == {'load_from_torchvision', 'load_from_mmcls'}  # both end in load_from_http
    assert checkpoint.load_from_http is checkpoints.load_from_http


def test_loader_names_fit_mmengines_log_line():
    names = {CheckpointLoader._get_checkpoint_loader(path).__name__[10:] for path in ('a.pth', 'https://b/a.pth')}
    assert names == {'local', 'http'}
