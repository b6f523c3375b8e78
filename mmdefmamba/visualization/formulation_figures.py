"""The figures of docs/fidelity.md: how the paper's formulation and the released one differ."""

from .canvas import add_bar, panels, styled


@styled
def draw_reads(inside, entries, map_size):
    """Draw what each formulation reads: of the map, and of the table of the offset bias.

    Args:
        inside: dict of formulation to a map (H, W), the share of each token's read that lies inside the map.
        entries: dict of formulation to a boolean mask over the table, the entries that some offset makes it read.
        map_size: (H, W) of the map that reads the table.

    Returns:
        A matplotlib Figure.
    """
    count = len(inside)
    figure, axes = panels(1, count + len(entries), 11 / (count + len(entries)), 3)
    for axis, (formulation, share) in zip(axes[0, :count], inside.items(), strict=True):
        image = axis.imshow(share.numpy(), vmin=0, vmax=1, cmap='viridis')
        height, width = share.shape
        axis.set_title(f'{formulation}: share of a read that\nis inside a {height} x {width} map, no offset')
    add_bar(figure, image, axes[0, :count], shrink=0.8)
    for axis, (formulation, read) in zip(axes[0, count:], entries.items(), strict=True):
        axis.imshow(read.numpy(), vmin=0, vmax=1, cmap='Greys')
        axis.set_title(f'{formulation}: entries of the bias\ntable ever read, {map_size[0]} x {map_size[1]} map')
    for axis in axes[0]:
        rows, columns = axis.get_images()[0].get_array().shape
        axis.set(xticks=[0, columns - 1], yticks=[0, rows - 1])
    return figure


@styled
def draw_distances(measured):
    """Draw how far each point of difference moves the outputs of a network: one panel per network, by stage.

    Args:
        measured: dict of network to a dict of point to a list with one distance per stage.

    Returns:
        A matplotlib Figure.
    """
    figure, axes = panels(1, len(measured), 11 / len(measured), 3.4, sharey=True)
    for axis, (name, moved) in zip(axes[0], measured.items(), strict=True):
        width = 1 / (len(moved) + 2)
        for i, (point, values) in enumerate(moved.items()):
            axis.bar([stage + i * width for stage in range(len(values))], values, width, label=point)
        axis.set(title=name, yscale='log', xticks=[stage + 0.4 for stage in range(len(values))])
        axis.set_xticklabels([f'stage {stage + 1}' for stage in range(len(values))])
    axes[0, 0].set_ylabel('relative L2 distance')
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=min(len(labels), 5), loc='outside lower center')
    return figure
