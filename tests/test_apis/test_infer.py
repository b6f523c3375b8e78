"""tools/infer.py with real and broken images: its files, its output and its exit code."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from sklearn.datasets import load_sample_images

import mmdefmamba
from mmdefmamba.apis import predictors
from mmdefmamba.cli import infer

TOOL = Path(__file__).parents[2] / 'tools/infer.py'
GOOD = ('china.jpg', 'flower.jpg', 'gray.png', 'one_pixel.png', 'rgba.png', 'turned.jpg')
BAD = ('cut.png', 'text.jpg')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """scikit-learn's two photographs, variants of one of them, and two files that are not images."""
    folder = tmp_path_factory.mktemp('images')
    china, flower = (Image.fromarray(image).reduce(3) for image in load_sample_images().images)
    china.save(folder / 'china.jpg')
    flower.save(folder / 'flower.jpg')
    china.convert('L').save(folder / 'gray.png')
    rgba = china.copy()
    rgba.putalpha(flower.convert('L'))
    rgba.save(folder / 'rgba.png')
    exif = Image.Exif()
    exif[0x0112] = 8
    china.save(folder / 'turned.jpg', exif=exif)
    Image.new('RGB', (1, 1), 'white').save(folder / 'one_pixel.png')
    (folder / 'cut.png').write_bytes((folder / 'gray.png').read_bytes()[:2000])
    (folder / 'text.jpg').write_text('not an image')
    return folder


@pytest.fixture
def run(tmp_path):
    """``run(model, *args)`` runs the tool and returns its exit code, its JSON file or None, and its output folder."""

    def run(model, *args):
        name, checkpoint = map(str, model)
        out = tmp_path / 'out'
        code = infer.main([*map(str, args), '--config', name, '--checkpoint', checkpoint, '--out-dir', str(out)])
        file = out / 'predictions.json'
        return code, json.loads(file.read_text(), parse_constant=pytest.fail) if file.is_file() else None, out

    return run


def check_good_and_bad(code, document, out, folder, checkpoint, capsys):
    assert code == 1
    assert [Path(entry['path']).name for entry in document['images']] == list(GOOD)
    assert [Path(entry['path']).name for entry in document['skipped']] == list(BAD)
    assert 'whose end is missing' in document['skipped'][0]['error']
    assert 'no decoder can read these 12 bytes' in document['skipped'][1]['error']
    assert document['checkpoint'] == str(checkpoint)
    for entry in document['images']:
        assert entry['size'] == list(mmcv.imread(entry['path']).shape[:2])
        picture = mmcv.imread(out / entry['picture'])
        # small images are enlarged by an integer factor
        assert min(picture.shape[:2]) >= 480 and not np.any(picture.shape[:2] % np.array(entry['size']))
    upright, turned = document['images'][0]['size'], document['images'][5]['size']
    assert turned == upright[::-1], 'turned as its EXIF data say'
    captured = capsys.readouterr()
    assert '6 of 8 images predicted, 2 skipped' in captured.out
    assert all(f'{folder / name}: ' in captured.out for name in GOOD)
    assert all(f'skipped {folder / name}: ' in captured.err for name in BAD)


def test_classification(run, folder, pico_checkpoints, capsys):
    model = pico_checkpoints['classification']
    code, document, out = run(model, folder, '--batch-size', 3)
    check_good_and_bad(code, document, out, folder, model[1], capsys)
    assert document['task'] == 'classification' and document['classes'] == list('0123456789')

    from mmpretrain.apis import ImageClassificationInferencer

    reference = ImageClassificationInferencer(mmdefmamba.get_model(*model))
    for entry in document['images']:
        [expected] = reference(entry['path'])
        assert (entry['label'], entry['class']) == (expected['pred_label'], expected['pred_class'])
        np.testing.assert_allclose(entry['scores'], expected['pred_scores'], rtol=1e-4)
        assert entry['score'] == max(entry['scores'])


@pytest.mark.parametrize('batch_size', [1, 3])
def test_detection(batch_size, run, folder, pico_checkpoints, capsys):
    model = pico_checkpoints['detection']
    code, document, out = run(model, folder, '--batch-size', batch_size, '--score-thr', 0)
    check_good_and_bad(code, document, out, folder, model[1], capsys)

    from mmdet.apis import inference_detector

    reference = mmdefmamba.get_model(*model)
    for entry in document['images']:
        expected = inference_detector(reference, entry['path']).pred_instances
        found = entry['objects']
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose([item['score'] for item in found], expected.scores, rtol=1e-4)
        np.testing.assert_allclose([item['box'] for item in found], expected.bboxes, atol=0.05)
        masks = np.stack([coco_mask.decode(item['mask']) for item in found]).astype(bool)
        # in a batch the network rounds differently than for one image, which can change pixels at the edge of a mask
        assert (masks != expected.masks.numpy()).mean() <= (0 if batch_size == 1 else 1e-5)
        assert all(item['class'] == str(item['label']) for item in found)


