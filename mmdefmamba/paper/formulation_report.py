"""The tables and plots of docs/fidelity.md, from the measurements of :mod:`.formulations`."""

import torch

from ..analysis.complexity import complexity
from ..converters import convert_released, infer_network
from ..models import ARCHITECTURES, DefMamba
from ..ops.sequence_scan import BACKENDS, unavailable_reason
from .formulations import POINTS, distances, lost_at_border, parity, read_entries

MAP_SIZES = (56, 28, 14, 7)  # of the four stages at 224 x 224
NUM_CLASSES = 1000


def parity_table(file, record, device='cpu'):
    """Rows of backend, dtype and the largest relative differences from the record, for each backend that can run.

    Args:
        file, record: paths of a released file and of what was recorded from it, see :func:`.formulations.parity`.
        device: where to compute.
    """
    checkpoint, record = (torch.load(path, weights_only=True) for path in (file, record))
    rows = [('backend', 'dtype', 'logits', 'four maps', 'gradient of the image', 'gradients of the parameters')]
    # on a CPU Triton has an interpreter to run a kernel in, not a network
    for backend in sorted(BACKENDS if device != 'cpu' else set(BACKENDS) - {'triton'}):
        for dtype in (torch.float64, torch.float32):
            if unavailable_reason(backend, torch.empty(1, dtype=dtype, device=device)):
                continue
            errors = parity(checkpoint, record, backend, device, dtype)
            image, logits = errors.pop('grad.input'), errors.pop('logits')
            maps = max(error for name, error in errors.items() if name.startswith('feat'))
            gradients = max(error for name, error in errors.items() if name.startswith('grad.'))
            rows.append((backend, str(dtype).removeprefix('torch.'), *_numbers(logits, maps, image, gradients)))
    return rows


def measured_distances(file):
    """:func:`.formulations.distances` of two networks on noise: the one in a released file, and a fresh tiny one.

    Args:
        file: path of a released file.

    Returns:
        name -> distances, float64: the file's network at 64 x 96 and 224 x 224, 'tiny' at 224 x 224.
    """
    weights = convert_released(torch.load(file, weights_only=True))
    recorded = DefMamba(infer_network(weights).arch, formulation='released')
    weights = {name.removeprefix('backbone.'): weight for name, weight in weights.items() if 'head.' not in name}
    recorded.load_state_dict(weights, strict=False)  # the file knows the last of the four output norms alone
    torch.manual_seed(0)
    networks = {
        'recorded, 64 x 96': (recorded, (64, 96)),
        'recorded, 224 x 224': (recorded, (224, 224)),
        'fresh tiny, 224 x 224': (DefMamba('tiny', formulation='released'), (224, 224)),
    }
    return {
        name: distances(model.double().eval(), torch.randn(2, 3, *size, dtype=torch.float64))
        for name, (model, size) in networks.items()
    }


def distance_tables(measured):
    """Rows of a point of difference and its distance at each stage, one table for each measured network."""
    for name, moved in measured.items():
        yield name, [('point', *(f'stage {i}' for i in range(1, 5))), *((p, *_numbers(*d)) for p, d in moved.items())]


def border_table():
    """Rows of map size and, for both formulations, the tokens that partly read zeros and how much is lost in all."""
    rows = [
        ('map', 'formulation', 'no offset: tokens', 'lost of all that is read', 'any offset: tokens', 'lost at most')
    ]
    for size in MAP_SIZES:
        for formulation in ('paper', 'released'):
            cells = []
            for lost in lost_at_border(size, formulation):
                tokens = int((lost > 1e-6).sum())
                cells += [f'{tokens} of {size * size} ({tokens / size**2:.1%})', f'{lost.mean().item():.1%}']
            rows.append((f'{size} x {size}', formulation, *cells))
    return rows


