"""The tables and figures of docs/fidelity.md, made from the measurements of :mod:`.formulations`."""

import torch

from ..analysis.complexity import complexity
from ..converters import convert_released, infer_network
from ..models import ARCHITECTURES, DefMamba
from ..ops.sequence_scan import BACKENDS, unavailable_reason
from ..visualization.formulation_figures import draw_distances, draw_reads
from .formulations import SWITCHES, distances, lost_at_border, moved_tokens, parity, read_entries

FORMULATIONS = ('paper', 'released')
PLOT_DPI = 90

MAP_SIZES = (56, 28, 14, 7)  # of the four stages at 224 x 224
NUM_CLASSES = 1000


def parity_table(file, record, device='cpu'):
    """Return rows of backend, dtype and the largest relative differences from the record.

    There is one row for each dtype of each backend that can run here. The last rows have one of ``SWITCHES`` on; the
    record was computed without them.

    Args:
        file, record: paths of a released checkpoint and of its record, see :func:`.formulations.parity`.
        device: device of the computation.
    """
    checkpoint, record = (torch.load(path, weights_only=True) for path in (file, record))
    rows = [('backend', 'dtype', 'logits', 'four maps', 'gradient of the image', 'gradients of the parameters')]
    # on a CPU Triton runs in an interpreter, which is meant for single kernels and not for a whole network
    for backend in sorted(BACKENDS if device != 'cpu' else set(BACKENDS) - {'triton'}):
        for dtype in (torch.float64, torch.float32):
            if unavailable_reason(backend, torch.empty(1, dtype=dtype, device=device)):
                continue
            errors = parity(checkpoint, record, backend, device, dtype)
            rows.append((backend, str(dtype).removeprefix('torch.'), *_worst(errors)))
    for name in SWITCHES:
        errors = parity(checkpoint, record, device=device, switches=(name,))
        rows.append((f'switched on: {name}', 'float64', *_worst(errors)))
    return rows


def _worst(errors):
    image, logits = errors.pop('grad.input'), errors.pop('logits')
    maps = max(error for name, error in errors.items() if name.startswith('feat'))
    gradients = max(error for name, error in errors.items() if name.startswith('grad.'))
    return _numbers(logits, maps, image, gradients)


def measured_distances(file):
    """Measure :func:`.formulations.distances` on noise, in float64, of a released checkpoint and of a new tiny network.

    Args:
        file: path of a released checkpoint.

    Returns:
        dict of name to distances: the network of the checkpoint at 64 x 96 and at 224 x 224, 'tiny' at 224 x 224.
    """
    recorded = _recorded_network(file)
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


def _recorded_network(file):
    weights = convert_released(torch.load(file, weights_only=True))
    network = DefMamba(infer_network(weights).arch, formulation='released')
    weights = {name.removeprefix('backbone.'): weight for name, weight in weights.items() if 'head.' not in name}
    network.load_state_dict(weights, strict=False)  # the checkpoint has the last of the four output norms only
    return network.double().eval()


def key_table(file):
    """Return rows of block, tokens, and how many of them float16 sort keys move, on noise of 224 x 224.

    Args:
        file: path of a released checkpoint.
    """
    torch.manual_seed(0)
    moved = moved_tokens(_recorded_network(file), torch.randn(2, 3, 224, 224, dtype=torch.float64))
    rows = [('block', 'tokens', 'tokens with another rank', 'places, at most')]
    return rows + [(f'{i}', f'{n}', f'{share:.1%}', f'{places}') for i, (n, share, places) in enumerate(moved, 1)]


def distance_tables(measured):
    """Yield one table per measured network: its name, and rows of a point of difference and its distance by stage."""
    for name, moved in measured.items():
        yield name, [('point', *(f'stage {i}' for i in range(1, 5))), *((p, *_numbers(*d)) for p, d in moved.items())]


def border_table():
    """Return rows of map size, formulation, the tokens that partly read outside the map, and the share lost there."""
    rows = [
        ('map', 'formulation', 'no offset: tokens', 'lost of all that is read', 'any offset: tokens', 'lost at most')
    ]
    for size in MAP_SIZES:
        for formulation in FORMULATIONS:
            cells = []
            for lost in lost_at_border(size, formulation):
                tokens = int((lost > 1e-6).sum())
                cells += [f'{tokens} of {size * size} ({tokens / size**2:.1%})', f'{lost.mean().item():.1%}']
            rows.append((f'{size} x {size}', formulation, *cells))
    return rows


def bias_table(num_images=2):
    """Return rows on the offset bias table of each stage, for both formulations.

    They give the size of the table, the entries that some offset makes it read, and the share of entries with a
    gradient after one backward pass of a new tiny network on noise.
    """
    rows = [('map', 'formulation', 'table', 'entries ever read', 'rows and columns', 'with a gradient')]
    tables = {}
    for formulation in FORMULATIONS:
        torch.manual_seed(0)
        model = DefMamba('tiny', formulation=formulation)
        sum((out**2).sum() for out in model(torch.randn(num_images, 3, 224, 224))).backward()
        tables[formulation] = [stage[0].dssm.scans[2].offset_bias.table.grad for stage in model.stages]
    for stage, size in enumerate(MAP_SIZES):
        for formulation in FORMULATIONS:
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
    """Return rows of arch, formulation, parameters and FLOPs of a 1000-class classifier at 224 x 224."""
    rows = [('arch', 'formulation', 'parameters', 'FLOPs without the scan', 'FLOPs with the scan')]
    for arch in ARCHITECTURES:
        for formulation in FORMULATIONS:
            model = DefMamba(arch, formulation=formulation, out_indices=-1)
            head = torch.nn.Linear(model.embed_dims[-1], NUM_CLASSES)
            classifier = torch.nn.ModuleDict({'backbone': model, 'head': head})
            # the defaults bind the model and the head of this iteration
            counts = complexity(classifier, (3, 224, 224), lambda x, m=model, h=head: h(m(x)[-1].mean((2, 3))))
            giga = (f'{counts[name] / 1e9:.2f} G' for name in ('flops_without_scan', 'flops'))
            rows.append((arch, formulation, f'{counts["params"]:,}', *giga))
    return rows


def reads_figure():
    """Return a figure of what a token reads at the border and of the entries of the bias table that are read."""
    inside = {formulation: 1 - lost_at_border(7, formulation)[0] for formulation in FORMULATIONS}
    entries = {formulation: read_entries(14, 2, formulation) for formulation in FORMULATIONS}
    return draw_reads(inside, entries, (14, 14))


def plot_reads(path):
    """Write :func:`reads_figure` as PNG."""
    reads_figure().savefig(path, dpi=PLOT_DPI)


def plot_distances(measured, path):
    """Write a figure of the distances of each measured network, by point and stage, as PNG."""
    draw_distances(measured).savefig(path, dpi=PLOT_DPI)


def _numbers(*values):
    return tuple('0' if value == 0 else f'{value:.1e}' for value in values)
