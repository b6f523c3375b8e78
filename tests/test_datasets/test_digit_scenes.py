import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmdefmamba.datasets.digit_scenes import (
    BACKGROUND,
    CLASSES,
    IGNORE,
    IMAGE_SIZE,
    SPLITS,
    Difficulty,
    DigitScenes,
    write_digit_scenes,
)

REPO = Path(__file__).parents[2]
TRAIN, VAL = 12, 6


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('digit_scenes')
    write_digit_scenes(folder, TRAIN, VAL, difficulty=0.5, seed=3)
    return folder


def _hash(folder):
    digest = hashlib.sha256()
    for path in sorted(folder.rglob('*.*')):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def test_same_seed_writes_the_same_bytes_in_a_new_process(folder, tmp_path):
    tool = [sys.executable, 'tools/dataset_converters/digit_scenes.py', tmp_path / 'again']
    settings = ['--train', str(TRAIN), '--val', str(VAL), '--difficulty', '0.5', '--seed', '3']
    done = subprocess.run([*tool, *settings], cwd=REPO, env={'PYTHONPATH': str(REPO)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'{TRAIN} training and {VAL} validation scenes' in done.stdout
    assert _hash(tmp_path / 'again') == _hash(folder)
    write_digit_scenes(tmp_path / 'other', TRAIN, VAL, difficulty=0.5, seed=4)
    assert _hash(tmp_path / 'other') != _hash(folder)


def test_training_and_validation_share_no_digit(folder):
    used = [{ann['digit'] for ann in _coco(folder, split).anns.values()} for split in SPLITS]
    assert min(map(len, used)) > 5
    assert used[0].isdisjoint(used[1])
    scenes = DigitScenes()
    assert set(scenes.sources('training')) | set(scenes.sources('validation')) == set(range(1797))
    assert set(scenes.sources('training')).isdisjoint(scenes.sources('validation'))


def test_training_and_validation_share_no_pixel_of_a_photograph():
    """Checks backgrounds only. The photographs are black in the left half and white in the right half."""
    scenes = DigitScenes(seed=1)
    for photograph in scenes.photographs:
        photograph[:, : photograph.shape[1] // 2], photograph[:, photograph.shape[1] // 2 :] = 0, 255
    rng = np.random.default_rng(0)
    for split, value in zip(SPLITS, (0, 255), strict=True):
        assert all((scenes._background(rng, split) == value).all() for _ in range(20))


def test_coco_annotations_fit_their_masks(folder):
    labels = DigitScenes().labels
    for split, count in zip(SPLITS, (TRAIN, VAL), strict=True):
        coco = _coco(folder, split)
        assert len(coco.imgs) == count
        assert [category['name'] for category in coco.cats.values()] == list(CLASSES)
        for ann in coco.anns.values():
            mask = coco.annToMask(ann)
            assert mask.shape == (IMAGE_SIZE, IMAGE_SIZE)
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            size = [columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
            assert ann['bbox'] == [columns[0], rows[0], *size]
            assert ann['area'] == mask.sum() > 0
            assert ann['category_id'] == labels[ann['digit']] + 1


def test_index_maps_and_instances_agree(folder):
    """Each labelled pixel of an index map belongs to an instance of that class, and instances do not overlap."""
    seen = set()
    for split in SPLITS:
        coco = _coco(folder, split)
        for image in coco.imgs.values():
            semantic = _png(folder / 'annotations' / split / image['file_name'])
            picture = _png(folder / 'images' / split / image['file_name'])
            assert semantic.shape == (IMAGE_SIZE, IMAGE_SIZE)
            assert picture.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
            labels = np.full_like(semantic, BACKGROUND)
            covered = np.zeros_like(semantic, int)
            for ann in coco.imgToAnns[image['id']]:
                mask = coco.annToMask(ann)
                covered += mask
                labels[mask > 0] = ann['category_id']
            assert covered.max() <= 1
            known = semantic != IGNORE
            np.testing.assert_array_equal(semantic[known], labels[known])
            seen |= set(np.unique(semantic))
            if coco.imgToAnns[image['id']]:
                # only the rims of strokes are ignored
                assert 0 < (~known).sum() < 3 * covered.sum()
    assert {BACKGROUND, IGNORE} < seen
    assert len(seen) > 8


def test_every_class_is_common_and_some_scenes_are_empty():
    scenes = DigitScenes(seed=0)
    made = [scenes.scene('training', index) for index in range(150)]
    counts = np.bincount([instance.label for scene in made for instance in scene.instances], minlength=10)
    assert counts.min() > 0.05 * counts.sum()
    assert 0 < sum(not scene.instances for scene in made) < 15
    assert 2 < counts.sum() / len(made) < 5


def test_difficulty_makes_scenes_harder():
    easy, hard = (_statistics(level) for level in (0, 1))
    assert easy['overlap'] == 0 < hard['overlap']
    assert hard['smallest'] < 0.6 * easy['smallest']
    assert Difficulty.of(0.5).rotation == 25
    for level in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f'got {level}'):
            DigitScenes(difficulty=level)


def test_wrong_settings_are_refused_with_their_value(tmp_path):
    with pytest.raises(ValueError, match='seed must not be negative, got -1'):
        DigitScenes(seed=-1)
    with pytest.raises(ValueError, match="got 'test'"):
        DigitScenes().sources('test')
    with pytest.raises(ValueError, match='validation needs at least one scene, got 0'):
        write_digit_scenes(tmp_path, 1, 0)


def _statistics(level):
    """Return the number of instances whose boxes intersect an earlier one, and the 10 % quantile of the heights."""
    scenes = DigitScenes(level)
    overlapping, heights = 0, []
    for index in range(40):
        boxes = []
        for instance in scenes.scene('validation', index).instances:
            rows, columns = instance.mask.any(1).nonzero()[0], instance.mask.any(0).nonzero()[0]
            boxes.append((columns[0], rows[0], columns[-1], rows[-1]))
            heights.append(np.ptp(rows))
        for i, a in enumerate(boxes):
            overlapping += any(
                min(a[2], b[2]) >= max(a[0], b[0]) and min(a[3], b[3]) >= max(a[1], b[1]) for b in boxes[:i]
            )
    return dict(overlap=overlapping, smallest=np.quantile(heights, 0.1))


def _coco(folder, split):
    return COCO(folder / 'annotations' / f'instances_{split}.json')


def _png(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
