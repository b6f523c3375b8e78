"""``--report`` of tools/test.py and tools/train.py, on tiny networks."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmdefmamba.report import scan_galleries as scans
from mmdefmamba.report import watch_test
from mmdefmamba.report.scores import paper_rows

ROOT = Path(__file__).parents[2]
# The name of a class that a browser would run as a script if the page did not escape it.
EVIL = '<script>alert(1)</script>'
CLASSIFICATION = f"""
_base_ = {str(ROOT / 'configs/classification/defmamba_pico_digits.py')!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))),
    head=dict(in_channels=16),
)
metainfo = dict(classes=({EVIL!r}, *'123456789'))
train_dataloader = dict(batch_size=32, dataset=dict(indices=64))
val_dataloader = dict(batch_size=16, dataset=dict(indices=21, metainfo=metainfo))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1))
tta_model = dict(type='mmpretrain.AverageClsScoreTTA')
views = [[dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)], [dict(type='PackInputs')]]
tta_pipeline = [_base_.resize, dict(type='TestTimeAug', transforms=views)]
"""


@pytest.fixture(scope='module')
def tools(tools):
    return {name: lambda *args, main=tools[name]: main([str(arg) for arg in args]) for name in ('train', 'test')}


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(CLASSIFICATION)
    return path


@pytest.fixture(scope='module')
def trained(tools, config, tmp_path_factory):
    """The work dir of a training with a report in ``report``."""
    work_dir = tmp_path_factory.mktemp('trained')
    tools['train'](config, '--work-dir', work_dir, '--report', work_dir / 'report')
    return work_dir


def check_page(path):
    """Return the text of a page that must be complete, without scripts, and without references to other files."""
    text = path.read_text()
    assert text.rstrip().endswith('</html>')
    assert '<script' not in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert not re.search(r'url\(|@import|http-equiv', text)
    assert [name.name for name in path.parent.iterdir() if name.suffix == '.partial'] == []
    return text


def test_training_page_has_curves_of_every_logged_step(trained):
    text = check_page(trained / 'report/train.html')
    titles = re.findall(r'<h3>(.*?)</h3>\s*<svg', text)
    assert titles == ['Loss', 'Scores on the validation data', 'Learning rate']
    loss = re.search(r'<path class="line s0" d="([^"]*)"', text)[1]
    assert len(re.findall('[ML]', loss)) == 4  # two epochs of two iterations
    assert 'epoch_2.pth' in text
    assert 'images/s, median' in text
    assert f'metainfo = dict(classes=({EVIL!r}' not in text
    assert 'max_epochs=2' in text


def test_a_resumed_training_is_one_curve(tools, config, trained, tmp_path):
    work_dir = shutil.copytree(trained, tmp_path / 'resumed')
    shutil.rmtree(work_dir / 'report')
    tools['train'](
        config, '--resume', '--work-dir', work_dir, '--report', work_dir / 'report', '--cfg-options',
        'train_cfg.max_epochs=3',
    )  # fmt: skip
    text = check_page(work_dir / 'report/train.html')
    paths = re.findall(r'<path class="line s0" d="([^"]*)"', text)
    # the resumed run begins with the validation behind its checkpoint, so the curve of scores has it twice
    assert [len(re.findall('[ML]', path)) for path in paths] == [6, 4, 6]


@pytest.fixture(scope='module')
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope='module')
def tested(tools, config, trained, tmp_path_factory, monkeypatch_module):
    """The page and the metrics of a test, with and without test-time augmentation."""
    folder = tmp_path_factory.mktemp('tested')
    pages = {}
    monkeypatch_module.setattr(scans, 'EACH', 1)
    for name, options in (('plain', []), ('tta', ['--tta'])):
        out = folder / f'{name}.json'
        args = ['--work-dir', folder / name, '--out', out, '--out-item', 'metrics', '--report', folder / name / 'a/b']
        tools['test'](config, trained / 'epoch_2.pth', *args, *options)
        pages[name] = check_page(folder / name / 'a/b/test.html'), json.loads(out.read_text())
    return pages


def test_test_page_of_classification(tested):
    text, metrics = tested['plain']
    assert f'<b>{metrics["accuracy/top1"]:.2f} %</b>' in text
    cells = re.search(r'<table class="matrix">.*?</table>', text, re.S)[0]
    assert sum(map(int, re.findall(r'%">(\d+)</td>', cells))) == 21
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in cells
    assert 'The paper has no row for this config.' in text
    assert 'test-time augmentation</th><td>no<' in text
    assert text.count('points: from each token to the point that is read</figcaption>') >= 2
    assert re.search(r'images/s, including loading and evaluation</th><td>[\d.e+]+<', text)
    assert 'epoch_2.pth' in text


def test_test_page_with_tta(tested):
    text, metrics = tested['tta']
    assert f'<b>{metrics["accuracy/top1"]:.2f} %</b>' in text
    assert 'test-time augmentation</th><td>yes<' in text
    assert 'points: from each token' in text


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_a_report_folder_that_is_a_file_is_refused_before_the_run(tools, tool, config, trained, tmp_path):
    blocked = tmp_path / 'file'
    blocked.touch()
    checkpoint = [trained / 'epoch_2.pth'] if tool == 'test' else []
    with pytest.raises(ValueError, match=r"--report needs a folder, but '.*file' cannot be made: File exists"):
        tools[tool](config, *checkpoint, '--work-dir', tmp_path / 'work', '--report', blocked)
    assert not (tmp_path / 'work').exists()


def test_unknown_default_scope_is_refused():
    runner = SimpleNamespace(cfg=Config(dict(default_scope='mmengine')))
    told = r"this config: default_scope must be one of \['mmpretrain', 'mmdet', 'mmseg'\], got 'mmengine'"
    with pytest.raises(ValueError, match=told):
        watch_test(runner)


def test_two_processes_write_one_page(run_distributed, config, trained, tmp_path):
    options = ['--work-dir', tmp_path, '--report', tmp_path / 'report']
    output = run_distributed('dist_test.sh', config, trained / 'epoch_2.pth', 2, *options)
    assert output.count('report: ') == 1
    text = check_page(tmp_path / 'report/test.html')
    cells = re.search(r'<table class="matrix">.*?</table>', text, re.S)[0]
    assert sum(map(int, re.findall(r'%">(\d+)</td>', cells))) == 21  # the padding of the last batch is not counted
    assert 'processes</th><td>2<' in text


def test_only_configs_of_the_paper_have_a_row_of_the_paper():
    small = ROOT / 'configs/classification/defmamba_s_in1k.py'
    assert paper_rows(str(small), {'accuracy/top1': 12.34}, tta=False) == [
        ('1', 'small', [('Top 1 Accuracy', '83.5', '12.3')])
    ]
    assert paper_rows(str(small.with_name('defmamba_pico_digits.py')), {'accuracy/top1': 99.0}, tta=False) == []
    assert paper_rows(None, {}, tta=False) == []
    detector = ROOT / 'configs/detection/mask_rcnn_defmamba_s_ms_1x.py'
    ((_, _, scores),) = paper_rows(str(detector), {'coco/bbox_mAP': 0.4567}, tta=False)
    assert scores[0] == ('box AP', '47.5', '45.7')
    assert scores[3] == ('mask AP', '42.8', '-')
    segmentor = str(ROOT / 'configs/segmentation/upernet_defmamba_s_160k.py')
    for tta, expected in ((False, ['48.1', '-']), (True, ['-', '48.1'])):
        ((_, _, scores),) = paper_rows(segmentor, {'mIoU': 48.1}, tta)
        assert [here for _, _, here in scores] == expected
