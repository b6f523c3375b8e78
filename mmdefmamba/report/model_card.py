"""A model card in the format of Hugging Face: what a config, a checkpoint and its publisher say, and nothing else."""

from collections.abc import Mapping
from pathlib import Path

import jinja2

from ..analysis import config_complexity, flops_text
from ..apis.zoo import load_config, model_metadata, task_of
from ..checkpoints.contents import check_contents
from ..compat import load_safely
from ..config_tree import innermost_dataset
from ..files import sha256_of, shown
from .html_file import shown_value

HERE = Path(__file__).parent
UNKNOWN = 'unknown'
PIPELINES = {
    'classification': 'image-classification',
    'detection': 'object-detection',
    'segmentation': 'image-segmentation',
}


def model_card(config, file=None, *, checkpoint=None, data=None, metrics=None, licence=None, shape=None):
    """Fill in the template of a model card. What is not known is said to be unknown.

    Args:
        config: a name, a path or a Config, as for :func:`mmdefmamba.get_model`.
        file: path of the published file, a checkpoint or an exported model; its name, size and SHA-256 are in the card.
        checkpoint: path of the checkpoint that ``file`` was made from, for epoch, classes and origin; None takes
            ``file`` where that is a checkpoint.
        data: names of the data sets that the weights were trained on, such as ``['imagenet-1k']``.
        metrics: results by name, such as ``{'accuracy/top1': 80.1}``.
        licence: Hugging Face's name of a licence, such as ``'apache-2.0'``.
        shape: (height, width) of the image for the FLOPs; by default the paper's size for the task.

    Returns:
        The card, text in Markdown with a YAML header.

    Raises:
        ValueError, FileNotFoundError: the config is unknown, or as :func:`~mmdefmamba.analysis.config_complexity`.
        ValueError: ``licence`` is given for weights that come from the authors' file, which has no licence.
    """
    cfg = load_config(config)
    task = task_of(cfg)
    name = shown(Path(cfg.filename).stem) if cfg.filename else cfg.model.type
    if checkpoint is None and file is not None and Path(file).suffix in ('.pth', '.safetensors'):
        checkpoint = file
    loaded = check_contents(load_safely(str(checkpoint), 'cpu'), checkpoint) if checkpoint else {}
    meta = loaded.get('meta') if isinstance(loaded, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    origin = meta.get('source')
    if origin and licence:
        raise ValueError(
            f"licence={licence!r}, but the weights are those of the authors' file {shown(origin)}, for which no "
            'licence is given. Leave licence out'
        )
    counts, counted = config_complexity(cfg, shape)
    trained_on = innermost_dataset((cfg.get('train_dataloader') or {}).get('dataset') or {})
    classes = (meta.get('dataset_meta') or {}).get('classes') or ()
    size = ' x '.join(map(str, counted))
    rows = [
        ('parameters', f'{counts["params"]:,}'),
        (f'FLOPs at {size}, without the scan', flops_text(counts['flops_without_scan'])),
        (f'FLOPs at {size}, with the scan', flops_text(counts['flops'])),
        ('training data', ', '.join(map(shown, data or ())) or UNKNOWN),
        ('data set of the config', _type_of(trained_on)),
        ('config', name),
        ('exports to ONNX and torch.export', model_metadata(name).get('Export', UNKNOWN)),
        ('epochs', meta.get('epoch', UNKNOWN)),
        ('classes', len(classes) or UNKNOWN),
        ('file', shown(Path(file).name) if file else UNKNOWN),
        ('SHA-256', sha256_of(file) if file else UNKNOWN),
    ]
    if origin:
        rows.append(("the authors' file", f'{shown(origin)}, SHA-256 {meta.get("source_sha256", UNKNOWN)}'))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        finalize=shown_value,
    )
    return environment.get_template('model_card.md.jinja').render(
        name=name,
        library='mmdefmamba',
        licence=licence,
        licence_text=_licence_text(licence, origin),
        pipeline_tag=PIPELINES.get(task),
        task=task,
        formulation=cfg.model.get('backbone', {}).get('formulation', 'paper'),
        datasets=[shown(name) for name in data or ()],
        metrics={shown(name): value for name, value in (metrics or {}).items()},
        rows=[(key, str(value).replace('|', r'\|')) for key, value in rows],
        load=_how_to_load(name, file),
    )


def _how_to_load(name, file):
    if file is not None and Path(file).suffix not in ('.pth', '.safetensors'):
        return f'# an exported file: see the how-to page on exported files\nfile = {Path(file).name!r}'
    file = Path(file).name if file else 'FILE'
    return f'import mmdefmamba\n\nmodel = mmdefmamba.get_model({name!r}, {file!r})'


def _type_of(dataset):
    kind = dataset.get('type') if dataset else None
    return UNKNOWN if kind is None else kind if isinstance(kind, str) else kind.__name__


def _licence_text(licence, origin):
    if origin:
        return (
            "The weights are those of a file of DefMamba's authors. Their repository has no licence file, and no "
            'licence is given for their checkpoints: there is no written permission to pass these weights on.'
        )
    return f'The weights are published under {licence}.' if licence else 'Unknown: the publisher has named none.'
