"""Ablations: train several configs with several seeds each, and write one table."""

import csv
import json
import statistics
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ..analysis.config_complexity import config_complexity
from ..analysis.markdown import markdown_table
from ..analysis.timing import alternate
from ..checkpoints import AtomicLocalBackend, resume_if_possible
from ..config_tree import library_of, values_in
from ..files import shown
from ..visualization.ablation_figure import draw_runs

# Settings that every start of a run sets itself.
_OF_EACH_START = {'experiment_name', 'filename', 'load_from', 'resume', 'work_dir'}


def run_once(cfg, seed, work_dir):
    """Train a config with one seed and return the metrics of its last validation.

    The result is saved as ``work_dir/seed_N/result.json``. If this file exists, nothing is trained. An interrupted
    series therefore continues where it stopped, and an interrupted training continues from its last checkpoint.
    ``seconds.json`` beside it has the seconds of the last start of the training, validation included.

    Args:
        cfg: an MMEngine Config; it is not changed.
        seed: value of ``randomness.seed``.
        work_dir: folder of this config.

    Returns:
        dict of metric to number.

    Raises:
        ValueError: the folder has a run of the same name with another config (names the keys that differ).
    """
    folder = Path(work_dir) / f'seed_{seed}'
    result = folder / 'result.json'
    cfg = cfg.copy()
    cfg.update(work_dir=str(folder), experiment_name=f'{Path(work_dir).name}_seed_{seed}')
    cfg.merge_from_dict({'randomness.seed': seed})
    _require_same_config(cfg, folder)
    if not result.is_file():
        resume_if_possible(cfg)
        begin = time.perf_counter()
        runner = Runner.from_cfg(cfg)
        scores = _LastScores()
        runner.register_hook(scores)
        runner.train()
        # a training that had ended before the interruption validates nothing
        metrics = runner.val() if scores.last is None else scores.last
        AtomicLocalBackend().put_text(json.dumps(time.perf_counter() - begin), folder / 'seconds.json')
        # mmseg's numbers are NumPy's, which json does not know
        AtomicLocalBackend().put_text(json.dumps(metrics, default=float), result)
    return json.loads(result.read_text())


def _require_same_config(cfg, folder):
    """Compare a config with the one that the runner has left in a folder, so that no run is taken for another."""
    earlier = folder / Path(cfg.filename).name if cfg.filename else None  # else the runner names it by the date
    if earlier is None or not earlier.is_file():
        return
    was, now = _settings(Config.fromfile(earlier)), _settings(cfg)
    differ = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
    if differ:
        some = ', '.join(
            f'{key} ({was.get(key, "not set")} there, {now.get(key, "not set")} now)' for key in differ[:3]
        )
        raise ValueError(
            f'{shown(folder)} has a run of the same name with another config: {len(differ)} settings differ: {some}. '
            'Give another --work-dir, or remove this folder.'
        )


def _settings(cfg):
    return {place: repr(value) for place, value in values_in(cfg.to_dict()) if place not in _OF_EACH_START}


class _LastScores(Hook):
    """Keep the metrics of the last validation, which follows the last step of a training."""

    last = None

    def after_val_epoch(self, runner, metrics=None):
        self.last = dict(metrics)


def seconds_of(work_dir, seeds):
    """Return the seconds that each of the first ``seeds`` runs of a config took; runs of older releases have none."""
    files = [Path(work_dir, f'seed_{seed}', 'seconds.json') for seed in range(seeds)]
    return [json.loads(file.read_text()) for file in files if file.is_file()]


