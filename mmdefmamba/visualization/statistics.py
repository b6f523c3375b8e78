"""The statistics of the deformable scans: how far points move and tokens change places, by stage."""

import numpy as np
from matplotlib.colors import PowerNorm

from ..analysis.offsets import OFFSET_LIMIT
from .canvas import PANEL, panels, styled

COLOURS = 'viridis'
#: One line style per block of a stage, so that the lines can be distinguished without colours.
STYLES = ('-', '--', ':', '-.')


@styled
def draw_offset_statistics(statistics):
    """Draw the offsets of each stage.

    Args:
        statistics: the result of :func:`~mmdefmamba.analysis.offset_statistics`.

    Returns:
        A matplotlib Figure with one column per stage. Above: the share of the tokens by point offset. Below: the shift
        of the tokens in the order, with one line per block.
    """
    stages = sorted({block.stage for block in statistics})
    figure, axes = panels(2, len(stages), 1.1 * PANEL, PANEL)
    for column, stage in enumerate(stages):
        blocks = [block for block in statistics if block.stage == stage]
        _draw_points(axes[0, column], blocks, stage)
        _draw_shifts(axes[1, column], blocks)
    axes[0, 0].set_ylabel('down, tokens')
    axes[1, 0].set_ylabel('share of tokens')
    return figure


def _draw_points(axis, blocks, stage):
    blocks = [block for block in blocks if block.offset_counts is not None]
    axis.set_title(f'stages.{stage}')
    if not blocks:
        axis.text(0.5, 0.5, 'learns no points', ha='center', va='center', transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    share = sum(block.offset_counts for block in blocks).double()
    share /= share.sum()
    limits = (-OFFSET_LIMIT, OFFSET_LIMIT)
    axis.imshow(share.numpy(), extent=(*limits, *limits[::-1]), cmap=COLOURS, norm=PowerNorm(0.5))
    axis.axhline(0, color='white', linewidth=0.5, alpha=0.6)
    axis.axvline(0, color='white', linewidth=0.5, alpha=0.6)
    tokens = sum(block.tokens for block in blocks)
    length = sum(block.offset_length * block.tokens for block in blocks) / tokens
    axis.set_title(f'stages.{stage}\n{length:.2f} tokens on average')
    axis.set(xticks=[*limits, 0], yticks=[*limits, 0])
    axis.set_xlabel('right, tokens')


def _draw_shifts(axis, blocks):
    # a legend of many blocks would cover the panel: it names the first and the last
    named = (blocks[0], blocks[-1])
    for i, block in enumerate(blocks):
        # a small map has few different shifts, so that many fine bins would be empty
        counts = block.shift_counts.view(-1, 3).sum(1).numpy()
        edges = np.linspace(-1, 1, len(counts) + 1)
        label = f'block {block.block}: {block.shift:.1%}' if block in named else None
        axis.stairs(counts / counts.sum(), edges, label=label, linestyle=STYLES[i % len(STYLES)], linewidth=1.3)
    # the upper limit leaves room for the legend
    axis.set(xlim=(-1, 1), yscale='log', ylim=(1e-4, 1e4), yticks=[1e-4, 1e-2, 1])
    axis.set_xlabel('rank shift, of the whole way')
    axis.grid()
    axis.legend(loc='upper right', title='mean shift')
