import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmdefmamba import visualization
from mmdefmamba.analysis import trace_blocks
from mmdefmamba.cli.run_options import build_runner
from mmdefmamba.engine import ScanVisualizationHook
from mmdefmamba.visualization import draw_scan_order, figure_to_rgb
from mmdefmamba.visualization.inputs import dataset_images, network_inputs

PICO = Path(__file__).parents[2] / 'configs/classification/defmamba_pico_digits.py'
# Drop path and augmentations draw random numbers in each step.
TINY = dict(
    model=dict(
        backbone=dict(
            arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 2)),
            out_indices=1,
            drop_path_rate=0.3,
            frozen_stages=1,
        ),
        head=dict(in_channels=16),
    ),
    train_dataloader=dict(batch_size=16, dataset=dict(indices=32)),
    val_dataloader=dict(batch_size=16, dataset=dict(indices=16)),
    train_cfg=dict(max_epochs=2, val_interval=2),
    param_scheduler=[],
)


def tiny_config(folder, hook, **options):
    cfg = Config.fromfile(PICO)
    cfg.merge_from_dict(TINY)
    cfg.merge_from_dict(options)
    del cfg.default_hooks['step_seed']  # it would hide that a hook draws random numbers
    cfg.custom_hooks = [] if hook is None else [dict(type='ScanVisualizationHook', **hook)]
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    return cfg


def pictures(folder):
    return {path.name: cv2.imread(str(path))[..., ::-1] for path in folder.glob('*/vis_data/vis_image/*.png')}


def test_drawing_does_not_change_the_training(tmp_path):
    # pictures are drawn in the middle of an epoch, from the training set, whose augmentations draw random numbers
    hook = dict(interval=3, by_epoch=False, images=1)
    without = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)
    plain = Runner.from_cfg(tiny_config(tmp_path / 'plain', None, **without))
    plain.train()
    drawn = Runner.from_cfg(tiny_config(tmp_path / 'drawn', hook, **without))
    drawn.train()
    expected = plain.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in drawn.model.state_dict().items())
    names = {f'{kind}_stages.0.0_0_{step}.png' for kind in ('points', 'scan_order') for step in (0, 3)}
    assert set(pictures(tmp_path / 'drawn')) == names
    assert not pictures(tmp_path / 'plain')


def test_every_backend_receives_pictures_of_the_current_model(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        """A stand-in for the class of TensorBoard, which is an optional package."""

        def __init__(self, folder):
            pass

        def add_image(self, name, image, step, **options):
            written.append((name, image, step, options))

        def __getattr__(self, name):
            return lambda *args, **options: None

    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', SimpleNamespace(SummaryWriter=SummaryWriter))
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    hook = dict(images=2, stage=1, block=0)
    runner = Runner.from_cfg(tiny_config(tmp_path / 'epochs', hook, visualizer=dict(vis_backends=backends)))
    runner.train()
    names = [f'{kind}_stages.1.0_{i}' for i in (0, 1) for kind in ('scan_order', 'points')]
    assert [(name, step) for name, _, step, _ in written] == [(name, step) for step in (0, 1, 2) for name in names]
    found = pictures(tmp_path / 'epochs')
    assert len(found) == len(written)
    for name, image, step, options in written:
        assert (found[f'{name}_{step}.png'] == image).all()
        assert options == {'dataformats': 'HWC'}
    assert (found['points_stages.1.0_1_2.png'] != found['points_stages.1.0_1_0.png']).any()

    # the last picture is drawn again here, from the trained model and the validation set
    model = runner.model.eval()
    inputs, (picture,) = network_inputs(model, dataset_images(runner.val_dataloader, 2)[1])
    _, (trace,) = trace_blocks(model.backbone, inputs, stages=1, blocks=0)
    assert (found['scan_order_stages.1.0_1_2.png'] == figure_to_rgb(draw_scan_order(picture, trace))).all()


def test_only_the_first_of_two_processes_draws(processes, tmp_path):
    def train(rank):
        if rank:  # this rank must not draw pictures, because its visualizer would drop them
            visualization.draw_scan_order = None
        cfg = tiny_config(tmp_path / f'rank{rank}', dict(images=1))
        cfg.launcher = 'pytorch'
        runner = build_runner(cfg)
        runner.train()
        torch.save(runner.model.module.state_dict(), tmp_path / f'rank{rank}/weights.pth')

    statuses = processes.wait(processes.fork_ranks(2, train, tmp_path / 'logs'))
    assert statuses == [0, 0], (tmp_path / 'logs/rank0.txt').read_text()[-5000:]
    assert {name.split('_')[-1] for name in pictures(tmp_path / 'rank0')} == {'0.png', '1.png', '2.png'}
    assert not pictures(tmp_path / 'rank1')
    # both went through the same training
    weights = [torch.load(tmp_path / f'rank{rank}/weights.pth') for rank in range(2)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize('name', ['interval', 'images'])
def test_options_must_be_positive(name):
    with pytest.raises(ValueError, match=f'{name} must be positive, got 0'):
        ScanVisualizationHook(**{name: 0})


def test_unknown_stage_stops_the_run_at_its_start(tmp_path):
    runner = Runner.from_cfg(tiny_config(tmp_path / 'wrong', dict(stage=4)))
    with pytest.raises(ValueError, match='stages of DefMamba must be from -2 to 1'):
        runner.train()


def test_sharded_models_are_refused():
    model = type('MMFullyShardedDataParallel', (), {})()
    with pytest.raises(ValueError, match='cannot draw a model that FSDP shards'):
        ScanVisualizationHook().before_train(SimpleNamespace(model=model))
