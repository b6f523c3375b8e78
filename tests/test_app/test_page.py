"""The events of the page, without a browser."""

import pytest

import mmdefmamba  # noqa: F401  mends the libraries before they are imported
from mmdefmamba.app.examples import example_image
from mmdefmamba.app.explorer import Explorer
from mmdefmamba.app.trained_models import TrainedModel

pytest.importorskip('gradio', reason="gradio is not installed: pip install 'mmdefmamba[app]'")
from mmdefmamba.app.gradio_page import UPLOAD, Page, Session

RESULTS = ['as_digit', 'session', 'said', 'prediction', 'found', 'block', 'scan', 'points', 'order', 'activation']


@pytest.fixture
def page(pico_checkpoints, tmp_path):
    """A page with a classifier, a segmentor, and a model that cannot be loaded."""
    models = [TrainedModel(task, *map(str, pico_checkpoints[task])) for task in ('classification', 'segmentation')]
    (tmp_path / 'text.pth').write_text('no checkpoint')
    explorer = Explorer([*models, TrainedModel('broken', 'defmamba_pico_digits', str(tmp_path / 'text.pth'))], 'cpu')
    return Page(explorer)


def named(results):
    return dict(zip(RESULTS[-len(results) :], results, strict=True))


@pytest.mark.parametrize('source', ['example', UPLOAD])
def test_a_picture_never_stays_from_the_model_before(page, source):
    session = Session()
    if source == UPLOAD:
        session = Session(example_image(False, 0), UPLOAD)
    first = named(page.on_model(session, 'classification', False))
    assert first['session'].analysis.model == 'classification' and '<img' in first['prediction']
    assert first['as_digit']['visible']
    failed = named(page.on_model(first['session'], 'broken', False))
    assert 'The model broken cannot be loaded' in failed['said']
    assert failed['session'].analysis is None
    assert {failed[name] for name in ('prediction', 'found', 'points', 'order', 'activation')} == {''}
    assert failed['block']['choices'] == failed['scan']['choices'] == []
    assert not failed['as_digit']['visible']
    # the next model shows the same upload, or an example
    last = named(page.on_model(failed['session'], 'segmentation', False))
    assert last['session'].analysis.model == 'segmentation' and last['said'] == ''
    assert last['prediction'] != first['prediction'] and '<img' in last['prediction']


def test_a_wrong_file_leaves_the_pictures_of_the_same_model(page, tmp_path):
    shown = named(page.on_example(Session(), 'classification', False))
    (tmp_path / 'text.png').write_text('no image')
    kept = named(page.on_upload(str(tmp_path / 'text.png'), shown['session'], 'classification', False))
    assert kept['said'] and kept['session'].analysis is shown['session'].analysis
    assert all(kept[name] == {'__type__': 'update'} for name in ('prediction', 'points', 'order', 'activation'))
