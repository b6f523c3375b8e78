"""Images that are too large, their limit, and names of files that a terminal would obey."""

import io
import json
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mmdefmamba.apis import predictors
from mmdefmamba.cli import infer
from mmdefmamba.files import shown, shown_lines
from mmdefmamba.guards.image_size import MAX_PIXELS, check_pixels, check_resized, image_size
from mmdefmamba.visualization.enlarge import MAX_DRAWN, shrink_image, stride_for

FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'PPM', 'TIFF')


def encoded(kind, size=(123, 45), mode='RGB', **options):
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def bomb(width, height):
    """A PNG of a few bytes that claims any size."""

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(b'\0' * 100)) + chunk(b'IEND', b'')


@pytest.mark.parametrize('kind', FORMATS)
def test_size_is_read_from_the_header_of_every_format(kind):
    content = encoded(kind)
    assert image_size(content)[:2] == (123, 45)
    check_pixels(content, 123 * 45)
    check_pixels(content, None)
    with pytest.raises(OSError, match=r'the image has 123 x 45 pixels, the limit is 5,534 \(max_pixels\)'):
        check_pixels(content, 123 * 45 - 1)


@pytest.mark.parametrize(
    ('step', 'size', 'becomes'),
    [
        ({'type': 'ResizeEdge', 'scale': 256, 'edge': 'short'}, (1, 60_000), '256 x 15,360,000'),
        ({'type': 'mmpretrain.ResizeEdge', 'scale': 256}, (60_000, 2), '7,680,000 x 256'),
        ({'type': 'ResizeEdge', 'scale': 512, 'edge': 'width'}, (9_000, 4), '1,152,000 x 512'),
        ({'type': 'Pad', 'pad_to_square': True}, (1, 60_000), '60,000 x 60,000'),
    ],
)
def test_a_thin_image_that_would_become_gigabytes_is_refused_before_it_is_resized(step, size, becomes):
    steps = [dict(step), {'type': 'CenterCrop', 'crop_size': 224}]
    image = np.zeros((*size, 3), np.uint8)
    with pytest.raises(ValueError, match=rf'would become one of {becomes} by the step .* the limit is 268,435,456'):
        predictors.Predictor.prepare(SimpleNamespace(_steps=steps), [image])
    check_resized(steps, 300, 400)
    check_resized([{'type': 'Resize', 'scale': (32, 32)}, step], *size)


def test_sizes_of_special_kinds():
    assert image_size(encoded('WEBP', lossless=True)) == (123, 45, 1)
    frames = dict(save_all=True, append_images=[Image.new('RGB', (123, 45), 'red')] * 3)
    assert image_size(encoded('WEBP', **frames)) == image_size(encoded('GIF', **frames)) == (123, 45, 1)
    # OpenCV reads the first page of a TIFF, tifffile all
    assert image_size(encoded('TIFF', **frames)) == (123, 45, 1)
    assert image_size(encoded('TIFF', **frames), all_pages=True) == (123, 45, 4)
    assert image_size(b'no image') is None
    assert image_size(bomb(2**31 - 1, 2**31 - 1)).pixels == (2**31 - 1) ** 2
    for kind in ('PNG', 'TIFF', 'WEBP', 'BMP', 'GIF'):
        with pytest.raises(OSError, match=f'the header of this {kind} is damaged'):
            image_size(encoded(kind)[:12])


def test_infer_skips_large_images_and_goes_on(pico_checkpoints, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'in'
    folder.mkdir()
    (folder / 'a.png').write_bytes(bomb(16_000, 16_000))
    for name in ('b.png', 'c.png', 'd\x1b[2J\u202e\nerror.png'):
        (folder / name).write_bytes(encoded('PNG', (20, 30)))
    describe = predictors.Predictor.prepare

    def prepare(self, images):
        if images[0].shape[0] == 30 and not failed:
            failed.append(1)
            raise MemoryError
        return describe(self, images)

    failed = []
    monkeypatch.setattr(predictors.Predictor, 'prepare', prepare)
    name, path = pico_checkpoints['classification']
    args = [str(folder), '--config', name, '--checkpoint', str(path), '--out-dir', str(tmp_path / 'out')]
    assert infer.main([*args, '--device', 'cpu']) == infer.SKIPPED
    document = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert len(document['images']) == 3 and len(document['skipped']) == 1
    assert f'16,000 x 16,000 pixels, the limit is {MAX_PIXELS:,}' in document['skipped'][0]['error']
    assert document['images'][-1]['path'] == str(folder / 'd\x1b[2J\u202e\nerror.png')  # exact in data
    out = capsys.readouterr()
    assert r'd\x1b[2J\u202e\nerror.png: ' in out.out and not set('\x1b\u202e') & set(out.out + out.err)
    # a limit of one's own
    assert infer.main([*args, '--device', 'cpu', '--max-pixels', '599', '--no-pictures']) == infer.SKIPPED
    assert len(json.loads((tmp_path / 'out/predictions.json').read_text())['skipped']) == 4


def test_control_characters_in_names_are_shown_as_escapes():
    assert shown('a\nb\x1b[31m\x7f\x9b\u202e\u200b\u2028.png') == r'a\nb\x1b[31m\x7f\x9b\u202e\u200b\u2028.png'
    assert shown('Bäume 樹 🌳 é.png') == 'Bäume 樹 🌳 é.png'
    assert shown('\udcff') == r'\udcff'
    assert shown_lines('one\ntwo\r') == 'one\ntwo\\r'


def test_pictures_are_drawn_at_a_bounded_size():
    for size in ((1, 1), (4096, 4096), (4097, 10), (4000, 5000), (1, 20_000_000)):
        stride = stride_for(*size)
        assert max(-(-side // stride) for side in size) <= MAX_DRAWN
        assert stride == 1 or max(size) > MAX_DRAWN
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert shrink_image(image, 2).shape == (3, 4, 3)


def test_scores_of_a_segmentor_above_the_limit_are_computed_for_a_part_and_the_map_is_enlarged(monkeypatch):
    segmentor = pytest.importorskip('mmdefmamba.apis.segmentor')
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sizes, seen = [(50, 31), (5, 4)], []

    def forward(data):
        for sample in data['data_samples']:
            height, width = sample.ori_shape
            seen.append((height, width))
            columns = torch.arange(width).expand(1, height, width) % 7
            sample.set_data({'seg_logits': PixelData(data=torch.zeros(7, height, width))})
            sample.set_data({'pred_sem_seg': PixelData(data=columns)})
        return data['data_samples']

    predictor = object.__new__(segmentor.TaskPredictor)
    predictor.model = SimpleNamespace(out_channels=7)
    predictor._steps = []
    predictor.inferencer = SimpleNamespace(
        forward=forward,
        preprocess=lambda images, batch_size: iter([{'data_samples': [SegDataSample() for _ in images]}]),
    )
    monkeypatch.setattr(segmentor, 'MAX_SCORES', 7 * 200)
    samples = predictor.predict([np.zeros((*size, 3), np.uint8) for size in sizes])
    # 50 x 31 pixels are 1,550, a third of the sides gives 17 x 11 = 187; the small one is as it was
    assert seen == [(17, 11), (5, 4)]
    assert [segmentor.TaskPredictor.class_map(sample).shape for sample in samples] == sizes
    assert segmentor.TaskPredictor.class_map(samples[0])[49].tolist() == [(column // 3) % 7 for column in range(31)]
    assert segmentor.TaskPredictor.class_map(samples[1])[0].tolist() == [0, 1, 2, 3]
    assert 'seg_logits' not in samples[0] and 'seg_logits' in samples[1]
