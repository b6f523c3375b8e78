"""Draw the pictures of the documentation and the README, from the checkpoints of the three quickstarts and from tables.

make quickstart quickstart-detection quickstart-segmentation
python docs/make_figures.py
"""

import argparse
import re
import tempfile
from pathlib import Path

import cv2
import torch
from PIL import Image

from mmdefmamba.analysis import effective_receptive_field, offset_statistics
from mmdefmamba.apis import get_model
from mmdefmamba.datasets.digit_scenes import DigitScenes
from mmdefmamba.datasets.digits import load_digits_split
from mmdefmamba.models import DefMamba
from mmdefmamba.paper.formulation_report import reads_figure
from mmdefmamba.quickstart.classification import draw_predictions
from mmdefmamba.visualization import (
    draw_activation_map,
    draw_architecture,
    draw_offset_statistics,
    draw_points,
    draw_receptive_fields,
    draw_scan_order,
    draw_static_scans,
    figure_to_rgb,
)
from mmdefmamba.visualization.ablation_figure import draw_runs
from mmdefmamba.visualization.canvas import DPI
from mmdefmamba.visualization.formulation_figures import draw_distances
from mmdefmamba.visualization.inputs import dataset_images, load_images, network_inputs, test_dataloader
from mmdefmamba.visualization.scan_figures import limitation_figure, trace_image

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    'classification': 'defmamba_pico_digits',
    'detection': 'mask_rcnn_defmamba_pico_digits',
    'segmentation': 'upernet_defmamba_pico_digits',
}
DIGIT, SCENE = 11, 3  # index of the test digit and of the validation scene


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for task in CONFIGS:
        parser.add_argument(f'--{task}', metavar='CHECKPOINT', help='default: the last one of the quickstart')
    parser.add_argument('--out-dir', type=Path, default=ROOT / 'docs/images', help='folder, default: docs/images')
    args = parser.parse_args(argv)
    models = {
        task: get_model(ROOT / f'configs/{task}/{config}.py', getattr(args, task) or last_checkpoint(task))
        for task, config in CONFIGS.items()
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in (*figures(models, Path(folder)), *page_figures()):
            path = args.out_dir / f'{name}.png'
            figure.set_dpi(2 * DPI)  # sharp on screens with small pixels
            # a palette needs a third of the bytes; k-means without dither keeps the colours. Eleven photographs in one
            # picture would still be large
            colours = 96 if name == 'static_scans' else 256
            picture = Image.fromarray(figure_to_rgb(figure)).quantize(colours, kmeans=4, dither=Image.Dither.NONE)
            picture.save(path, optimize=True)
            print(f'{path} {path.stat().st_size / 1e3:.0f} kB')


def last_checkpoint(task):
    """Return the path of the last checkpoint of a quickstart.

    Raises:
        FileNotFoundError: the quickstart has not been run.
    """
    note = ROOT / f'work_dirs/quickstart_{task}/last_checkpoint'
    if not note.is_file():
        raise FileNotFoundError(f'{note} does not exist: run the quickstart of {task}, or give --{task} CHECKPOINT')
    return ROOT / note.read_text().strip()


def figures(models, folder):
    """Yield pairs of a name and a figure. Images are written to ``folder`` and read from there, as a user's images."""
    digit, (china, scene) = digit_file(folder), scene_files(folder)
    yield 'architecture', draw_architecture(DefMamba('small'))
    yield 'static_scans', draw_static_scans((8, 8), image=cv2.imread(china)[..., ::-1])
    classifier, detector, segmentor = models.values()
    yield 'quickstart', draw_predictions(classifier, test_dataloader(classifier.cfg))[0]

    picture, trace = trace_image(classifier, digit, 0, 0)
    yield 'scan_order_digit', draw_scan_order(picture, trace)
    picture, trace = trace_image(detector, scene, 1, 0)
    yield 'points_scene', draw_points(picture, trace, zoom=(4, 4, 6, 6))
    yield 'scan_order_scene', draw_scan_order(picture, trace)
    picture, trace = trace_image(segmentor, scene, 1, 0)
    yield 'activation_scene', draw_activation_map(picture, trace, (8, 8))

    data = dataset_images(test_dataloader(classifier.cfg), 100)
    images = torch.cat([network_inputs(classifier, item)[0] for item in data])
    yield 'offset_statistics', draw_offset_statistics(offset_statistics(classifier, images))
    yield 'limitation_cases', limitation_figure(classifier, digit, stage=0)
    yield 'receptive_field', receptive_fields(detector, folder)


def page_figures():
    """Yield pairs of a name and a figure of the pages on ablations, evidence and fidelity.

    Measurements that took hours are read from the tables of these pages.
    """
    pages = {
        'ablation_no_dw_conv': 'ablations',
        'ablation_dw_conv': 'ablations',
        'evidence_dw_conv': 'evidence',
        'evidence_no_dw_conv': 'evidence',
    }
    for name, page in pages.items():
        text = (ROOT / f'docs/{page}.md').read_text('utf-8')
        table = text.partition(f'(images/{name}.png)')[0].rpartition('| --- |')[2]
        rows = re.findall(r'^\| (\w+) \| \d+ \| .*? \(([\d., ]+)\)', table, re.MULTILINE)
        runs = {config: [{'top-1': float(value)} for value in values.split(',')] for config, values in rows}
        yield name, draw_runs(runs, ['top-1'])
    text, measured = (ROOT / 'docs/fidelity.md').read_text('utf-8'), {}
    for network in ('recorded network, 64 x 96', 'recorded network, 224 x 224', 'fresh tiny, 224 x 224'):
        table = text.partition(f'| {network} | stage 1 |')[2].partition('\n\n')[0]
        rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]]
        measured[network] = {point: [float(value) for value in values] for point, *values in rows}
    yield 'formulation_distances', draw_distances(measured)
    yield 'formulation_reads', reads_figure()


def digit_file(folder):
    """Write a test digit and return its path."""
    path = folder / 'digit.png'
    cv2.imwrite(str(path), load_digits_split('test')[0][DIGIT])
    return str(path)


def scene_files(folder):
    """Write a photograph and a digit scene, and return their paths."""
    scenes, paths = DigitScenes(), []
    images = {'photograph': scenes.photographs[0], 'scene': scenes.scene('validation', SCENE).image}
    for name, image in images.items():
        paths.append(str(folder / f'{name}.png'))
        cv2.imwrite(paths[-1], image)
    return paths


def receptive_fields(trained, folder, scenes=32):
    """Draw the receptive field of the last stage on digit scenes, before and after training."""
    composer, inputs = DigitScenes(), []
    for i in range(scenes):
        path = str(folder / f'{i}.png')
        cv2.imwrite(path, composer.scene('validation', i).image)
        inputs.append(network_inputs(trained, load_images(trained.cfg, [path]))[0])
    torch.manual_seed(0)
    untrained = get_model(trained.cfg)
    untrained.init_weights()
    models = {'before training': untrained, 'after training': trained}
    images = torch.cat(inputs)
    return draw_receptive_fields({name: effective_receptive_field(model, images) for name, model in models.items()})


if __name__ == '__main__':
    main()
