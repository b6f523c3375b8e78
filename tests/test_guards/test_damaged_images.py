import logging

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset

from mmdefmamba.guards import damaged_images


@pytest.fixture(scope='module')
def picture():
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def encoded(picture, suffix):
    return cv2.imencode(suffix, picture)[1].tobytes()


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
def test_whole_images_are_read_as_before(picture, suffix, tmp_path):
    path = tmp_path / f'whole{suffix}'
    path.write_bytes(encoded(picture, suffix))
    loaded = LoadImageFromFile().transform({'img_path': str(path)})
    assert np.array_equal(loaded['img'], cv2.imread(str(path)))
    # what some cameras append does no harm
    path.write_bytes(encoded(picture, suffix) + bytes(100))
    assert np.array_equal(LoadImageFromFile().transform({'img_path': str(path)})['img'], loaded['img'])


DAMAGE = {
    'cut.jpg': (lambda picture: encoded(picture, '.jpg')[:-400], 'a JPEG of .* whose end is missing'),
    'cut.png': (lambda picture: encoded(picture, '.png')[:-400], 'a PNG of .* whose end is missing'),
    'empty.jpg': (lambda picture: b'', 'the file is empty'),
    'page.jpg': (lambda picture: b'<html>not found</html>', '22 bytes that no decoder takes for an image'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_images_are_named(picture, name, tmp_path):
    make, message = DAMAGE[name]
    path = tmp_path / name
    path.write_bytes(make(picture))
    with pytest.raises(OSError, match=rf'{name} could not be loaded: {message}.*ignore_empty=True') as raised:
        LoadImageFromFile().transform({'img_path': str(path)})
    assert type(raised.value) is OSError
    with pytest.raises(OSError, match=message):
        mmcv.imfrombytes(path.read_bytes())


def test_missing_images_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone.jpg could not be loaded: .*No such file'):
        LoadImageFromFile().transform({'img_path': str(tmp_path / 'gone.jpg')})


class Pictures(BaseDataset):
    def load_data_list(self):
        return [{'img_path': str(path)} for path in sorted(self.folder.iterdir())]

    def __init__(self, folder, **kwargs):
        self.folder = folder
        super().__init__(**kwargs)


def test_training_goes_on_without_them_where_the_config_says_so(picture, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(damaged_images, '_skipped', type(damaged_images._skipped)())
    warned = []
    monkeypatch.setattr(damaged_images, 'print_log', lambda text, logger, level: warned.append((level, text)))
    for name, (make, _) in DAMAGE.items():
        (tmp_path / name).write_bytes(make(picture))
    (tmp_path / 'whole.png').write_bytes(encoded(picture, '.png'))
    train = Pictures(tmp_path, pipeline=[LoadImageFromFile(ignore_empty=True)])
    for _ in range(2):
        for i in range(5):
            assert train[i]['img_path'].endswith('whole.png')
    # each once, however often it is met
    assert sorted(text.split('/')[-1].split(' ')[0] for _, text in warned) == sorted(DAMAGE)
    assert all(level == logging.WARNING for level, _ in warned)
    assert warned[-1][1].endswith('left out, 4 so far in this process')
    # a score over fewer images than it says would be a lie
    with pytest.raises(Exception, match='Test time pipline should not get `None`'):
        Pictures(tmp_path, pipeline=[LoadImageFromFile(ignore_empty=True)], test_mode=True)[0]


def test_it_is_applied_once():
    assert damaged_images.apply() is None