def measure_costs(cfgs, shape=None, rounds=5, batch=32, device='cpu'):
    """Count the model of each config and time its backbone, in inference and in training, in turns within one run.

    Args:
        cfgs: dict of name to an MMEngine Config.
        shape: (height, width) of the images, or one number for both; by default the ``image_size`` of the config, or
            else the paper's size for the task.
        rounds: number of timed passes, of which the median is taken; with 0 nothing is timed.
        batch: number of images per pass.
        device: device on which to time.

    Returns:
        dict of name to dict: ``params``, ``flops`` and ``flops_without_scan`` of the whole model, and, if ``rounds`` is
        positive, ``img/s`` of the backbone in inference, and ``img/s trained``, with a backward pass and without an
        optimizer.
    """
    costs, backbones = {}, {}
    for name, cfg in cfgs.items():
        own = cfg.get('image_size')
        counted, size = config_complexity(cfg, shape or ((own,) if isinstance(own, int) else own))
        costs[name] = {key: counted[key] for key in ('params', 'flops', 'flops_without_scan')}
        if rounds:
            init_default_scope(library_of(cfg))
            images = torch.randn(batch, *size, device=device)
            backbones[name] = MODELS.build(cfg.model.backbone).to(device), images
    for backbone, _ in backbones.values():
        backbone.eval()
    passes = {name: partial(*each) for name, each in backbones.items()}
    with torch.inference_mode():
        for name, seconds in alternate(passes, rounds, device).items():
            costs[name]['img/s'] = batch / seconds
    for backbone, _ in backbones.values():
        backbone.train()
    passes = {name: partial(_train, *each) for name, each in backbones.items()}
    for name, seconds in alternate(passes, rounds, device).items():
        costs[name]['img/s trained'] = batch / seconds
    return costs


def _train(backbone, images):
    backbone(images)[-1].sum().backward()


def summarise(results, costs=None, metrics=None):
    """Compute the mean and the spread of each config.

    Args:
        results: dict of config name to a list with one dict of metrics per seed.
        costs: the result of :func:`measure_costs`, or None.
        metrics: names of the metrics; by default all.

    Returns:
        One dict per config with ``config``, ``seeds``, the costs, and for each metric: its mean under ``metric``, its
        standard deviation over seeds (n - 1; None for a single seed) under ``metric std``, its values under
        ``metric each``, and under ``metric gain`` and ``metric gain std`` the mean and the deviation of its difference
        to the first config with the same seed.
    """
    rows = []
    first = next(iter(results.values()))
    for name, runs in results.items():
        row = {'config': name, 'seeds': len(runs)}
        for metric in metrics or metrics_of(results):
            values = [run[metric] for run in runs]
            gains = [run[metric] - other[metric] for run, other in zip(runs, first, strict=False)]
            for key, numbers in ((metric, values), (f'{metric} gain', gains)):
                row[key] = statistics.mean(numbers)
                row[f'{key} std'] = statistics.stdev(numbers) if len(numbers) > 1 else None
            row[f'{metric} each'] = values
        rows.append(row | (costs or {}).get(name, {}))
    return rows


def metrics_of(results):
    """Return the names of all metrics, sorted."""
    return sorted({metric for runs in results.values() for run in runs for metric in run})


def f_ratio(results, metric):
    """Test whether configs differ by more than chance: an analysis of variance in randomised blocks.

    The blocks are the seeds. A seed gives all configs the same order of the data and the same initial weights, so its
    effect on all of them is not noise between configs, and is removed.

    Args:
        results: as for :func:`summarise`; only seeds that every config has are used.
        metric: name of the metric.

    Returns:
        F, the variance between configs divided by the variance that neither config nor seed explains, and p, the
        probability of an F at least as large if all configs were equal. (None, None) with fewer than two configs or
        seeds, or if config and seed explain everything.
    """
    # only this function needs SciPy
    from scipy.stats import f

    seeds = min(len(runs) for runs in results.values())
    scores = np.array([[run[metric] for run in runs[:seeds]] for runs in results.values()], float)
    configs = len(scores)
    if configs < 2 or seeds < 2:
        return None, None
    of_config = scores.mean(1, keepdims=True) - scores.mean()
    rest = scores - scores.mean(0) - of_config
    degrees = configs - 1, (configs - 1) * (seeds - 1)
    between, within = seeds * np.square(of_config).sum() / degrees[0], np.square(rest).sum() / degrees[1]
    if np.allclose(rest, 0):
        return None, None
    return float(between / within), float(f.sf(between / within, *degrees))


def paired_tests(results, metric):
    """Test each config against the first one, seed by seed: Student's paired t-test, two-sided.

    The configs are compared at once, so that some seem to differ by chance. Holm's step-down correction keeps the
    probability that any of them is called different by mistake below the limit that is put on its p.

    Args:
        results: as for :func:`summarise`; only seeds that both configs have are used.
        metric: name of the metric.

    Returns:
        dict of config name to (p, p by Holm, effect). The effect is the mean gain divided by its standard deviation
        over seeds (Cohen's d for paired samples). A config with fewer than two seeds, or with the same gain in each,
        is left out and does not count among the comparisons.
    """
    # only tests need SciPy
    from scipy.stats import ttest_rel

    first, *others = results
    found = {}
    for name in others:
        pairs = [(run[metric], other[metric]) for run, other in zip(results[name], results[first], strict=False)]
        gains = [run - other for run, other in pairs]
        if len(gains) > 1 and not np.allclose(gains, gains[0]):
            effect = statistics.mean(gains) / statistics.stdev(gains)
            found[name] = float(ttest_rel(*zip(*pairs, strict=True)).pvalue), effect
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(found, key=lambda name: found[name][0])):
        largest = max(largest, min(1.0, (len(found) - rank) * found[name][0]))
        corrected[name] = largest
    return {name: (p, corrected[name], effect) for name, (p, effect) in found.items()}