def bias_table(num_images=2):
    """Rows of stage and, for both formulations, the table's size, the entries that any offset can make it read, and
    those with a gradient after one backward pass of a fresh tiny network on noise."""
    rows = [('map', 'formulation', 'table', 'entries ever read', 'rows and columns', 'with a gradient')]
    tables = {}
    for formulation in ('paper', 'released'):
        torch.manual_seed(0)
        model = DefMamba('tiny', formulation=formulation)
        sum((out**2).sum() for out in model(torch.randn(num_images, 3, 224, 224))).backward()
        tables[formulation] = [stage[0].dssm.scans[2].offset_bias.table.grad for stage in model.stages]
    for stage, size in enumerate(MAP_SIZES):
        for formulation in ('paper', 'released'):
            read = read_entries(size, stage, formulation)
            grad = tables[formulation][stage]
            first, last = int(read.nonzero().min()), int(read.nonzero().max())
            rows.append(
                (
                    f'{size} x {size}',
                    formulation,
                    ' x '.join(map(str, read.shape)),
                    f'{int(read.sum())} of {read.numel()} ({read.float().mean().item():.2%})',
                    f'{first}..{last}',
                    f'{(grad != 0).float().mean().item():.2%}',
                )
            )
    return rows


def cost_table():
    """Rows of arch and formulation with the parameters and FLOPs of a 1000-class classifier at 224 x 224."""
    rows = [('arch', 'formulation', 'parameters', 'FLOPs without the scan', 'FLOPs with the scan')]
    for arch in ARCHITECTURES:
        for formulation in ('paper', 'released'):
            model = DefMamba(arch, formulation=formulation, out_indices=-1)
            head = torch.nn.Linear(model.embed_dims[-1], NUM_CLASSES)
            classifier = torch.nn.ModuleDict({'backbone': model, 'head': head})
            # the tables of the loop must not be what the closure sees later
            counts = complexity(classifier, (3, 224, 224), lambda x, m=model, h=head: h(m(x)[-1].mean((2, 3))))
            giga = (f'{counts[name] / 1e9:.2f} G' for name in ('flops_without_scan', 'flops'))
            rows.append((arch, formulation, f'{counts["params"]:,}', *giga))
    return rows


def plot_reads(path):
    """Draw what a token loses at the border and which entries of the bias table are read, to a PNG."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout='constrained')
    for axis, formulation in zip(axes, ('paper', 'released'), strict=False):
        lost = lost_at_border(7, formulation)[0]
        image = axis.imshow((1 - lost).numpy(), vmin=0, vmax=1, cmap='viridis')
        axis.set_title(f'{formulation}: share of a read that\nis inside a 7 x 7 map, no offset', fontsize=9)
    figure.colorbar(image, ax=axes[:2], shrink=0.8)
    for axis, (size, stage, formulation) in zip(axes[2:], ((14, 2, 'paper'), (14, 2, 'released')), strict=True):
        read = read_entries(size, stage, formulation)
        axis.imshow(read.numpy(), vmin=0, vmax=1, cmap='Greys')
        axis.set_title(f'{formulation}: entries of the bias\ntable ever read, 14 x 14 map', fontsize=9)
    for axis in axes:
        axis.set_xticks([0, axis.get_images()[0].get_array().shape[1] - 1])
        axis.set_yticks([0, axis.get_images()[0].get_array().shape[0] - 1])
    figure.savefig(path, dpi=90)
    plt.close(figure)


def plot_distances(measured, path):
    """Draw the distances of each measured network, by point and stage, to a PNG."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(measured), figsize=(11, 3.2), sharey=True, layout='constrained')
    for axis, (name, moved) in zip(axes, measured.items(), strict=True):
        for i, (point, values) in enumerate(moved.items()):
            axis.bar([stage + i / 8 for stage in range(len(values))], values, 1 / 8, label=point)
        axis.set(title=name, yscale='log', xticks=[stage + 0.3 for stage in range(len(values))])
        axis.set_xticklabels([f'stage {stage + 1}' for stage in range(len(values))])
    axes[0].set_ylabel('relative L2 distance')
    figure.legend(*axes[0].get_legend_handles_labels(), ncols=len(POINTS) + 1, fontsize=8, loc='outside lower center')
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _pyplot():
    import matplotlib  # here: a table needs none

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    return plt


def _numbers(*values):
    return tuple('0' if value == 0 else f'{value:.1e}' for value in values)
