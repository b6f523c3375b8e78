"""Images of every kind, intact, missing and damaged, in all three tasks."""

import io
import json

import cv2
import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image

TASKS = ('classification', 'detection', 'segmentation')
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (40, 32, 3), np.uint8)


def encoded(image, suffix='.png'):
    return cv2.imencode(suffix, image)[1].tobytes()


def turned(image, orientation=6):
    """Return a JPEG whose EXIF tag asks viewers to rotate it; 6 means a quarter turn clockwise."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(image[..., ::-1]).save(file, 'JPEG', exif=exif, quality=100, subsampling=0)
    return file.getvalue()


def load(content, tmp_path, **options):
    path = tmp_path / 'image.png'  # readers ignore the suffix
    path.write_bytes(content)
    return LoadImageFromFile(**options).transform({'img_path': str(path)})['img']


def test_grayscale_becomes_three_equal_channels(tmp_path):
    gray = COLOUR[..., 0]
    assert np.array_equal(load(encoded(gray), tmp_path), np.repeat(gray[..., None], 3, -1))


def test_transparency_is_dropped(tmp_path):
    rgba = np.concatenate([COLOUR, np.zeros((40, 32, 1), np.uint8)], -1)  # fully transparent
    assert np.array_equal(load(encoded(rgba), tmp_path), COLOUR)


def test_16_bit_images_keep_their_upper_8_bits(tmp_path):
    deep = RNG.integers(0, 65536, (40, 32, 3), np.uint16)
    found = load(encoded(deep), tmp_path).astype(int)
    assert np.abs(found - deep / 256).max() < 1
    # the images of a 12-bit camera that are stored with 16 bits become nearly black
    assert load(encoded(np.full((40, 32), 4095, np.uint16)), tmp_path).max() <= 16
    assert load(encoded(deep), tmp_path, color_type='unchanged').dtype == np.uint16


def test_exif_rotation_is_applied(tmp_path):
    smooth = cv2.resize(COLOUR[::8, ::8], (32, 40), interpolation=cv2.INTER_CUBIC)
    expected = np.rot90(smooth, -1).astype(int)
    found = load(turned(smooth), tmp_path)
    assert found.shape == (32, 40, 3)
    assert np.abs(found - expected).mean() < 4 < np.abs(found[::-1] - expected).mean()
    as_stored = load(turned(smooth), tmp_path, color_type='color_ignore_orientation')
    assert np.abs(as_stored - smooth.astype(int)).mean() < 4


def put(data, image, content):
    """Write an image, and change its annotations so that they fit its size."""
    image.write_bytes(content)
    height, width = mmcv.imfrombytes(content).shape[:2]
    if data.task == 'segmentation':
        cv2.imwrite(str(data.map_of(image)), np.arange(height * width).reshape(height, width).astype(np.uint8) % 2)
    if data.task == 'detection':

        def fit(coco):
            index = next(i for i, found in enumerate(coco['images']) if found['file_name'] == image.name)
            coco['images'][index].update(height=height, width=width)
            outline = [0, 0, width, 0, width, height, 0, height]
            coco['annotations'][index].update(bbox=[0, 0, width, height], area=width * height, segmentation=[outline])

        data.change_annotations(fit, image.parent.name)


@pytest.mark.parametrize('task', TASKS)
def test_every_image_kind_and_size_can_be_trained_on_and_tested(tiny, task):
    data = tiny(task)
    deep, clear = RNG.integers(0, 65536, (40, 32), np.uint16), np.zeros((40, 32, 4), np.uint8)
    line = np.ascontiguousarray(RNG.integers(0, 256, (1, 4096, 3), np.uint8))
    kinds = [encoded(deep), encoded(clear), turned(COLOUR[:32]), encoded(COLOUR[..., 0])]
    for image, content in zip(data.images(), kinds, strict=True):
        put(data, image, content)
    assert all(np.isfinite(line['loss']) for line in data.train())
    for contents in ([COLOUR[:1, :1], line], [line.transpose(1, 0, 2), COLOUR[:3, :1]]):
        for image, content in zip(data.images('validation'), contents, strict=True):
            put(data, image, encoded(content))
        scores = data.test()
        assert {'classification': 'accuracy/top1', 'detection': 'coco/bbox_mAP', 'segmentation': 'mIoU'}[task] in scores


@pytest.mark.parametrize('task', TASKS)
def test_images_of_one_pixel_or_line_can_be_trained_on(tiny, task):
    data = tiny(task)
    line = np.ascontiguousarray(RNG.integers(0, 256, (1, 4096, 3), np.uint8))
    # in segmentation, images are padded to the size in the config, and are never cropped
    last, options = (
        (line, ['model.data_preprocessor.size=(2,4096)']) if task == 'segmentation' else (line.transpose(1, 0, 2), [])
    )
    for image, content in zip(data.images(), [COLOUR[:1, :1], line, COLOUR[:2, :2], last], strict=True):
        put(data, image, encoded(content))
    assert all(np.isfinite(line['loss']) for line in data.train(*options))


DAMAGED = {
    'missing': (None, 'FileNotFoundError|No such file'),
    'cut JPEG': (encoded(COLOUR, '.jpg')[:500], 'a JPEG of 500 bytes whose end is missing'),
    'cut PNG': (encoded(COLOUR)[:500], 'a PNG of 500 bytes whose end is missing'),
}


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('kind', DAMAGED)
def test_damaged_image_stops_the_run_and_is_named(tiny, task, kind):
    if kind == 'cut PNG' and task != 'segmentation':
        pytest.skip('same as a cut JPEG: all tasks use one decoder')
    data, (content, message) = tiny(task), DAMAGED[kind]
    image = data.images()[0]
    image.unlink()
    if content:
        image.write_bytes(content)
    elif task == 'classification':  # it lists the folder, so a list of files is needed for one to be missing
        (data.root / 'list.txt').write_text('cat/0.png 0\n')
        options = ['train_dataloader.dataset.ann_file=list.txt', 'train_dataloader.dataset.metainfo.classes=[cat,dog]']
        with pytest.raises(FileNotFoundError, match=r'cat/0\.png could not be loaded'):
            data.train(*options)
        return
    elif task == 'segmentation':  # the same
        (data.root / 'list.txt').write_text('0\n')
        with pytest.raises(FileNotFoundError, match=r'training/0\.png could not be loaded'):
            data.train('train_dataloader.dataset.ann_file=list.txt')
        return
    with pytest.raises(OSError, match=rf'{image.name} could not be loaded: .*({message})'):
        data.train()


@pytest.mark.parametrize('task', TASKS)
def test_damaged_images_are_left_out_on_request(tiny, task):
    data = tiny(task)
    first, second = data.images()[:2]
    first.write_bytes(DAMAGED['cut JPEG'][0])
    second.write_bytes(DAMAGED['cut PNG'][0])
    assert len(data.train('train_dataloader.dataset.pipeline.0.ignore_empty=True')) == 2
    log = next(data.work_dir.glob('*/*.log')).read_text()
    for image in (first, second):
        assert log.count(f'{image} could not be loaded and is left out') == 1
    assert 'so far in this process' in log
    # in a test this is an error: the score would be of fewer images than it says
    data.images('validation')[0].write_bytes(DAMAGED['cut JPEG'][0])
    with pytest.raises(Exception, match='Test time pipline should not get `None`'):
        data.test('test_dataloader.dataset.pipeline.0.ignore_empty=True')


def test_annotations_from_before_exif_rotation_are_refused(tiny):
    data = tiny('detection')
    for image in data.images():
        image.write_bytes(turned(cv2.imread(str(image))))
    ignore = 'train_dataloader.dataset.pipeline.0.color_type=color_ignore_orientation'
    with pytest.raises(
        Exception, match=r'\.png has 32 x 40 pixels, but its annotations belong to an image of 40 x 32 .*EXIF'
    ):
        data.train()
    assert len(data.train(ignore)) == 2
    assert json.loads((data.root / 'training.json').read_text())['images'][0]['height'] == 40
