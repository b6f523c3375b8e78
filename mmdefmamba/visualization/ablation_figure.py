"""The figure of an ablation: the score of each run, and the mean of each config."""

from statistics import mean

from .canvas import SECOND, panels, styled


@styled
def draw_runs(results, metrics):
    """Draw one panel per metric, with one row per config: a dot for each run and a bar at the mean.

    Args:
        results: dict of config name to a list with one dict of metrics per run.
        metrics: names of the metrics.

    Returns:
        A matplotlib Figure.
    """
    names = list(results)
    figure, axes = panels(1, len(metrics), 6, 1 + 0.28 * len(names))
    for axis, metric in zip(axes[0], metrics, strict=True):
        for y, name in enumerate(names):
            values = [run[metric] for run in results[name]]
            axis.plot(values, [y] * len(values), 'o', color=SECOND, alpha=0.5, markersize=4)
            axis.plot(mean(values), y, '|', color='black', markersize=12)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)  # the first config on top; half a row of room at both ends
        axis.grid(axis='x')
        axis.set_xlabel(f'{metric}: each seed, and the mean')
    return figure
