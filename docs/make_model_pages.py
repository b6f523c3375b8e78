"""Write configs/*/README.md, the cards of the model zoo, from the metafiles and the tables of the paper.

python docs/make_model_pages.py
"""

from collections import defaultdict
from pathlib import Path

import yaml

from mmdefmamba.analysis import flops_text
from mmdefmamba.analysis.markdown import markdown_table
from mmdefmamba.paper.tables import PAPER

ROOT = Path(__file__).resolve().parents[1]
#: The size of the image, in pixels, for which FLOPs are counted where a metafile gives no other: that of the paper.
SIZES = {'classification': '224 x 224', 'detection': '1280 x 800', 'segmentation': '512 x 2048'}
METHODS = {
    'mask_rcnn': 'Mask R-CNN',
    'cascade_mask_rcnn': 'Cascade Mask R-CNN',
    'retinanet': 'RetinaNet',
    'atss': 'ATSS',
    'sparse_rcnn': 'Sparse R-CNN',
    'rtmdet': 'RTMDet-s',
    'dino': 'DINO',
    'mask2former': 'Mask2Former',
    'upernet': 'UperNet',
    'deeplabv3plus': 'DeepLabV3+',
    'fpn': 'Semantic FPN',
    'ocrnet': 'OCRNet',
    'segformer': 'SegFormer',
    'mocov3': 'MoCo v3, pretraining',
    'simmim': 'SimMIM, pretraining',
}
HEADER = ('config', 'parameters', 'paper', 'FLOPs', 'paper', 'scores: paper', 'scores: measured')
OF_PAPER = {2: 'parameters', 4: 'FLOPs', 5: 'scores'}  # the columns of HEADER with what the paper prints
UNKNOWN, NOT_PRINTED = 'unknown', '-'
TEXT = """<!-- docs/make_model_pages.py writes this page from metafile.yml: change that file. -->

# Models: {task}

A card for each family of configs: what was measured with this code, what the paper prints, and what is not known.
The paper prints nothing where a cell has `-`, or where a table has no column for it. Parameters are those of the whole
model. FLOPs are multiply-adds without the selective scan, for an image of {size} as in the paper, or of the size
beside them. `python tools/analysis_tools/get_flops.py CONFIG` counts those of any config, with and without the scan. A
config whose name ends in `_released` follows the authors' code, with which the paper's scores were computed. The others
follow the paper's text: [fidelity](../../docs/fidelity.md). What a model exports to:
[export](../../docs/howto/export.md). There are no checkpoints yet.{more}
"""
#: What only the page of a task says.
MORE = {'detection': "\n`python tools/analysis_tools/paper_tables.py` also prints the paper's AP50 and AP75."}
CARD = """
## {title}

{table}

- **Measured**: {measured}
- **The paper's**: {paper}
- **Exports**: {exports}
- **Not known**: {unknown}
"""


def main():
    for task in SIZES:
        path = ROOT / 'configs' / task / 'README.md'
        path.write_text(page(task), 'utf-8')
        print(path)


def page(task):
    """Return the page of a task: 'classification', 'detection' or 'segmentation'."""
    families = defaultdict(list)
    for entry in yaml.safe_load((ROOT / 'configs' / task / 'metafile.yml').read_text('utf-8'))['Models']:
        families[family(entry)].append(entry)
    return TEXT.format(task=task, size=SIZES[task], more=MORE.get(task, '')) + ''.join(
        card(title, entries) for title, entries in families.items()
    )


def family(entry):
    """Return the title of the family that a model belongs to: its method and its data."""
    method = entry['Name'].partition('defmamba')[0].strip('_')
    return f'{METHODS[method] if method else "DefMamba"} on {entry["Metadata"]["Training Data"]}'


def card(title, entries):
    """Return the card of a family."""
    paper = {row.config: row for row in PAPER if row.table in ('1', '2', '3', 'B2', 'C3')}
    printed = dict.fromkeys(paper[entry['Config']].table for entry in entries if entry['Config'] in paper)
    measured = [f'`{entry["Name"]}`: {entry["Metadata"]["Measured"]}' for entry in entries if 'Results' in entry]
    untrained = sum('Results' not in entry for entry in entries)
    uncounted = sum('FLOPs' not in entry['Metadata'] for entry in entries)
    data = entries[0]['Metadata']['Training Data']
    unknown = ['the speed on a GPU']
    if uncounted:
        unknown.insert(0, f'the FLOPs of {some(uncounted, len(entries))}, which were not counted')
    if untrained:
        unknown.insert(0, f'the scores of {some(untrained, len(entries))}: no result on {data} is recorded yet')
    rows = [HEADER, *(model_row(entry, paper.get(entry['Config'])) for entry in entries)]
    empty = {column for column in OF_PAPER if all(row[column] == NOT_PRINTED for row in rows[1:])}
    kinds = ', '.join(kind for column, kind in OF_PAPER.items() if column not in empty)
    exports = defaultdict(list)
    for entry in entries:
        exports[entry['Metadata']['Export']].append(f'`{entry["Name"]}`')
    return CARD.format(
        title=title,
        table=markdown_table([[cell for i, cell in enumerate(row) if i not in empty] for row in rows]),
        measured='. '.join(['the parameters and the FLOPs in the table', *measured]) + '.',
        paper=f'{kinds} (table {" and ".join(printed)}) and the recipe.' if printed else 'no row for these configs.',
        exports='; '.join(
            what if len(exports) == 1 else f'{what} ({", ".join(names)})' for what, names in exports.items()
        )
        + '.',
        unknown='; '.join(unknown) + '.',
    )


def some(number, whole):
    """Return how many of the configs of a card are meant, as text."""
    return 'all configs' if number == whole > 1 else 'the config' if whole == 1 else f'{number} of {whole} configs'


def model_row(entry, row):
    """Return the row of a model.

    Args:
        entry: the model in the metafile.
        row: its :class:`~mmdefmamba.paper.tables.Row` of the paper, or None.
    """
    metadata = entry['Metadata']
    printed = {name: score for name, score in (row.scores if row else {}).items() if name[-2:] not in ('50', '75')}
    measured = {name: value for result in entry.get('Results', ()) for name, value in result['Metrics'].items()}
    return (
        f'[{entry["Name"]}]({Path(entry["Config"]).name})',
        f'{metadata["Parameters"] / 1e6:.2f} M',
        (row and row.params) or NOT_PRINTED,
        counted(metadata) if 'FLOPs' in metadata else UNKNOWN,
        row.flops if row else NOT_PRINTED,
        listed(printed) or NOT_PRINTED,
        listed(measured) or UNKNOWN,
    )


def counted(metadata):
    """Return the FLOPs of a model as text, with the size of the image where it is not the paper's."""
    text, size = flops_text(metadata['FLOPs']), metadata.get('FLOPs at')
    return f'{text} at {size}' if size else text


def listed(scores):
    """Return scores, a dict, as text."""
    return ', '.join(f'{name} {value}' for name, value in scores.items())


if __name__ == '__main__':
    main()
