"""Effective receptive fields, before and after training."""

from ..analysis.receptive_field import field_area
from .canvas import add_bar, image_panels, relative, show, styled

COLOURS = 'magma'
#: Range of the colours: this many powers of ten below the maximum.
DECADES = 4


@styled
def draw_receptive_fields(fields):
    """Draw effective receptive fields side by side.

    Args:
        fields: dict of title to a result of :func:`~mmdefmamba.analysis.effective_receptive_field`.

    Returns:
        A matplotlib Figure with one panel per field: the logarithm of the field, relative to its own maximum. The title
        gives the share of the pixels that contain 50 % and 90 % of the field.
    """
    figure, axes = image_panels(next(iter(fields.values())), 1, len(fields), lines=3, bar=True)
    for axis, (name, field) in zip(axes[0], fields.items(), strict=True):
        decades = relative(field).clamp(min=10**-DECADES).log10().numpy()
        half, most = (field_area(field, share) for share in (0.5, 0.9))
        title = f'{name}\n50 % within {half:.1%},\n90 % within {most:.1%} of the pixels'
        shown = show(axis, decades, title, cmap=COLOURS, vmin=-DECADES, vmax=0)
    bar = add_bar(figure, shown, axes[0], shrink=0.8, pad=0.02, aspect=25)
    bar.set_ticks(range(-DECADES, 1), labels=[f'$10^{{{i}}}$' for i in range(-DECADES, 0)] + ['most'])
    return figure
