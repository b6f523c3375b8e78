"""The report of a test, for ``tools/test.py --report``."""

import importlib
from numbers import Real
from pathlib import Path

from mmengine.dist import is_main_process

from ..apis.zoo import task_of
from ..files import shown
from .html_file import Parts, environment_facts, run_facts, write_page
from .scan_galleries import scan_galleries
from .scores import headlines, is_score, paper_rows

_CASES = {
    'classification': 'ClassificationCases',
    'detection': 'DetectionCases',
    'segmentation': 'SegmentationCases',
}
FILE = 'test.html'


def watch_test(runner):
    """Start to record a test for a report. Call it before ``runner.test()``, on every rank.

    Returns:
        A :class:`~mmdefmamba.report.metric.CaseMetric`, for :func:`write_test_report`.

    Raises:
        ValueError: the config does not belong to mmpretrain, mmdet or mmseg.
    """
    task = task_of(runner.cfg)
    # imported by name, so that only the library of this task is needed
    kind = getattr(importlib.import_module(f'{__package__}.{task}_cases'), _CASES[task])
    cases = kind(runner.test_dataloader.dataset)
    cases.watch(runner.test_evaluator)
    return cases


def write_test_report(runner, cases, metrics, folder, tta=False, cfg_options=None):
    """Write the page of a test. Only rank 0 writes, and it does not wait for other ranks.

    A part of the page that fails, such as a picture of an image that cannot be drawn, is left out and named in the page
    and in the log.

    Args:
        runner: the runner after its test.
        cases: the result of :func:`watch_test`.
        metrics: the result of ``runner.test()``.
        folder: folder of ``test.html``.
        tta: whether the test used test-time augmentation.
        cfg_options: changes of the config, {dotted key: value}.

    Returns:
        The path of the page; None on other ranks.
    """
    if not is_main_process():
        return None
    dataset = runner.test_dataloader.dataset
    parts = Parts(cases.problems)
    of_classes = parts.make('scores of the classes', set(), cases.class_scores, metrics)
    short, whole = parts.make('environment', ([], []), environment_facts, runner.world_size)
    config = runner.cfg.filename
    facts = [
        ('checkpoint', runner.cfg.load_from),
        ('data', f'{type(dataset).__name__}, {len(dataset)} images'),
        ('test-time augmentation', 'yes' if tta else 'no'),
        *run_facts(runner),
    ]
    if cfg_options:
        facts.insert(0, ('changes of the config', ', '.join(f'{key}={value}' for key, value in cfg_options.items())))
    path = Path(folder, FILE)
    write_page(
        'test.html.jinja',
        path,
        title=Path(config or runner.experiment_name).stem,
        headlines=headlines(metrics),
        facts=facts,
        metrics=[(name, _text(value)) for name, value in metrics.items() if name not in of_classes],
        paper=parts.make('comparison with the paper', [], paper_rows, config, metrics, tta),
        names=cases.dataset_meta.get('classes') or (),
        matrix=parts.make('confusion matrix', None, cases.matrix),
        tables=parts.make('tables of the classes', [], cases.tables, metrics),
        galleries=parts.make('best and worst images', [], cases.galleries),
        least=cases.case_width,
        scans=parts.make('points and scan order', [], scan_galleries, runner, cases),
        speed=parts.make('speed', [], speed_facts, runner),
        environment=short,
        whole_environment=whole,
        config=parts.make('config', '', getattr, runner.cfg, 'pretty_text'),
        problems=parts.problems,
    )
    runner.logger.info(f'report: {shown(path)}')
    return path


def _text(value):
    if not isinstance(value, Real):
        return str(value)
    return f'{value:.4g}' if is_score(value) else '-'


def speed_facts(runner):
    """Return rows of (name, text) about the speed of the test, measured by MMEngine's IterTimerHook on this rank."""
    loader = runner.test_dataloader
    rows = [('batch size per process', str(loader.batch_size or loader.batch_sampler.batch_size))]
    scalars = runner.message_hub.log_scalars
    if 'test/time' not in scalars or not len(loader):
        return [*rows, ('images/s', 'not measured: there is no IterTimerHook, or the test has no images')]
    total, loading = (float(scalars[f'test/{name}'].data[0][-len(loader) :].sum()) for name in ('time', 'data_time'))
    images = len(loader.dataset)
    return [
        ('images/s, including loading and evaluation', f'{images / total:.4g}'),
        ('share of the time spent waiting for data', f'{100 * loading / total:.0f} %'),
        ('whole test', f'{total:.1f} s, {images} images, {len(loader)} batches per process'),
        *rows,
    ]
