"""The metrics of a distributed test are in one file, and only one process writes it."""

import json
from types import SimpleNamespace

import pytest
from mmengine.dist import utils
from mmengine.hooks import LoggerHook

import mmdefmamba  # noqa: F401


@pytest.mark.parametrize('rank', [0, 1])
def test_only_the_first_process_writes_the_metrics(rank, tmp_path, monkeypatch):
    monkeypatch.setattr(utils, 'get_rank', lambda group=None: rank)
    said = []
    runner = SimpleNamespace(
        log_dir=str(tmp_path),
        test_dataloader=[],
        logger=SimpleNamespace(info=said.append),
        log_processor=SimpleNamespace(get_log_after_epoch=lambda *args, **kwargs: (dict(mIoU=12.5), 'mIoU: 12.5')),
    )
    hook = LoggerHook()
    hook.json_log_path = 'metrics.json'
    hook.after_test_epoch(runner)
    assert said == ['mIoU: 12.5']
    written = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert written == ({} if rank else {'metrics.json': dict(mIoU=12.5)})
