"""Finding and reading image files, and choosing names for their results."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import Image

import mmdefmamba  # noqa: F401  mends mmcv
from mmdefmamba.apis.images import find_images, output_names, write_image
from mmdefmamba.visualization.inputs import ImageReader

read_image = ImageReader(Config(dict(test_dataloader=dict(dataset=dict(pipeline=[])))))


@pytest.fixture
def tree(tmp_path):
    """A folder with images and other files."""
    for name in ('b.png', 'a.JPG', 'deep/er/c.webp', 'deep/.hidden.png', '.secret/d.png', 'out/pictures/b.png'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'notes.txt').touch()
    (tmp_path / 'folder.png').mkdir()
    return tmp_path


def names(paths, root):
    return [os.path.relpath(path, root) for path in paths]


def test_folders_give_their_images_sorted(tree):
    assert names(find_images([tree]), tree) == ['a.JPG', 'b.png']
    assert names(find_images([tree], recursive=True), tree) == [
        'a.JPG',
        'b.png',
        'deep/er/c.webp',
        'out/pictures/b.png',
    ]
    kept = find_images([tree], recursive=True, leave_out=tree / 'out')
    assert names(kept, tree) == ['a.JPG', 'b.png', 'deep/er/c.webp']


def test_named_files_are_taken_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert names(find_images(['notes.txt', 'b.png', tree, './b.png']), tree) == ['notes.txt', 'b.png', 'a.JPG']


def test_patterns_match_and_names_that_look_like_patterns_are_files(tree):
    assert names(find_images([f'{tree}/**/*.webp']), tree) == ['deep/er/c.webp']
    assert names(find_images([f'{tree}/?.png']), tree) == ['b.png']
    (tree / 'x[1].png').touch()
    assert names(find_images([tree / 'x[1].png']), tree) == ['x[1].png']


def test_input_without_images_is_refused_with_its_name(tree):
    (tree / 'empty').mkdir()
    for given, message in (
        ('nowhere.png', r'no such file or folder: .*nowhere\.png, seen from /'),
        ('*.gif', r'no file matches .*\*\.gif'),
        ('empty', r'no images in .*empty: no file ends in \.bmp.*; --recursive searches its subfolders'),
        ('folder.png', r'no images in .*folder\.png'),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            find_images([tree / 'b.png', tree / given])


def test_results_of_different_images_have_different_names():
    def written(*paths):
        return [name.as_posix() for name in output_names([Path(path) for path in paths])]

    assert written('in/a/x.jpg', 'in/b/x.jpg') == ['a/x.png', 'b/x.png']
    assert written('in/x.jpg') == ['x.png']
    assert written('x.v2.jpg', 'X.v2.png', 'y.jpg') == ['x.v2.jpg.png', 'X.v2.png.png', 'y.png']
    assert written('x.jpg', 'x.png', 'x.jpg.png') == ['x.jpg.png', 'x.png.png', 'x.jpg_1.png']


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'P', 'I;16', '1', 'LA', 'CMYK'])
def test_images_are_read_as_in_training(mode, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    if mode == 'I;16':
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels[..., :3]).convert(mode)
    path = tmp_path / ('image.jpg' if mode == 'CMYK' else 'image.png')
    image.save(path)
    found = read_image(path)
    assert found.shape == (5, 7, 3) and found.dtype == np.uint8
    assert np.array_equal(found, LoadImageFromFile()(dict(img_path=str(path)))['img'])
    if mode == 'RGB':
        assert np.array_equal(found, pixels[..., 2::-1])
    if mode in ('L', 'I;16'):
        assert np.array_equal(
            found, np.asarray(image.convert('L') if mode == 'L' else pixels[..., 0])[..., None].repeat(3, 2)
        )


def test_rotation_in_the_exif_data_is_applied(tmp_path):
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[:20] = 255  # white above black
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    Image.fromarray(pixels).save(tmp_path / 'turned.jpg', exif=exif, quality=100)
    found = read_image(tmp_path / 'turned.jpg')
    assert found.shape == (20, 40, 3)
    assert found[:, 25:].mean() > 250 and found[:, :15].mean() < 5


def test_broken_image_is_refused_with_its_path(tmp_path):
    whole = tmp_path / 'whole.png'
    write_image(whole, np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8))
    for name, content, message in (
        ('cut.png', whole.read_bytes()[:-2000], 'whose end is missing'),
        ('text.jpg', b'not an image', 'no decoder can read these 12 bytes as an image'),
        ('empty.png', b'', 'the file is empty'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=rf'{name} could not be read: .*{message}'):
            read_image(tmp_path / name)
    with pytest.raises(OSError, match=r'gone\.png'):
        read_image(tmp_path / 'gone.png')
    with pytest.raises(OSError, match='Is a directory'):
        read_image(tmp_path)


def test_written_images_are_read_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    write_image(tmp_path / 'new/folder/x.png', pixels)
    assert np.array_equal(read_image(tmp_path / 'new/folder/x.png')[..., ::-1], pixels)
    labels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 100
    write_image(tmp_path / 'labels.png', labels)
    assert np.array_equal(cv2.imread(str(tmp_path / 'labels.png'), cv2.IMREAD_UNCHANGED), labels)
