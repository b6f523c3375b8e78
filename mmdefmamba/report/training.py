"""The report of a training, for ``tools/train.py --report``."""

import statistics
from pathlib import Path

from mmengine.dist import is_main_process

from ..files import shown
from .chart import line_chart
from .html_file import Parts, environment_facts, run_facts, write_page
from .logs import read_scalars
from .scores import headlines, is_headline, is_score

FILE = 'train.html'
_TIMES = {'data_time', 'time', 'step', 'iter', 'epoch', 'memory'}
SERIES = 8  # largest number of lines in a chart


def write_train_report(runner, folder):
    """Write the page of a training. Only rank 0 writes, and it does not wait for other ranks.

    Args:
        runner: the runner after its training. If it resumed earlier runs of its work dir, the page includes their logs.
        folder: folder of ``train.html``.

    Returns:
        The path of the page; None on other ranks.
    """
    if not is_main_process():
        return None
    parts = Parts()
    training, validation = parts.make('curves', ([], []), read_scalars, runner.work_dir)
    short, whole = parts.make('environment', ([], []), environment_facts, runner.world_size)
    dataset = runner.train_dataloader.dataset
    path = Path(folder, FILE)
    write_page(
        'train.html.jinja',
        path,
        title=Path(runner.cfg.filename or runner.experiment_name).stem,
        headlines=headlines(validation[-1]) if validation else [],
        facts=[
            ('data', f'{type(dataset).__name__}, {len(dataset)} images'),
            ('length', f'{runner.max_iters} iterations'),
            ('checkpoint', _last_checkpoint(runner)),
            *run_facts(runner),
        ],
        charts=parts.make('curves', [], curves, training, validation),
        scores=parts.make('scores', [], score_rows, validation, _unit(training)),
        speed=parts.make('speed', [], speed_facts, runner, training),
        environment=short,
        whole_environment=whole,
        config=parts.make('config', '', getattr, runner.cfg, 'pretty_text'),
        problems=parts.problems,
    )
    runner.logger.info(f'report: {shown(path)}')
    return path


def curves(training, validation):
    """Return the charts of a training: loss, parts of the loss, scores and learning rate.

    Args:
        training, validation: the two results of :func:`read_scalars`.
    """
    losses = [key for key in dict.fromkeys(key for line in training for key in line) if 'loss' in key and key != 'loss']
    scores = _score_keys(validation)
    main = [key for key in scores if is_headline(key)] or scores
    charts = [
        line_chart('Loss', 'iteration', _series(training, ['loss'])),
        line_chart('Parts of the loss', 'iteration', _series(training, losses[:SERIES])) if losses else None,
        line_chart('Scores on the validation data', _unit(training), _scores(validation, main[:SERIES])),
        line_chart('Learning rate', 'iteration', _series(training, ['lr'])),
    ]
    return [chart for chart in charts if chart is not None]


def score_rows(validation, unit):
    """Return one row per score: (name, last value, highest value, step of the highest value)."""
    rows = []
    for key in _score_keys(validation):
        values = [(line[key], line['step']) for line in validation if is_score(line.get(key))]
        if not values:
            rows.append((key, '-', '-', '-'))
            continue
        highest, step = max(values, key=lambda value: value[0])
        last = next(line[key] for line in reversed(validation) if key in line)
        rows.append((key, f'{last:.4g}' if is_score(last) else '-', f'{highest:.4g}', f'{unit} {step}'))
    return rows


def speed_facts(runner, training):
    """Return rows of (name, text) about the speed of a training, measured by IterTimerHook on rank 0."""
    loader = runner.train_dataloader
    batch = loader.batch_size or loader.batch_sampler.batch_size
    rows = [('batch size per process', str(batch))]
    times = [line['time'] for line in training if line.get('time')]
    if not times:
        return [*rows, ('images/s', 'not measured: nothing was logged')]
    second = statistics.median(times)
    share = statistics.median(line['data_time'] / line['time'] for line in training if line.get('time'))
    return [
        ('images/s, median', f'{batch * runner.world_size / second:.4g}'),
        ('time per iteration, median', f'{second:.3g} s'),
        ('share of the time spent waiting for data', f'{100 * share:.0f} %'),
        *rows,
    ]


def _scores(lines, keys):
    # COCO's -1 is no score; the chart itself mentions values that are not finite
    return _series([{key: value for key, value in line.items() if value != -1} for line in lines], keys)


def _series(lines, keys):
    return {key: [(line['step'], line[key]) for line in lines if key in line] for key in keys}


def _score_keys(validation):
    """Return the names of the numbers in the validation log, in their order."""
    names = dict.fromkeys(name for line in validation for name, value in line.items() if isinstance(value, int | float))
    return [name for name in names if name not in _TIMES]


def _unit(training):
    return 'epoch' if training and 'epoch' in training[0] else 'iteration'


def _last_checkpoint(runner):
    note = Path(runner.work_dir, 'last_checkpoint')
    return note.read_text('utf-8').strip() if note.is_file() else 'no checkpoint was saved'
