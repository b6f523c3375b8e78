"""The page of a check of data, for ``tools/check_data.py``: counts, names, notes, problems, and drawn samples."""

from pathlib import Path

import cv2

from ..guards.label_values import map_loader, read_labels
from ..guards.loading import active_guards
from ..visualization.data_samples import build_visualizer, draw_truth
from .case_images import data_uri, load_image, shrink
from .data_check import spread
from .data_text import count_table, facts, name_table
from .html_file import environment_facts, page_facts, write_page
from .metric import Case, Gallery

FILE = 'data.html'
_ERRORS = (cv2.error, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def write_data_page(check, cfg, folder, samples=6):
    """Write the page of a check.

    Args:
        check: a :class:`~mmdefmamba.report.data_check.DataCheck`.
        cfg: the Config.
        folder: folder of ``data.html``.
        samples: number of drawn images per dataset.

    Returns:
        The path of the page.
    """
    with active_guards():
        galleries = [gallery(part, check.task, samples) for part in check.parts]
    short, whole = environment_facts()
    path = Path(folder, FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        'data.html.jinja',
        path,
        title=Path(check.config).stem,
        headlines=[('problems', str(len(check.problems)))],
        facts=page_facts(cfg.filename),
        in_data=check.problems,
        problems=[],
        parts_of_data=[(part.split, part.name, facts(part), part.notes) for part in check.parts],
        names=name_table(check),
        counts=count_table(check),
        galleries=galleries,
        least='9rem' if check.task == 'classification' else '18rem',
        speed=[],
        environment=short,
        whole_environment=whole,
        config=cfg.pretty_text,
    )
    return path


def gallery(part, task, samples):
    """Return the drawn samples of a :class:`~mmdefmamba.report.data_check.PartSummary`.

    An image that cannot be drawn has the error in the place of its picture.
    """
    draw = {'classification': _with_label, 'detection': _with_objects, 'segmentation': _with_map}[task](part)
    cases = []
    for index in spread(len(part.dataset), samples):
        info = part.dataset.get_data_info(index)
        name = str(info.get('img_path', f'image {index}')).rpartition('/')[2]
        try:
            text, picture, legend = draw(index, info)
            cases.append(Case(name, text, [('labels', data_uri(shrink(picture)))], legend))
        except _ERRORS as error:
            cases.append(Case(name, f'cannot be drawn: {error}', []))
    note = f'{len(cases)} of {len(part.dataset)} images, spread over the dataset, as they are in the files.'
    return Gallery(f'{part.split}: {part.name}', note, cases)


def _with_label(part):
    def draw(index, info):
        labels = info.get('gt_label', ())
        labels = list(labels) if hasattr(labels, '__iter__') else [labels]
        named = [f'{label} {part.classes[label]}' if 0 <= label < len(part.classes) else str(label) for label in labels]
        return ', '.join(named) or 'no label', load_image(part.dataset, info), ()

    return draw


def _with_objects(part):
    # imported here: they need mmdet
    from .detection_cases import truth_of

    visualizer = build_visualizer('mmdet.DetLocalVisualizer', 'data', part.dataset.metainfo)

    def draw(index, info):
        image, sample = truth_of(load_image(part.dataset, info), info)
        return f'objects: {len(info["instances"])}', draw_truth(visualizer, image, sample), ()

    return draw


def _with_map(part):
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    visualizer = build_visualizer('mmseg.SegLocalVisualizer', 'data', part.dataset.metainfo, alpha=0.6)
    palette, loader = part.dataset.metainfo.get('palette') or [], map_loader(part.dataset)

    def draw(index, info):
        labels = None if loader is None else read_labels(part.dataset, index, loader)
        if labels is None:
            return 'no label map', load_image(part.dataset, info), ()
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(labels.astype('int64'))[None]))
        found = [label for label in sorted(set(labels.ravel().tolist())) if label < len(part.classes)]
        legend = [(f'rgb{tuple(palette[label])}', part.classes[label]) for label in found if label < len(palette)]
        picture = draw_truth(visualizer, load_image(part.dataset, info), sample, with_labels=False)
        return f'classes: {len(found)}', picture, legend

    return draw
