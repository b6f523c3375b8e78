"""The computations behind the page, without a browser."""

import threading

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

import mmdefmamba  # noqa: F401  mends the libraries before they are imported
from mmdefmamba.analysis import activation_map
from mmdefmamba.apis import segmentor
from mmdefmamba.apis.predictors import Predictor
from mmdefmamba.app import explorer as explorer_module
from mmdefmamba.app.examples import example_image
from mmdefmamba.app.explorer import Explorer
from mmdefmamba.app.trained_models import TrainedModel
from mmdefmamba.app.uploads import UploadError


@pytest.fixture(scope='module')
def models(pico_checkpoints):
    return [TrainedModel(task, name, str(path)) for task, (name, path) in pico_checkpoints.items()]


@pytest.fixture(scope='module')
def explorer(models):
    explorer = Explorer(models, 'cpu')
    assert explorer.load_all() == {}
    return explorer


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_each_task_is_predicted_traced_and_drawn(task, explorer):
    image = example_image(explorer.is_of_digits(task), 0)
    analysis = explorer.look(task, image)
    assert analysis.task == task
    side = 32 if task == 'classification' else 128
    assert analysis.seen.shape == (side, side, 3)
    zoom = analysis.picture.shape[0] // image.shape[0]
    assert analysis.picture.shape == (zoom * image.shape[0], zoom * image.shape[1], 3)
    assert list(analysis.traces)[:2] == ['stages.0.0', 'stages.1.0']
    assert analysis.describe_block('stages.1.0') == f'Stage 2, block 1: {side // 8} x {side // 8} tokens'
    for block in analysis.traces:
        centre = analysis.centre(block)
        assert analysis.points(block).shape == analysis.activation(block, centre).shape == (480, 480, 3)
        assert analysis.animation(block)[8:12] == b'WEBP'
    if task != 'detection':  # random weights find no object
        assert sum(share for _, share in analysis.shares) <= 1 + 1e-5
        assert analysis.shares == sorted(analysis.shares, key=lambda pair: -pair[1])


def test_activation_picture_shows_the_token_and_its_cells_can_be_clicked(explorer):
    analysis = explorer.look('classification', example_image(True, 1))
    first, second = (analysis.activation('stages.0.0', token).astype(int) for token in ((0, 0), (7, 3)))
    assert np.abs(first - second).mean() > 1
    trace = analysis.traces['stages.0.0']
    for token in ((0, 0), (7, 3)):
        values = activation_map(trace, token)
        picture = analysis.activation('stages.0.0', token).astype(int)
        brightness = picture.reshape(8, 60, 8, 60, 3)[:, 10:20, :, 10:20].sum(-1).mean((1, 3))
        weakest, strongest = int(values.argmin()), int(values.argmax())
        assert brightness.flat[strongest] > brightness.flat[weakest]
    where = {'x': 3.5 / 8, 'y': 7.99 / 8}
    assert analysis.neighbour('stages.0.0', (0, 0), where) == (7, 3)
    assert analysis.neighbour('stages.0.0', (7, 3), {'step': [-1, 1]}) == (6, 4)
    assert analysis.neighbour('stages.0.0', (7, 0), {'step': [1, -1]}) == (7, 0)
    assert analysis.neighbour('stages.0.0', (0, 0), {'x': 7, 'y': -3}) == (0, 7)


def test_only_classifiers_of_digits_get_converted_drawings(explorer):
    assert [explorer.is_of_digits(name) for name in explorer.models] == [True, False, False]
    drawing = np.full((280, 280, 3), 255, np.uint8)
    drawing[50:230, 130:150] = 0
    analysis = explorer.look('classification', drawing, as_digit=True)
    assert analysis.picture.shape[0] % 8 == 0
    assert analysis.seen[:, :4].max() < 60 < 200 < analysis.seen[:, 12:20].max(), 'light on dark'


def test_image_with_one_row_is_analysed(explorer):
    assert explorer.look('detection', np.zeros((1, 2000, 3), np.uint8)).task == 'detection'


def test_image_that_the_model_refuses_is_reported(explorer, monkeypatch):
    def refuse(self, images):
        raise ValueError('too thin')

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, 'prepare', refuse)
        with pytest.raises(UploadError, match='The model cannot process this image: too thin'):
            explorer.look('detection', example_image(False, 0))
    assert explorer.look('detection', example_image(False, 0)).task == 'detection', 'the next image is analysed'


