"""Several configs, several seeds each, one table."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from ..analysis.config_complexity import config_complexity
from ..analysis.markdown import markdown_table
from ..analysis.timing import alternate
from ..checkpoints import AtomicLocalBackend, resume_if_possible


def run_once(cfg, seed, work_dir):
    """Train a config with one seed and return the metrics of its last validation.

    The result is kept in ``work_dir/seed_N/result.json``, and taken from there if it is there already: an
    interrupted series goes on where it stopped, a training that was cut off from its last checkpoint.

    Args:
        cfg: an MMEngine Config; not changed.
        seed: for ``randomness.seed``.
        work_dir: folder of this config.

    Returns:
        dict of metric to number.
    """
    folder = Path(work_dir) / f'seed_{seed}'
    result = folder / 'result.json'
    if not result.is_file():
        cfg = cfg.copy()
        cfg.update(work_dir=str(folder), experiment_name=f'{Path(work_dir).name}_seed_{seed}')
        cfg.merge_from_dict({'randomness.seed': seed})
        resume_if_possible(cfg)
        runner = Runner.from_cfg(cfg)
        runner.train()
        AtomicLocalBackend().put_text(json.dumps(runner.val()), result)
    return json.loads(result.read_text())


def measure_costs(cfgs, shape=None, rounds=5, batch=32, device='cpu'):
    """Count each config's model, and time its backbone's inference, all by turns in one run.

    Args:
        cfgs: dict of name to an MMEngine Config.
        shape: (height, width) of the images, or one number for both; by default the config's ``image_size`` where it
            has one, otherwise the paper's for the task.
        rounds: passes that are timed, of which the median counts; 0 times nothing.
        batch: images a pass.
        device: where to time.

    Returns:
        dict of name to dict: ``params`` and ``flops`` of the whole model, ``flops_without_scan``, and with rounds
        ``img/s`` of the backbone.
    """
    costs, passes = {}, {}
    for name, cfg in cfgs.items():
        own = cfg.get('image_size')
        counted, size = config_complexity(cfg, shape or ((own,) if isinstance(own, int) else own))
        costs[name] = {key: counted[key] for key in ('params', 'flops', 'flops_without_scan')}
        if rounds:
            init_default_scope(cfg.default_scope)
            backbone = MODELS.build(cfg.model.backbone).to(device).eval()
            images = torch.randn(batch, 3, *size, device=device)
            passes[name] = lambda backbone=backbone, images=images: backbone(images)
    with torch.inference_mode():
        for name, seconds in alternate(passes, rounds, device).items():
            costs[name]['img/s'] = batch / seconds
    return costs


def summarise(results, costs=None):
    """Mean and spread of each config, and what it costs.

    Args:
        results: dict of config name to a list of metrics, one dict a seed.
        costs: as :func:`measure_costs` returns, or None.

    Returns:
        One dict a config: ``config``, ``seeds``; for each metric its mean, its standard deviation over seeds (n - 1,
        None for a single seed) under ``metric std``, its values under ``metric each``, and under ``metric gain`` and
        ``metric gain std`` mean and deviation of its difference to the first config with the same seed; then the costs.
    """
    rows = []
    first = next(iter(results.values()))
    for name, runs in results.items():
        row = {'config': name, 'seeds': len(runs)}
        for metric in metrics_of(results):
            values = [run[metric] for run in runs]
            gains = [run[metric] - other[metric] for run, other in zip(runs, first, strict=False)]
            for key, numbers in ((metric, values), (f'{metric} gain', gains)):
                row[key] = statistics.mean(numbers)
                row[f'{key} std'] = statistics.stdev(numbers) if len(numbers) > 1 else None
            row[f'{metric} each'] = values
        rows.append(row | (costs or {}).get(name, {}))
    return rows


def metrics_of(results):
    """Names of all metrics, sorted."""
    return sorted({metric for runs in results.values() for run in runs for metric in run})


def f_ratio(results, metric):
    """Whether configs differ more than chance, seed by seed: analysis of variance in randomised blocks.

    A seed draws the order of the data and the first weights for all configs alike, so what it does to all of them
    is not noise between them and is taken out.

    Args:
        results: as for :func:`summarise`; only the seeds that every config has count.
        metric: name of the metric.

    Returns:
        F, the variance between configs over that of what neither config nor seed explains, and the probability of so
        large an F if all configs were the same; (None, None) with less than two configs or seeds, or no such variance.
    """
    # imported here: only this needs SciPy
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


def write_table(folder, results, costs=None):
    """Write ``table.md``, ``table.csv`` and ``table.png`` into a folder.

    Args:
        folder: exists afterwards.
        results, costs: as for :func:`summarise`.

    Returns:
        The text of ``table.md``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows, metrics = summarise(results, costs), metrics_of(results)
    text = markdown(rows, metrics)
    for metric in metrics:
        ratio, probability = f_ratio(results, metric)
        if ratio is not None:
            text += f'\n\n{metric}: variance between configs over what neither config nor seed explains, '
            text += f'F = {ratio:.2f}, p = {probability:.2g}.'
    (folder / 'table.md').write_text(text + '\n')
    with (folder / 'table.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: ' '.join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()})
    plot(folder / 'table.png', results, metrics)
    return text


def markdown(rows, metrics):
    """Rows of :func:`summarise` as a Markdown table: scores as mean ± deviation (each seed), then gain ± deviation."""
    costs = {'params': 'params', 'flops_without_scan': 'FLOPs', 'flops': 'with the scan', 'img/s': 'img/s'}
    costs = {key: title for key, title in costs.items() if any(key in row for row in rows)}
    scores = [title for metric in metrics for title in (metric, f'to {rows[0]["config"]}')]
    header = ['config', 'seeds', *scores, *costs.values()]
    lines = [header]
    for row in rows:
        cells = [row['config'], row['seeds']]
        for metric in metrics:
            spread, gain_spread = (
                '-' if row[f'{key} std'] is None else f'{row[f"{key} std"]:.1f}' for key in (metric, f'{metric} gain')
            )
            each = ', '.join(f'{value:.1f}' for value in row[f'{metric} each'])
            cells.append(f'{row[metric]:.1f} ± {spread} ({each})')
            cells.append('' if row is rows[0] else f'{row[f"{metric} gain"]:+.1f} ± {gain_spread}')
        for key in costs:
            # counts of 1e6 and more in M, all else as whole numbers: a table of one network in many variants
            cells.append('-' if key not in row else _number(row[key]))
        lines.append(cells)
    return markdown_table(lines)


def _number(value):
    for scale, unit in ((1e9, ' G'), (1e6, ' M')):
        if value >= scale:
            return f'{value / scale:.3f}{unit}'
    return f'{value:,.0f}'


def plot(path, results, metrics):
    """Draw every run as a dot and every config's mean as a bar, one panel a metric."""
    # imported here: nothing else needs a drawing library
    from matplotlib.figure import Figure

    names = list(results)
    figure = Figure(figsize=(6 * len(metrics), 1 + 0.28 * len(names)), layout='constrained')
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for y, name in enumerate(names):
            values = [run[metric] for run in results[name]]
            axes.plot(values, [y] * len(values), 'o', color='tab:blue', alpha=0.5, markersize=4)
            axes.plot(statistics.mean(values), y, '|', color='black', markersize=12)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis='x', alpha=0.3)
        axes.set_xlabel(f'{metric}: each seed, and the mean')
    figure.savefig(path, dpi=120)
