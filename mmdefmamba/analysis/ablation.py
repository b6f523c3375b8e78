"""Several configs, several seeds each, one table."""

import json
import statistics
from pathlib import Path

from mmengine.runner import Runner


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
        cfg.update(work_dir=str(folder), resume=True, experiment_name=f'{Path(work_dir).name}_seed_{seed}')
        cfg.merge_from_dict({'randomness.seed': seed})
        runner = Runner.from_cfg(cfg)
        runner.train()
        metrics = runner.val()
        partial = result.with_suffix('.tmp')
        partial.write_text(json.dumps(metrics))
        partial.replace(result)
    return json.loads(result.read_text())


def summarise(results):
    """Mean and spread of each config as a Markdown table.

    Args:
        results: dict of config name to a list of metrics, one dict a seed.

    Returns:
        The table; "±" is the standard deviation over seeds (n - 1), "-" with a single seed.
    """
    metrics = sorted({name for runs in results.values() for run in runs for name in run})
    lines = [f'| config | seeds | {" | ".join(metrics)} |', '|---' * (len(metrics) + 2) + '|']
    for name, runs in results.items():
        cells = []
        for metric in metrics:
            values = [run[metric] for run in runs]
            spread = f'{statistics.stdev(values):.2f}' if len(values) > 1 else '-'
            each = ', '.join(f'{value:.2f}' for value in values)
            cells.append(f'{statistics.mean(values):.2f} ± {spread} ({each})')
        lines.append(f'| {name} | {len(runs)} | {" | ".join(cells)} |')
    return '\n'.join(lines)
