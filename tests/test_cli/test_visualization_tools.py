import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmdefmamba import get_model
from mmdefmamba.scans import SCANS

ROOT = Path(__file__).parents[2]
TASKS = ('classification', 'detection', 'segmentation')


@pytest.fixture(scope='module')
def run(tools):
    return lambda tool, *arguments: tools[f'visualization/{tool}']([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def files(pico_checkpoints):
    """Return ``files(task)``: the paths of a config and of a checkpoint with random weights."""

    def files(task):
        name, checkpoint = pico_checkpoints[task]
        return ROOT / f'configs/{task}/{name}.py', checkpoint

    return files


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'noise.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    return path


def is_picture(path):
    picture = cv2.imread(str(path))
    return picture is not None and picture.std() > 5


@pytest.mark.parametrize('task', TASKS)
def test_scan_figures_are_drawn_for_all_tasks(task, run, files, image, tmp_path, capsys):
    run('scan_figures', *files(task), image, '--token', 1, 2, '--zoom', 0, 0, 2, 2, '--out-dir', tmp_path / 'out')
    names = [f'noise_{kind}.png' for kind in ('points', 'scan_order', 'activation')]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.endswith('.png')]
    assert printed == [str(tmp_path / 'out' / name) for name in names]
    assert all(is_picture(tmp_path / 'out' / name) for name in names)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--stage', 4], r'stages of DefMamba must be from -4 to 3, counted from 0, got (4,)'),
        (['--block', 1], r'blocks of stage 1 must be from -1 to 0, counted from 0, got (1,)'),
        (['--token', 0, 4], r'token must be (row, column) on a map of 4 x 4 tokens'),
        (['--scan', 'hilbert'], "scan must be one of ['raster', 'raster_reverse', 'deformable']"),
        (['missing.png'], 'image missing.png does not exist'),
        (['{image}'], 'images must have different names'),
    ],
)
def test_invalid_scan_figures_option_is_an_error(options, message, run, files, image, tmp_path, capsys):
    options = [image if option == '{image}' else option for option in options]
    first = [] if str(options[0]).startswith('--') else options
    options = [] if first else options
    with pytest.raises(SystemExit, match='2'):
        run('scan_figures', *files('classification'), image, *first, *options, '--out-dir', tmp_path)
    assert message in capsys.readouterr().err.splitlines()[-1]


# Swin and ConvNeXt of mmpretrain on the digits, whose images have 32 pixels: maps of 16 x 16, 8 x 8 and so on.
SWIN = """
_base_ = {base!r}
model = dict(backbone=dict(
    _delete_=True, type='SwinTransformer', img_size=32, patch_size=2, window_size=4, pad_small_map=True,
    arch=dict(embed_dims=16, depths=[1, 2, 1, 1], num_heads=[2, 2, 2, 2])), head=dict(in_channels=128))
"""
CONVNEXT = """
_base_ = {base!r}
model = dict(backbone=dict(
    _delete_=True, type='ConvNeXt', stem_patch_size=2, out_indices=(3,),
    arch=dict(depths=[1, 2, 1, 1], channels=[12, 24, 48, 96])),
    neck=None, head=dict(in_channels=96))
"""


