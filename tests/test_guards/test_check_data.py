"""tools/check_data.py: what it prints, writes and returns, for data that are right and data that are not."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch

TASKS = ('classification', 'detection', 'segmentation')
COUNTS = {
    'classification': [['0', 'cat', '2', '1'], ['1', 'dog', '2', '1']],
    'detection': [['0', 'cat', '2', '2', '1', '1'], ['1', 'dog', '2', '2', '1', '1']],
    # a box of 20 x 24 in 40 x 32 pixels is 37.5 %
    'segmentation': [['0', 'cat', '62.5', '4', '62.5', '2'], ['1', 'dog', '37.5', '4', '37.5', '2']],
}


@pytest.fixture
def check(tools, capsys, tmp_path):
    """Return ``check(data, *options)``, which gives (exit code, printed text, page)."""

    def run(data, *options):
        capsys.readouterr()
        code = tools['check_data']([str(data.config), '--report', str(tmp_path / 'page'), *options])
        return code, capsys.readouterr().out, (tmp_path / 'page/data.html').read_text()

    return run


def table(text, title):
    """Return the rows of a table in the printed text, without its header."""
    lines = text.partition(f'\n{title}:\n')[2].partition('\n\n')[0].splitlines()
    return [line.split() for line in lines[1:]]


@pytest.mark.parametrize('task', TASKS)
def test_good_data_have_no_problem_and_are_counted_and_drawn(tiny, check, task):
    code, text, page = check(tiny(task))
    assert code == 0 and 'problems: none were found' in text
    assert table(text, 'counts') == COUNTS[task]
    assert (
        'sizes: height 40 to 40, median 40; width 32 to 32, median 32 (pixels' in text
        and 'note: the test reads the same data' in text
    )
    assert page.count('<img class="small" src="data:image/png;base64,') == 6
    assert 'cannot be drawn' not in page and not re.search(r'(src|href)="http', page)


def test_problems_of_classification_are_all_named(tiny, check):
    data = tiny('classification')
    first = data.images()[0]
    cv2.imwrite(str(first.with_name('a.webp')), np.zeros((50, 60, 3), np.uint8))
    cut = data.images()[-1]
    cut.write_bytes(cut.read_bytes()[:-20])
    (data.root / 'val/cat').rename(data.root / 'val/wolf')
    code, text, page = check(data, '--cfg-options', 'default_hooks.checkpoint.save_best=accuracy/top2')
    assert code == 1
    assert 'note: 1 of 5 files are left out: 1 .webp' in text
    assert table(text, 'names') == [['0', 'cat', 'cat', 'dog', 'dog'], ['1', 'dog', 'dog', 'wolf', 'wolf']]
    expected = ['1 of 4 images are damaged', 'could not be loaded', "gives no 'accuracy/top2'", 'are dog, wolf (2)']
    assert [text.count(each) for each in expected] == [1] * 4 and 'problems: 4' in text
    assert page.count('cannot be drawn') == 1


def test_problems_of_detection_are_all_named(tiny, check):
    data = tiny('detection')

    def spoil(coco):
        coco['categories'].reverse()
        coco['images'][0]['file_name'] = 'nowhere.png'
        coco['annotations'][1].update(iscrowd=1)

    data.change_annotations(spoil)
    data.change_annotations(lambda coco: coco['annotations'][0].update(segmentation=[[1, 2]]), 'validation')
    code, text, _ = check(data)
    assert code == 1
    assert table(text, 'names') == [['0', 'cat', 'dog', 'cat', 'cat'], ['1', 'dog', 'cat', 'dog', 'dog']]
    assert table(text, 'counts')[1] == ['1', 'dog', '1', '1', '1', '1']
    assert 'note: 3 of 4 annotations are objects to learn. Left out: 1 marked as a crowd' in text
    assert '1 of 4 images are missing' in text and 'an outline has 1 points' in text


def test_problems_of_segmentation_are_all_named(tiny, check):
    data = tiny('segmentation')
    for split in ('training', 'validation'):
        for image in data.images(split):
            path = str(data.map_of(image))
            cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_GRAYSCALE) * 255)
    code, text, _ = check(data)
    assert code == 1 and text.count("No class but 'cat' occurs in") == 2
    assert table(text, 'counts')[-1] == ['255', '(ignored)', '37.5', '4', '37.5', '2']


def test_sizes_are_given_for_each_side(tiny, check):
    data = tiny('classification')
    for image, (height, width) in zip(data.images(), ((43, 86), (80, 76), (44, 56), (50, 90)), strict=True):
        cv2.imwrite(str(image), np.zeros((height, width, 3), np.uint8))
    _, text, _ = check(data)
    assert 'sizes: height 43 to 80, median 50; width 56 to 90, median 86 (pixels; 4 files read)' in text


def test_labels_without_a_name_are_a_problem(tiny, check):
    data = tiny('segmentation')
    path = str(data.map_of(data.images()[0]))
    cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_GRAYSCALE) * 2)
    code, text, _ = check(data)
    assert code == 1 and 'problems: 1\n' in text and 'labels from 0 to 1, but its 4 label maps' in text
    assert '2 in 1 maps. Give the classes 3 names in metainfo.classes of the dataset' in text


def test_two_categories_with_one_id_are_a_problem(tiny, check):
    data = tiny('detection')
    data.change_annotations(lambda coco: [each.update(id=1) for each in coco['categories']])
    code, text, _ = check(data)
    assert code == 1 and "two categories have the id 1, 'cat' and 'dog'" in text


def test_data_that_cannot_be_read_do_not_hide_the_others(tiny, check):
    data = tiny('detection')
    (data.root / 'training.json').write_text('{')
    code, text, _ = check(data)
    assert code == 1 and 'training.json' in text and 'JSONDecodeError' in text
    assert table(text, 'counts') == [['0', 'cat', '1', '1'], ['1', 'dog', '1', '1']]


def test_classes_are_compared_with_a_checkpoint(tiny, check, tmp_path):
    file = tmp_path / 'checkpoint.pth'
    for names, expected in ((('cat', 'dog'), 0), (('dog', 'cat'), 1)):
        torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=names))), file)
        code, text, _ = check(tiny('classification'), '--checkpoint', str(file))
        assert code == expected
        assert [row[-1] for row in table(text, 'names')] == [*names]
        shutil.rmtree(tmp_path / 'classification')


def test_digit_configs_have_no_problem(tools, capsys, tmp_path):
    """The data of the quickstart: images in memory."""
    config = 'configs/classification/defmamba_pico_digits.py'
    options = ['--report', str(tmp_path), '--limit', '5', '--samples', '2']
    assert tools['check_data']([config, *options]) == 0
    rows = table(capsys.readouterr().out, 'counts')
    assert len(rows) == 10 and sum(int(row[2]) for row in rows) + sum(int(row[3]) for row in rows) == 1797
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["data.html"]'
