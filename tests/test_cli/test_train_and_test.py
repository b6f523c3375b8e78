"""tools/train.py, tools/test.py and the scripts dist_*.sh, with a tiny network and real digits."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from mmdefmamba.compat import load_safely
from mmdefmamba.engine.distributed import AnyDeviceDistributedDataParallel

HERE = Path(__file__).parent


def accuracy(main, work_dir, config, checkpoint, *options):
    out = work_dir / 'metrics.json'
    args = [config, checkpoint, '--work-dir', work_dir, '--out', out, '--out-item', 'metrics', *options]
    main([str(arg) for arg in args])
    return json.loads(out.read_text())['accuracy/top1']


@pytest.fixture(scope='module')
def metric(tools, tiny_config, trained, tmp_path_factory):
    """Return the accuracy of the trained checkpoint, measured by tools/test.py."""
    return accuracy(tools['test'], tmp_path_factory.mktemp('metric'), tiny_config, trained / 'epoch_2.pth')


def test_checkpoint_scores_the_same_in_test_and_validation(trained, logged, metric):
    training, validation = logged(trained)
    assert [line['epoch'] for line in training] == [1] * 4 + [2] * 4
    assert [line['step'] for line in validation] == [1, 2]
    assert metric == validation[-1]['accuracy/top1']


def test_resume_continues_where_training_stopped(tools, tiny_config, trained, logged, tmp_path):
    before, _ = logged(trained)
    work_dir = shutil.copytree(trained, tmp_path / 'resumed')
    options = ['--work-dir', str(work_dir), '--no-validate', '--cfg-options', 'train_cfg.max_epochs=3']
    tools['train']([str(tiny_config), '--resume', *options])
    after, validation = logged(work_dir)
    assert [(line['epoch'], line['step']) for line in after] == [(3, step) for step in (9, 10, 11, 12)]
    assert validation == []
    # linear warm-up from 2e-5 in the first iteration to 2e-3 in the last iteration of three epochs
    expected = [2e-3 * (0.01 + 0.99 * step / 11) for step in range(12)]
    assert [line['lr'] for line in before + after] == pytest.approx(expected)
    checkpoint = load_safely(work_dir / 'epoch_3.pth')
    assert (checkpoint['meta']['epoch'], checkpoint['meta']['iter']) == (3, 12)
    assert {state['step'].item() for state in checkpoint['optimizer']['state'].values()} == {12}


def test_out_saves_every_prediction(tools, tiny_config, trained, metric, tmp_path):
    out = tmp_path / 'predictions.pkl'
    tools['test']([str(tiny_config), str(trained / 'epoch_2.pth'), '--work-dir', str(tmp_path), '--out', str(out)])
    predictions = pickle.loads(out.read_bytes())
    assert len(predictions) == 61
    hits = [prediction['pred_label'].item() == prediction['gt_label'].item() for prediction in predictions]
    assert 100 * sum(hits) / 61 == pytest.approx(metric)
    assert all(prediction['pred_score'].sum().item() == pytest.approx(1) for prediction in predictions)


def test_tta_of_equal_views_changes_nothing(tools, tiny_config, trained, metric, tmp_path):
    config = tmp_path / 'tta.py'
    config.write_text(
        f'_base_ = {str(tiny_config)!r}\n'
        "tta_model = dict(type='mmpretrain.AverageClsScoreTTA')\n"
        "views = [[dict(type='RandomFlip', prob=0.0)] * 2, [dict(type='PackInputs')]]\n"
        "tta_pipeline = [_base_.resize, dict(type='TestTimeAug', transforms=views)]\n"
    )
    assert accuracy(tools['test'], tmp_path, config, trained / 'epoch_2.pth', '--tta') == metric


def test_dist_train_trains_one_network_in_two_processes(run_distributed, tiny_config, tmp_path):
    config = tmp_path / 'dist.py'
    config.write_text(
        f'_base_ = {str(tiny_config)!r}\n'
        "custom_imports = dict(imports=['mmdefmamba', 'rank_weights'])\n"
        "custom_hooks = [dict(type='SaveRankWeights')]\n"
    )
    options = ['--work-dir', tmp_path / 'run', '--no-validate']
    run_distributed('dist_train.sh', config, 2, *options, folder=HERE)
    first, second = (torch.load(tmp_path / f'run/weights_of_rank{rank}.pth') for rank in (0, 1))
    assert len(first) > 50
    assert all(torch.equal(first[name], second[name]) for name in first)
    # each process trains on half of the 4 batches
    assert load_safely(tmp_path / 'run/epoch_2.pth')['meta']['iter'] == 2 * 2


def test_dist_test_gives_the_same_metric(run_distributed, tiny_config, trained, metric, tmp_path):
    output = ''

    def run(args):
        nonlocal output
        output = run_distributed('dist_test.sh', *args[:2], 2, *args[2:])

    assert accuracy(run, tmp_path, tiny_config, trained / 'epoch_2.pth') == metric
    assert 'Epoch(test) [2/2]' in output  # 61 images in batches of 16, over two processes


def test_sync_bn_trains_on_the_cpu(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        # MMEngine passes these device_ids for each kind of device
        model = AnyDeviceDistributedDataParallel(nn.SyncBatchNorm(1), device_ids=[0])
        model(torch.tensor([[1.0], [3.0]])).square().sum().backward()
        torch.testing.assert_close(model.module.running_mean, torch.tensor([0.2]))  # a tenth of the mean
    finally:
        torch.distributed.destroy_process_group()
