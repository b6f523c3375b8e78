"""The page in a real browser."""

import importlib.util
import io
import shutil
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from PIL import Image

import mmdefmamba  # noqa: F401  mends the libraries before they are imported
from mmdefmamba.app.trained_models import TrainedModel
from mmdefmamba.datasets.digits import load_digits_split

BROWSER = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
MISSING = [name for name in ('gradio', 'playwright') if importlib.util.find_spec(name) is None]
MISSING += [] if BROWSER else ['chromium']
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f'not installed: {", ".join(MISSING)}')
OPTIONS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
PATIENCE = 60_000  # ms; enough for a busy machine


@pytest.fixture(scope='module')
def address(pico_checkpoints):
    """The address of a page with models of random weights."""
    from mmdefmamba.app.gradio_page import serve

    models = [TrainedModel(task, name, str(path)) for task, (name, path) in pico_checkpoints.items()]
    page, url = serve(models, port=0, block=False)
    yield url
    page.close(verbose=False)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp('profile')
        context = playwright.chromium.launch_persistent_context(profile, executable_path=BROWSER, args=OPTIONS)
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


@pytest.fixture
def visit(browser, address):
    """``visit(width)`` opens the page and waits for its pictures.

    Afterwards all requests of the page must have gone to this machine.
    """
    pages, problems, hosts = [], [], set()

    def visit(width=1280):
        page = browser.new_page()
        pages.append(page)
        page.set_viewport_size(dict(width=width, height=844))
        page.on('request', lambda request: hosts.add(urlsplit(request.url).hostname or urlsplit(request.url).scheme))
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.goto(address)
        page.wait_for_selector('#activation img')
        return page

    yield visit
    for page in pages:
        page.close()
    assert hosts <= {'127.0.0.1', 'data', 'blob'}, 'the page sent a request to another machine'
    assert not problems


def source(page, name):
    return page.locator(f'#{name} img').get_attribute('src')


def wait_for_another(page, name, old):
    page.wait_for_function(
        '([name, old]) => { const img = document.querySelector(`#${name} img`); return img && img.src !== old; }',
        arg=[name, old],
    )
    return source(page, name)


def pixels(page, name):
    picture = page.locator(f'#{name} img')
    picture.scroll_into_view_if_needed()
    return np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert('RGB')).astype(int)


def test_visit(visit, tmp_path):
    """One visit from an example to an error. The page is opened once, because opening takes the longest."""
    page = visit()
    assert page.locator('#found li').count() == 5
    for name in ('prediction', 'points', 'order', 'activation'):
        assert page.locator(f'#{name} img').get_attribute('alt')

    # the order is animated
    before = pixels(page, 'order')
    for _ in range(20):
        page.wait_for_timeout(700)
        if moved := np.abs(pixels(page, 'order') - before).max() > 30:
            break
    assert moved

    # a click on a token draws its activation map, and an arrow key moves to the next token
    old, before = source(page, 'activation'), pixels(page, 'activation')
    box = page.locator('#activation img').bounding_box()
    page.mouse.click(box['x'] + 0.9 * box['width'], box['y'] + 0.1 * box['height'])
    old = wait_for_another(page, 'activation', old)
    assert 'row 1, column 8' in page.locator('#activation').inner_text()
    assert np.abs(pixels(page, 'activation') - before).mean() > 1
    page.locator('#activation img').press('ArrowDown')
    old = wait_for_another(page, 'activation', old)
    assert 'row 2, column 8' in page.locator('#activation').inner_text()

    # another scan, another block
    old = source(page, 'order')
    page.get_by_label('raster', exact=True).click()
    old = wait_for_another(page, 'order', old)
    page.locator('#block input').click()
    page.get_by_role('option', name='Stage 2, block 1: 4 x 4 tokens').click()
    wait_for_another(page, 'order', old)

    # an upload; a wrong one shows a message and changes nothing else
    digit = load_digits_split('test')[0][3]
    upload = tmp_path / 'digit.png'
    Image.fromarray(255 - cv2.resize(digit, (120, 120), interpolation=cv2.INTER_CUBIC)).save(upload)
    old = source(page, 'prediction')
    page.get_by_role('tab', name='Upload').click()
    page.locator('#upload input[type=file]').set_input_files(upload)
    old = wait_for_another(page, 'prediction', old)
    (tmp_path / 'text.png').write_text('not an image')
    page.locator('#upload button[aria-label=Clear]').click()
    page.locator('#upload input[type=file]').set_input_files(tmp_path / 'text.png')
    page.get_by_role('alert').filter(has_text='This is not a complete image').wait_for()
    assert source(page, 'prediction') == old
    assert 'Traceback' not in page.content()

    # a drawing
    page.get_by_role('tab', name='Draw').click()
    box = page.locator('#pad canvas').bounding_box()
    places = [
        (box['x'] + x * box['width'], box['y'] + y * box['height']) for x, y in ((0.3, 0.3), (0.7, 0.3), (0.4, 0.8))
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()
    old = wait_for_another(page, 'prediction', old)
    assert page.locator('#message').inner_text().strip() == ''

    # models of the other tasks get the same drawing
    for task, caption in (('detection', 'Objects'), ('segmentation', 'Share of the pixels')):
        page.locator('#model input').click()
        page.get_by_role('option', name=task).click()
        page.locator('#prediction').filter(has_text=caption).wait_for()
        old = wait_for_another(page, 'prediction', old)


def test_page_fits_the_width_of_a_phone(visit):
    page = visit(width=390)
    widths = page.evaluate('[document.documentElement.scrollWidth, document.documentElement.clientWidth]')
    assert widths == [390, 390]
    left, right = page.evaluate(
        '(() => { const boxes = [...document.querySelectorAll("img, canvas, button, input, li")]'
        '.map(x => x.getBoundingClientRect()).filter(x => x.width);'
        'return [Math.min(...boxes.map(x => x.left)), Math.max(...boxes.map(x => x.right))]; })()'
    )
    assert left >= 0 and right <= 390