def write_table(folder, results, costs=None, metrics=None):
    """Write ``table.md``, ``table.csv`` and ``table.png`` into a folder.

    Args:
        folder: the folder; it is created if necessary.
        results, costs, metrics: as for :func:`summarise`.

    Returns:
        The text of ``table.md``.

    Raises:
        ValueError: the runs have no such metric (names those that they have).
    """
    known = metrics_of(results)
    for metric in metrics or ():
        if metric not in known:
            raise ValueError(f'the runs have no metric {metric!r}. They have: {", ".join(known)}')
    metrics = metrics or known
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = summarise(results, costs, metrics)
    row_of = dict(zip(results, rows, strict=True))
    for metric in metrics:
        for name, values in paired_tests(results, metric).items():
            row_of[name].update(zip((f'{metric} p', f'{metric} p Holm', f'{metric} effect'), values, strict=True))
    text = markdown(rows, metrics)
    for metric in metrics:
        ratio, probability = f_ratio(results, metric)
        if ratio is not None:
            text += f'\n\n{metric}: variance between configs divided by the variance that neither config nor seed '
            text += f'explains: F = {ratio:.2f}, p = {probability:.2g}.'
    (folder / 'table.md').write_text(text + '\n')
    with (folder / 'table.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: ' '.join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    draw_runs(results, metrics).savefig(folder / 'table.png', dpi=120)
    return text


def markdown(rows, metrics):
    """Format rows of :func:`summarise` as a Markdown table.

    A score is printed as mean ± deviation (value of each seed), a gain as mean ± deviation, with the results of
    :func:`paired_tests` beside it if there are any. Scores of at most 1, such as mAP, have three decimals, others two.
    """
    costs = {'params': 'params', 'flops_without_scan': 'FLOPs', 'flops': 'with the scan'}
    costs |= {key: key for key in ('img/s', 'img/s trained', 'train s')}
    costs = {key: title for key, title in costs.items() if any(key in row for row in rows)}
    tested = [metric for metric in metrics if any(f'{metric} p' in row for row in rows)]
    scores, forms = [], {}
    for metric in metrics:
        fractions = all(abs(value) <= 1 for row in rows for value in row[f'{metric} each'])
        forms[metric] = '.3f' if fractions else '.2f'
        scores += [metric, f'to {rows[0]["config"]}', *(['p', 'p by Holm', 'effect'] if metric in tested else [])]
    header = ['config', 'seeds', *scores, *costs.values()]
    lines = [header]
    for row in rows:
        cells = [row['config'], row['seeds']]
        for metric in metrics:
            form = forms[metric]
            spread, gain_spread = (
                '-' if row[f'{key} std'] is None else f'{row[f"{key} std"]:{form}}'
                for key in (metric, f'{metric} gain')
            )
            each = ', '.join(f'{value:{form}}' for value in row[f'{metric} each'])
            cells.append(f'{row[metric]:{form}} ± {spread} ({each})')
            cells.append('' if row is rows[0] else f'{row[f"{metric} gain"]:+{form}} ± {gain_spread}')
            if metric in tested:
                for key, form_of_test in (('p', '.2g'), ('p Holm', '.2g'), ('effect', '+.1f')):
                    value = row.get(f'{metric} {key}')
                    cells.append('' if value is None else f'{value:{form_of_test}}')
        for key in costs:
            cells.append('-' if key not in row else _number(row[key]))
        lines.append(cells)
    return markdown_table(lines)


def _number(value):
    """Format a count: from 1e9 in G, from 1e6 in M, with three decimals; smaller ones as whole numbers."""
    for scale, unit in ((1e9, ' G'), (1e6, ' M')):
        if value >= scale:
            return f'{value / scale:.3f}{unit}'
    return f'{value:,.0f}'