@pytest.fixture(scope='module', params=[SWIN, CONVNEXT], ids=['swin', 'convnext'])
def other_network(request, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp('other')
    config, checkpoint = folder / 'other.py', folder / 'other.pth'
    config.write_text(request.param.format(base=str(files('classification')[0])))
    torch.save(get_model(config).state_dict(), checkpoint)
    return config, checkpoint, 'backbone.stages.1.' + ('blocks.1.attn' if request.param is SWIN else '1')


def test_activation_maps_of_other_networks_are_drawn(other_network, run, image, tmp_path, capsys):
    *network, layer = other_network
    tokens = ['--token', 1, 2, '--token', -1, 0]
    run('scan_figures', *network, image, '--layer', layer, *tokens, '--out-dir', tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['noise_activation.png']
    assert is_picture(tmp_path / 'noise_activation.png')
    block = layer.removesuffix('.attn')
    wrong = {
        f'need the name of a layer (--layer), such as backbone.stages.0.{"blocks.0" if "attn" in layer else "0"}, ': [],
        f'no layer {layer[9:]!r}, did you mean {layer!r}? The names are those of': ['--layer', layer[9:]],
        'must be (row, column) on a map of 8 x 8 tokens, counted from 0, got (0, 8)': [
            '--token',
            0,
            8,
            '--layer',
            block,
        ],
        '--block, --zoom cannot be used with --layer': ['--layer', layer, '--block', 0, '--zoom', 0, 0, 1, 1],
        '--layout cannot be used without --layer': ['--layout', 'channels_last'],
    }
    for message, options in wrong.items():
        with pytest.raises(SystemExit, match='2'):
            run('scan_figures', *network, image, *options, '--out-dir', tmp_path)
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_several_tokens_of_a_block_are_drawn_in_one_figure(run, files, image, tmp_path):
    network = files('classification')
    widths = []
    for tokens in ([(1, 2)], [(1, 2), (3, 3)]):
        options = [part for token in tokens for part in ('--token', *token)]
        run('scan_figures', *network, image, *options, '--out-dir', tmp_path)
        widths.append(cv2.imread(str(tmp_path / 'noise_activation.png')).shape[1])
    # one token: the image, all scans, and three scans. Two tokens: the image and two maps
    assert widths[0] == pytest.approx(5 * 178.5 + 70, abs=2) and widths[1] == pytest.approx(3 * 210 + 70, abs=2)
    run('scan_figures', *network, image, '--layer', 'backbone.stages.1.0.dssm', '--token', 1, 2, '--out-dir', tmp_path)
    assert cv2.imread(str(tmp_path / 'noise_activation.png')).shape[1] == pytest.approx(2 * 210 + 70, abs=2)


def test_checkpoint_of_another_model_is_refused(run, files, image, tmp_path, capsys):
    other = tmp_path / 'other.pth'
    torch.save({'state_dict': {'layer.weight': torch.zeros(1)}}, other)
    with pytest.raises(SystemExit, match='2'):
        run('scan_figures', files('classification')[0], other, image, '--out-dir', tmp_path)
    assert re.search(r'error: .*other\.pth does not fit', capsys.readouterr().err)


@pytest.mark.parametrize('name', ['own_scan', 'own_scan.py'])
def test_static_scans_draw_a_scan_of_the_user(name, run, tmp_path, monkeypatch, capsys):
    source = (
        'import torch\nfrom mmdefmamba.scans import SCANS, StaticScan\n\n'
        "@SCANS.register_module(name='own')\nclass Own(StaticScan):\n"
        '    def order(self, height, width):\n        return torch.arange(height * width).flip(0)\n'
    )
    (tmp_path / 'own_scan.py').write_text(source)
    monkeypatch.chdir(tmp_path)
    try:
        run('static_scans', '--import', name, '--scans', 'raster', 'own', '--out', tmp_path / 'scans.png')
    finally:
        SCANS.module_dict.pop('own', None)
        sys.modules.pop('own_scan', None)
    assert cv2.imread(str(tmp_path / 'scans.png')) is not None and str(tmp_path) not in sys.path
    with pytest.raises(SystemExit):
        run('static_scans', '--import', 'no_such_module', '--out', tmp_path / 'scans.png')
    assert "--import no_such_module: ModuleNotFoundError: No module named 'no_such_module'" in capsys.readouterr().err


def test_static_scans_are_drawn_and_unknown_scans_refused(run, image, tmp_path, capsys):
    for options in (['--image', image], ['--size', 3, 5, '--scans', 'hilbert', 'zigzag']):
        run('static_scans', *options, '--out', tmp_path / 'scans.png')
        assert is_picture(tmp_path / 'scans.png')
        (tmp_path / 'scans.png').unlink()
    wrong = {'unknown scan': ['--scans', 'spiral'], 'image x.png does not exist': ['--image', 'x.png']}
    for message, options in wrong.items():
        with pytest.raises(SystemExit, match='2'):
            run('static_scans', *options, '--out', tmp_path / 'scans.png')
        assert message in capsys.readouterr().err


def test_receptive_field_is_drawn(run, files, tmp_path, capsys):
    run('receptive_field', *files('classification'), '--stage', 1, '--images', 2, '--out', tmp_path / 'field.png')
    assert is_picture(tmp_path / 'field.png')
    with pytest.raises(SystemExit, match='2'):
        run('receptive_field', *files('classification'), '--images', 0)
    assert 'cannot take 0 images of Digits with 360 items' in capsys.readouterr().err


def test_offset_statistics_are_drawn_and_listed(run, files, tmp_path, capsys):
    run('offset_statistics', *files('classification'), '--images', 3, '--out', tmp_path / 'offsets.png')
    assert is_picture(tmp_path / 'offsets.png')
    rows = [row.split(' | ')[0] for row in capsys.readouterr().out.splitlines() if row.startswith('| stages.')]
    assert rows == [f'| stages.{block}' for block in ('0.0', '1.0', '2.0', '2.1', '3.0')]


def test_limitation_cases_are_drawn(run, files, image, tmp_path, capsys):
    run('limitation_cases', *files('classification'), image, '--tiles', 2, '--out', tmp_path / 'cases.png')
    assert is_picture(tmp_path / 'cases.png')
    with pytest.raises(SystemExit, match='2'):
        run('limitation_cases', *files('classification'), 'missing.png')
    assert 'image missing.png does not exist' in capsys.readouterr().err