def test_two_visitors_at_once_get_correct_results(explorer):
    tasks = ('classification', 'detection')
    wanted = {task: explorer.look(task, example_image(explorer.is_of_digits(task), 2)) for task in tasks}
    found, errors = [], []

    def visit(task):
        try:
            for _ in range(2):
                found.append((task, explorer.look(task, example_image(task == 'classification', 2))))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=visit, args=(task,)) for task in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(found) == 4
    for task, analysis in found:
        assert analysis.shares == wanted[task].shares
        assert np.array_equal(analysis.picture, wanted[task].picture)
        assert len(analysis.traces) == len(wanted[task].traces)


def test_maps_with_too_many_tokens_are_left_out(explorer, monkeypatch):
    monkeypatch.setattr(explorer_module, 'MAX_TOKENS', 20)
    assert list(explorer.look('segmentation', example_image(False, 0)).traces) == ['stages.3.0']


def test_broken_models_are_removed_and_few_models_stay_in_memory(models, tmp_path, monkeypatch):
    (tmp_path / 'text.pth').write_text('no checkpoint')
    for name, meta in (('int', 3), ('list', {'dataset_meta': [1]}), ('classes', {'dataset_meta': {'classes': 7}})):
        torch.save(
            {'state_dict': torch.load(models[0].checkpoint)['state_dict'], 'meta': meta}, tmp_path / f'{name}.pth'
        )
    reasons = {
        'text': 'text.pth',
        'int': 'int.pth is refused: meta must be a dict, got the int 3',
        'list': 'list.pth is refused: meta.dataset_meta must be a dict, got a list of 1',
        'classes': 'classes.pth is refused: meta.dataset_meta.classes must be a list of names, got the int 7',
    }
    wrong = [TrainedModel(name, 'defmamba_pico_digits', str(tmp_path / f'{name}.pth')) for name in reasons]
    monkeypatch.setattr(explorer_module, 'MODELS_IN_MEMORY', 1)
    explorer = Explorer([*wrong, models[0], models[0]._replace(name='again')], 'cpu')
    failed = explorer.load_all()
    assert list(failed) == list(reasons) and all(text in failed[name] for name, text in reasons.items())
    assert list(explorer.models) == ['classification', 'again']
    for name in ('classification', 'again'):
        explorer.look(name, example_image(True, 0))
        assert list(explorer._predictors) == [name]


def test_a_large_map_of_classes_is_computed_for_a_part_and_shown_whole(explorer, monkeypatch):
    image, strides = example_image(False, 0), []
    whole = explorer.look('segmentation', image)
    finish = segmentor.TaskPredictor.finish
    monkeypatch.setattr(segmentor, 'MAX_SCORES', 11 * image.size // 3 // 4)
    monkeypatch.setattr(
        segmentor.TaskPredictor, 'finish', lambda self, sample: (strides.append(sample.stride), finish(self, sample))[1]
    )
    part = explorer.look('segmentation', image)
    assert strides == [2] and part.picture.shape == whole.picture.shape
    assert dict(part.shares) == pytest.approx(dict(whole.shares), abs=0.1)


def test_numbers_of_boxes_are_those_of_the_bars(explorer, monkeypatch):
    explorer.look('detection', example_image(False, 0))
    predictor = explorer._predictors['detection']
    boxes = torch.tensor([[10.0, 10, 40, 30], [50, 60, 90, 100], [1, 2, 8, 9]])
    instances = InstanceData(bboxes=boxes, scores=torch.tensor([0.4, 0.9, 0.1]), labels=torch.tensor([3, 7, 5]))
    sample = DetDataSample(pred_instances=instances)
    names = predictor.classes
    # the box below the threshold of 0.3 has neither a bar nor a number
    assert [name for name, _ in explorer_module._shares(predictor, sample)] == [f'1: {names[7]}', f'2: {names[3]}']
    drawn, draw = [], type(predictor.inferencer.visualizer).draw_texts

    def draw_texts(self, texts, positions, **options):
        drawn.append((texts, positions))
        return draw(self, texts, positions, **options)

    monkeypatch.setattr(type(predictor.inferencer.visualizer), 'draw_texts', draw_texts)
    image = np.full((480, 480, 3), 200, np.uint8)
    numbered = predictor.draw(image, sample)
    texts, places = drawn[-1]
    assert texts == ['1', '2'] and places.tolist() == [[90, 100], [40, 30]]
    predictor.numbered = False
    plain = predictor.draw(image, sample)
    predictor.numbered = True
    changed = (numbered != plain).any(-1)
    assert changed[88:100, 78:90].any() and changed[18:30, 28:40].any() and not changed[:12, :12].any()
