"""The page reads images, refuses bad ones with a message, and converts drawn digits."""

import base64
import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdefmamba.app import uploads
from mmdefmamba.app.uploads import UploadError, load_drawing, load_upload, prepare_digit
from mmdefmamba.datasets.digits import load_digits_split


def save(path, image, **options):
    image.save(path, **options)
    return path


def bomb(path, side):
    """Write a PNG of a few hundred bytes whose header says ``side`` x ``side`` pixels."""

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    header = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b''))
    return path


def test_uploads_become_upright_rgb_on_white(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(load_upload(save(tmp_path / 'a.png', Image.fromarray(pixels))), pixels)
    gray = load_upload(save(tmp_path / 'g.png', Image.fromarray(pixels[..., 0])))
    assert np.array_equal(gray, pixels[..., :1].repeat(3, -1))
    clear = np.dstack([pixels, np.zeros((5, 7), np.uint8)])
    clear[0, 0, 3] = 255
    found = load_upload(save(tmp_path / 'c.png', Image.fromarray(clear)))
    assert np.array_equal(found[0, 0], pixels[0, 0]) and (found[1:] == 255).all()
    deep = Image.fromarray(np.full((2, 2), 257 * 200, np.uint16))
    assert (load_upload(save(tmp_path / 'd.png', deep)) == 200).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_upload(save(tmp_path / 'e.jpg', Image.fromarray(pixels), exif=exif)).shape == (7, 5, 3)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda path: path.write_text('not an image') and path,
            'This is not a complete image. Send a BMP, JPEG, PNG or WEBP file',
        ),
        (lambda path: path.touch() or path, 'not a complete image'),
        (lambda path: bomb(path, 5000), r'5000 x 5000 pixels\. The limit is 20 million'),
        (lambda path: bomb(path, 60_000), r'(60000 x 60000|too many) pixels\. The limit is 20 million'),
        (lambda path: bomb(path, 100), 'not a complete image'),
        (lambda path: save(path, Image.new('RGB', (4, 4)), format='GIF'), 'not a complete image'),
    ],
)
def test_unusable_upload_is_refused_with_a_message_for_the_visitor(make, message, tmp_path):
    with pytest.raises(UploadError, match=message):
        load_upload(make(tmp_path / 'upload.png'))


def test_truncated_and_large_files_are_refused(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    whole = save(tmp_path / 'whole.png', Image.fromarray(noise)).read_bytes()
    (tmp_path / 'cut.png').write_bytes(whole[:-3000])
    with pytest.raises(UploadError, match='not a complete image'):
        load_upload(tmp_path / 'cut.png')
    monkeypatch.setattr(uploads, 'MAX_BYTES', len(whole) - 1)
    with pytest.raises(UploadError, match=r'The file has 0\.0 MB\. The limit is 0 MB'):
        load_upload(tmp_path / 'whole.png')


def test_drawings_are_read_from_data_urls():
    buffer = io.BytesIO()
    Image.new('RGB', (3, 2), 'red').save(buffer, 'PNG')
    url = 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
    assert load_drawing(url).tolist() == [[[255, 0, 0]] * 3] * 2
    for wrong in (None, 7, 'file:///etc/passwd', url[:-1] + '!', 'data:image/png;base64,' + 'A' * 20_000_000):
        with pytest.raises(UploadError, match='The drawing is incomplete'):
            load_drawing(wrong)
    with pytest.raises(UploadError, match='not a complete image'):
        load_drawing('data:image/png;base64,AAAA')


def drawn(digit, ink, ground, side=160, corner=(70, 20)):
    """Draw a digit of the dataset, enlarged, at a place on a uniform background."""
    large = cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC) / 255.0
    canvas = np.zeros((280, 280))
    canvas[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = large
    return np.repeat((ground + (ink - ground) * canvas).round().astype(np.uint8)[..., None], 3, axis=-1)


def test_drawn_digits_become_the_digits_of_the_dataset():
    images, _ = load_digits_split('train')
    for ink, ground, side, corner in ((0, 255, 160, (70, 20)), (255, 0, 90, (5, 150)), (60, 200, 240, (40, 0))):
        errors = []
        for digit in images[:20]:
            found = prepare_digit(drawn(digit, ink, ground, side, corner))
            assert found.shape == (8, 8, 3) and found.dtype == np.uint8 and found.max() == 255
            assert (found == found[..., :1]).all()
            errors.append(np.abs(found[..., 0].astype(float) - digit).mean())
        # shifts by less than a pixel remain; two different digits differ by 70 to 100
        assert np.mean(errors) < 25


def test_strokes_of_every_width_get_the_width_of_the_dataset():
    shares = []
    for width in (8, 16, 26, 40):
        canvas = np.full((280, 280, 3), 255, np.uint8)
        cv2.polylines(canvas, [np.array([[70, 60], [210, 60], [120, 230]])], False, (0, 0, 0), width)
        shares.append(prepare_digit(canvas)[..., 0].mean() / 255)
    assert max(shares) - min(shares) < 0.06
    usual = load_digits_split('train')[0].mean() / 255
    assert np.mean(shares) == pytest.approx(usual, abs=0.08)


def test_empty_drawing_is_refused():
    for value in (0, 255, 128):
        with pytest.raises(UploadError, match='nothing stands out'):
            prepare_digit(np.full((280, 280, 3), value, np.uint8))
    dot = np.full((280, 280, 3), 255, np.uint8)
    dot[140, 140] = 0
    assert prepare_digit(dot).max() == 255
    assert prepare_digit(np.eye(2, dtype=np.uint8)[..., None].repeat(3, -1) * 255).shape == (8, 8, 3)
