import io
import logging
import struct
import urllib.error
import zlib

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset
from PIL import Image, UnidentifiedImageError

from mmdefmamba.guards import GuardsHook, damaged_images, loading

pytestmark = pytest.mark.usefixtures('loading_guards')


@pytest.fixture(scope='module')
def picture():
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def encoded(picture, suffix):
    return cv2.imencode(suffix, picture)[1].tobytes()


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
def test_intact_images_are_read_as_without_the_guard(picture, suffix, tmp_path):
    path = tmp_path / f'whole{suffix}'
    path.write_bytes(encoded(picture, suffix))
    loaded = LoadImageFromFile().transform({'img_path': str(path)})
    assert np.array_equal(loaded['img'], cv2.imread(str(path)))
    # some cameras append bytes, which changes nothing
    path.write_bytes(encoded(picture, suffix) + bytes(100))
    assert np.array_equal(LoadImageFromFile().transform({'img_path': str(path)})['img'], loaded['img'])


DAMAGE = {
    'cut.jpg': (lambda picture: encoded(picture, '.jpg')[:-400], 'a JPEG of .* whose end is missing'),
    'cut.png': (lambda picture: encoded(picture, '.png')[:-400], 'a PNG of .* whose end is missing'),
    'empty.jpg': (lambda picture: b'', 'the file is empty'),
    'page.jpg': (lambda picture: b'<html>not found</html>', 'no decoder can read these 22 bytes as an image'),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_damaged_image_error_gives_path_and_cause(picture, name, tmp_path):
    make, message = DAMAGE[name]
    path = tmp_path / name
    path.write_bytes(make(picture))
    with pytest.raises(OSError, match=rf'{name} could not be loaded: {message}.*ignore_empty=True') as raised:
        LoadImageFromFile().transform({'img_path': str(path)})
    assert type(raised.value) is OSError
    with pytest.raises(OSError, match=message):
        mmcv.imfrombytes(path.read_bytes())


def test_missing_image_still_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone.jpg could not be loaded: .*No such file'):
        LoadImageFromFile().transform({'img_path': str(tmp_path / 'gone.jpg')})


class Pictures(BaseDataset):
    def load_data_list(self):
        return [{'img_path': str(path)} for path in sorted(self.folder.iterdir())]

    def __init__(self, folder, **kwargs):
        self.folder = folder
        super().__init__(**kwargs)


def test_training_skips_damaged_images_on_request(picture, tmp_path, monkeypatch, caplog):
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
    # one warning per file, although each is read several times
    assert sorted(text.split('/')[-1].split(' ')[0] for _, text in warned) == sorted(DAMAGE)
    assert all(level == logging.WARNING for level, _ in warned)
    assert warned[-1][1].endswith('left out, 4 so far in this process')
    # in a test this is an error: the score would be of fewer images than it says
    with pytest.raises(Exception, match='Test time pipline should not get `None`'):
        Pictures(tmp_path, pipeline=[LoadImageFromFile(ignore_empty=True)], test_mode=True)[0]


def jpeg(picture, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', **options)
    return file.getvalue()


def with_thumbnail(picture):
    """Return a JPEG whose EXIF data contain a second complete JPEG, with its own end marker."""
    exif = Image.Exif()
    exif[0x010E] = 'x' * 10
    inner = jpeg(picture[::4, ::4])
    return jpeg(picture, exif=exif.tobytes() + inner)


WHOLE = {
    'plain': jpeg,
    'progressive': lambda picture: jpeg(picture, progressive=True),
    'restart markers': lambda picture: jpeg(picture, restart_marker_blocks=1),
    'thumbnail': with_thumbnail,
    'PNG': lambda picture: encoded(picture, '.png'),
}


@pytest.mark.parametrize('appended', [b'', bytes(10_000), b'a video' * 100_000, b'\xff\xd8\xff' + bytes(5000)])
@pytest.mark.parametrize('kind', WHOLE)
def test_data_after_the_end_of_an_image_is_allowed(picture, kind, appended):
    """Phones write such files: a second image, a depth map or a video follows the image."""
    whole = WHOLE[kind](picture)
    assert np.array_equal(mmcv.imfrombytes(whole + appended), mmcv.imfrombytes(whole))
    assert damaged_images.image_damage(whole + appended) is None


@pytest.mark.parametrize('kind', WHOLE)
def test_image_cut_at_any_byte_is_detected(picture, kind):
    whole = WHOLE[kind](picture)
    for end in range(8, len(whole) - 1, 7):
        assert damaged_images.image_damage(whole[:end]) is not None, f'{end} of {len(whole)} bytes'
    # also if the image contains an end marker before the place where it is cut
    cut = whole[: len(whole) // 2]
    assert damaged_images.image_damage(cut) is not None


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (urllib.error.HTTPError('http://x/a.png', 404, 'Not Found', {}, None), OSError),
        (urllib.error.URLError('no route'), OSError),
        (FileNotFoundError(2, 'No such file', 'a.png'), FileNotFoundError),
        (PermissionError('no'), PermissionError),
        (UnidentifiedImageError('x'), OSError),
    ],
)
def test_every_loading_error_names_the_file(error, kind, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr('mmengine.fileio.get', fail)
    with pytest.raises(kind, match=r'http://x/a\.png could not be loaded: ') as raised:
        LoadImageFromFile().transform({'img_path': 'http://x/a.png'})
    assert str(error) in str(raised.value) and raised.value.__cause__ is error


def png_of_a_few_bytes(width, height):
    """Return a PNG that says it has so many pixels, and holds none."""
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b''))
    parts = (
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def test_an_image_of_too_many_pixels_stops_a_training_before_it_is_decoded(picture, tmp_path, monkeypatch):
    huge, small = tmp_path / 'huge.png', tmp_path / 'small.png'
    huge.write_bytes(png_of_a_few_bytes(17_000, 17_000))
    small.write_bytes(encoded(picture, '.png'))
    with pytest.raises(OSError, match=r'huge.png .*17,000 x 17,000 pixels, the limit is 268,435,456 \(max_pixels\)'):
        LoadImageFromFile().transform({'img_path': str(huge)})
    for limit in (2400, None):
        monkeypatch.setitem(loading._limits, 'max_pixels', limit)
        assert LoadImageFromFile().transform({'img_path': str(small)})['img'].shape == (40, 60, 3)
    monkeypatch.setitem(loading._limits, 'max_pixels', 2399)
    with pytest.raises(OSError, match=r'small.png .*60 x 40 pixels, the limit is 2,399 \(max_pixels\)'):
        LoadImageFromFile().transform({'img_path': str(small)})


def test_the_limit_of_pixels_of_the_hook_holds_in_the_run_and_in_its_data_workers(monkeypatch):
    for wrong in (0, -1, 2.5, '9'):
        with pytest.raises(ValueError, match='max_pixels must be a positive number of pixels or None'):
            GuardsHook(max_pixels=wrong)
    set_up = {}
    monkeypatch.setattr(loading, 'set_up_workers', set_up.__setitem__)
    monkeypatch.setitem(loading._limits, 'max_pixels', loading.MAX_DATA_PIXELS)
    loading.activate(['damaged_images'], 2399)
    assert loading.max_pixels() == 2399
    assert 'damaged_images' in set_up['guards'].args[0] and set_up['guards'].args[1] == 2399
    loading.deactivate(['damaged_images'])