def test_segmentation(run, folder, pico_checkpoints, capsys):
    model = pico_checkpoints['segmentation']
    code, document, out = run(model, folder, '--batch-size', 3)
    check_good_and_bad(code, document, out, folder, model[1], capsys)

    from mmseg.apis import inference_model

    reference = mmdefmamba.get_model(*model)
    for entry in document['images']:
        expected = inference_model(reference, entry['path']).pred_sem_seg.data[0].numpy()
        class_map = cv2.imread(str(out / entry['map']), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(class_map, expected)
        assert sum(entry['shares'].values()) == pytest.approx(1)
        assert list(entry['shares'].values()) == sorted(entry['shares'].values(), reverse=True)
        for name, share in entry['shares'].items():
            assert share == pytest.approx((expected == document['classes'].index(name)).mean())


def test_score_threshold_leaves_objects_out(folder, pico_checkpoints):
    image = mmcv.imread(folder / 'china.jpg')
    model = pico_checkpoints['detection']
    predictor = predictors.get_predictor(*model, 'cpu', score_thr=0)
    [sample] = predictor.predict([image])
    scores = [item['score'] for item in predictor.describe(sample)['objects']]
    predictor.score_thr = sorted(scores)[len(scores) // 2]
    kept = [item['score'] for item in predictor.describe(sample)['objects']]
    assert kept == [score for score in scores if score >= predictor.score_thr] and 0 < len(kept) < len(scores)
    predictor.score_thr = 1
    assert predictor.describe(sample) == {'objects': []} and predictor.summary(sample) == 'no objects'


def test_equal_names_in_different_folders_do_not_overwrite_each_other(run, pico_checkpoints, tmp_path):
    for name, color in (('a/x.png', 'white'), ('b/x.png', 'black')):
        (tmp_path / name).parent.mkdir()
        Image.new('L', (8, 8), color).save(tmp_path / name)
    code, document, out = run(pico_checkpoints['classification'], tmp_path / 'a', tmp_path / 'b')
    assert code == 0 and document['skipped'] == []
    assert [entry['picture'] for entry in document['images']] == ['pictures/a/x.png', 'pictures/b/x.png']
    white, black = (mmcv.imread(out / entry['picture']) for entry in document['images'])
    assert white[-1, -1, 0] == 255 and black[-1, -1, 0] == 0


def test_other_images_of_a_batch_with_a_bad_image_are_predicted(run, folder, pico_checkpoints, monkeypatch, tmp_path):
    from mmdefmamba.apis.classifier import TaskPredictor

    predict, sizes = TaskPredictor.predict, []

    def refuse_one_pixel(self, images):
        sizes.append(len(images))
        if any(image.shape[0] == 1 for image in images):
            raise RuntimeError('too small')
        return predict(self, images)

    monkeypatch.setattr(TaskPredictor, 'predict', refuse_one_pixel)
    model = pico_checkpoints['classification']
    code, document, out = run(model, *(folder / name for name in GOOD), '--batch-size', 6, '--no-pictures')
    assert code == 1 and sizes == [6, *[1] * 6]
    [skipped] = document['skipped']
    assert skipped == {'path': str(folder / 'one_pixel.png'), 'error': 'too small'}
    assert len(document['images']) == 5
    assert [path.name for path in out.iterdir()] == ['predictions.json']


def test_interruption_keeps_the_finished_predictions(run, folder, pico_checkpoints, monkeypatch, tmp_path):
    from mmdefmamba.apis.classifier import TaskPredictor

    predict = TaskPredictor.predict

    def stop_at_gray(self, images):
        if np.ptp(images[0], axis=-1).max() == 0:
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(TaskPredictor, 'predict', stop_at_gray)
    with pytest.raises(KeyboardInterrupt):
        run(pico_checkpoints['classification'], *(folder / name for name in GOOD))
    document = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert [Path(entry['path']).name for entry in document['images']] == ['china.jpg', 'flower.jpg']


def test_scores_that_are_not_finite_are_an_error(run, folder, pico_checkpoints, tmp_path):
    checkpoint = torch.load(pico_checkpoints['classification'][1])
    checkpoint['state_dict']['head.fc.bias'][0] = torch.nan
    torch.save(checkpoint, tmp_path / 'nan.pth')
    code, document, _ = run(('defmamba_pico_digits', tmp_path / 'nan.pth'), folder / 'china.jpg')
    assert code == 1 and document['images'] == []
    assert 'not finite' in document['skipped'][0]['error']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(images='nowhere.png'), 'no such file or folder: nowhere.png'),
        (dict(config='defmamba_pico_digit'), "did you mean 'defmamba_pico_digits'?"),
        (dict(config='nowhere.py'), 'config nowhere.py does not exist'),
        (dict(checkpoint='nowhere.pth'), 'nowhere.pth does not exist'),
        (dict(config='upernet_defmamba_pico_digits'), 'fills 130 of 205 parameters and buffers'),
        (dict(device='nowhere'), 'device string: nowhere'),
    ],
)
def test_run_that_cannot_start_exits_with_2_and_one_line(change, message, folder, pico_checkpoints, tmp_path, capsys):
    name, checkpoint = pico_checkpoints['classification']
    values = {'images': folder / 'china.jpg', 'config': name, 'checkpoint': checkpoint, 'device': 'cpu', **change}
    args = [values.pop('images'), '--out-dir', tmp_path / 'out']
    args += [part for key, value in values.items() for part in (f'--{key}', value)]
    assert infer.main([str(arg) for arg in args]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert message in line
    assert not (tmp_path / 'out').exists()


def test_results_that_cannot_be_written_end_the_run(run, folder, pico_checkpoints, tmp_path, capsys):
    (tmp_path / 'out').write_text('a file')
    code, document, _ = run(pico_checkpoints['classification'], folder / 'china.jpg')
    assert code == 2 and document is None
    assert 'error: ' in capsys.readouterr().err


def test_script_passes_the_exit_code_on(tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, 'nowhere.png', '--config', 'x', '--checkpoint', 'y'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith('error: no such file or folder: nowhere.png')
    assert list(tmp_path.iterdir()) == []
