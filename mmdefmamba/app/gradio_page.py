"""The page itself, in Gradio: what is on it, and what happens when it is touched. Nothing it loads is elsewhere."""

import sys
from typing import NamedTuple

import gradio as gr
import numpy as np

from .examples import example_image
from .explorer import Analysis, Explorer
from .html import CLICK_JS, CSS, PAD, PAD_JS, message, picture, shares
from .uploads import FORMATS, MAX_BYTES, UploadError, load_drawing, load_upload

TITLE = 'DefMamba: what it sees'
INTRO = f"""# {TITLE}
What a trained network predicts, where its deformable scan looks and in which order, and what each of its tokens hears
of the others. Everything stays on this machine."""
DRAWING, UPLOAD, EXAMPLE = 'drawing', 'upload', 'example'
SESSIONS, SESSION_SECONDS = 32, 3600
WHAT = {
    'classification': 'What it takes the image for',
    'detection': 'Objects, with the score of each',
    'segmentation': 'Share of the pixels of each class',
}


class Session(NamedTuple):
    """What one visitor is looking at."""

    image: np.ndarray | None = None
    source: str = EXAMPLE
    examples: int = 0
    analysis: Analysis | None = None
    token: tuple = (0, 0)


class Page:
    """The page's events; ``build`` lays it out.

    Args:
        explorer: an :class:`~mmdefmamba.app.explorer.Explorer` with at least one model.
    """

    def __init__(self, explorer):
        self.explorer = explorer

    def build(self):
        """The page, a ``gradio.Blocks`` to launch."""
        names = list(self.explorer.models)
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, SESSION_SECONDS)) as page:
            session = gr.State(Session(), time_to_live=SESSION_SECONDS)
            gr.Markdown(INTRO)
            with gr.Row():
                with gr.Column(scale=2, min_width=280):
                    model = gr.Dropdown(names, value=names[0], label='Model', elem_id='model')
                    with gr.Tabs():
                        with gr.Tab('Draw'):
                            pad = gr.HTML(html_template=PAD, js_on_load=PAD_JS, elem_id='pad')
                        with gr.Tab('Upload'):
                            upload = gr.File(
                                label=f'{", ".join(FORMATS)}, up to {MAX_BYTES // 2**20} MB',
                                file_types=['image'],
                                height=180,
                                elem_id='upload',
                            )
                            as_digit = gr.Checkbox(
                                True,
                                label='Cut the digit out and make it like the training images',
                                visible=self.explorer.is_of_digits(names[0]),
                                elem_id='as_digit',
                            )
                    example = gr.Button('Show me an example', elem_id='example')
                    said = gr.HTML(elem_id='message')
                with gr.Column(scale=3, min_width=280):
                    prediction = gr.HTML(elem_id='prediction', elem_classes='picture')
                    found = gr.HTML(elem_id='found')
            gr.Markdown('## Inside')
            with gr.Row():
                block = gr.Dropdown([], label='Block', min_width=280, elem_id='block')
                scan = gr.Radio([], label='Scan', min_width=280, elem_id='scan')
            with gr.Row():
                with gr.Column(min_width=280):
                    points = gr.HTML(elem_id='points', elem_classes='picture')
                with gr.Column(min_width=280):
                    order = gr.HTML(elem_id='order', elem_classes='picture')
                with gr.Column(min_width=280):
                    activation = gr.HTML(
                        elem_id='activation', elem_classes=['picture', 'clickable'], js_on_load=CLICK_JS
                    )

            results = [session, said, prediction, found, block, scan, points, order, activation]
            settings = [session, model, as_digit]
            # one thing at a time, for all visitors: the processor is the same
            alone = dict(concurrency_id='explorer', concurrency_limit=1, api_visibility='private')
            # what is touched while the page is busy counts, too: Gradio would drop it
            mode = dict(alone, trigger_mode='always_last')
            options = dict(mode, show_progress='minimal', show_progress_on=prediction)
            upload.upload(self.on_upload, [upload, *settings], results, **options)
            pad.submit(self.on_drawing, settings, results, **options)
            example.click(self.on_example, settings, results, **options)
            model.input(self.on_model, settings, [as_digit, *results], **options)
            as_digit.input(self.on_settings, settings, results, **options)
            views = [session, scan, points, order, activation]
            block.input(
                self.on_block, [session, block], views, show_progress='minimal', show_progress_on=points, **mode
            )
            scan.input(self.on_scan, [session, block, scan], order, show_progress='minimal', **mode)
            activation.select(self.on_token, [session, block], [session, activation], show_progress='hidden', **mode)
            page.load(self.on_example, settings, results, **alone)
        return page

    def on_upload(self, path, session, model, as_digit):
        """A file was uploaded."""
        return self._attempt(lambda: load_upload(path), UPLOAD, session, model, as_digit)

    def on_drawing(self, event: gr.EventData, session, model, as_digit):
        """A stroke was drawn."""
        return self._attempt(lambda: load_drawing(event._data.get('png')), DRAWING, session, model, as_digit)

    def on_example(self, session, model, as_digit):
        """An example was asked for."""
        session = session._replace(examples=session.examples + 1)
        is_of_digits = self.explorer.is_of_digits(model)
        return self._attempt(
            lambda: example_image(is_of_digits, session.examples - 1), EXAMPLE, session, model, as_digit
        )

    def on_model(self, session, model, as_digit):
        """Another model was chosen: an example is another one for it, all else is looked at again."""
        is_of_digits = self.explorer.is_of_digits(model)
        looked = self.on_example if session.source == EXAMPLE else self.on_settings
        return [gr.update(visible=is_of_digits), *looked(session, model, as_digit)]

    def on_settings(self, session, model, as_digit):
        """The same image again, seen otherwise."""
        return self._attempt(lambda: session.image, session.source, session, model, as_digit)

    def on_block(self, session, block):
        """Another block was chosen."""
        session = session._replace(token=session.analysis.centre(block))
        return [session, *self._views(session, block)]

    def on_scan(self, session, block, scan):
        """Another scan was chosen."""
        return self._order(session.analysis, block, scan)

    def on_token(self, event: gr.EventData, session, block):
        """A token was clicked on, or stepped to by an arrow key."""
        token = session.analysis.neighbour(block, session.token, event._data)
        session = session._replace(token=token)
        return session, self._activation(session, block)

    def _attempt(self, load, source, session, model, as_digit):
        """Load an image and look at it; where it cannot be used, say why and leave the rest as it is."""
        try:
            image = load()
            like_training = source == DRAWING or (source == UPLOAD and as_digit)
            analysis = self.explorer.look(model, image, like_training and self.explorer.is_of_digits(model))
        except UploadError as error:
            return [session, message(str(error)), *[gr.skip()] * 7]
        traces = analysis.traces
        # a block that learned where to look, the one with most tokens
        block = next((name for name, trace in traces.items() if trace.point_offset is not None), next(iter(traces)))
        session = session._replace(image=image, source=source, analysis=analysis, token=analysis.centre(block))
        choices = [(analysis.describe_block(name), name) for name in traces]
        drawn = picture(analysis.picture, f'The image with the prediction: {analysis.summary}', WHAT[analysis.task])
        blocks = gr.update(choices=choices, value=block)
        return [session, '', drawn, shares(analysis.shares, analysis.verdict), blocks, *self._views(session, block)]

    def _views(self, session, block):
        analysis = session.analysis
        trace = analysis.traces[block]
        chosen = trace.scan_index()
        scans = gr.update(choices=[(name, k) for k, name in enumerate(trace.scans)], value=chosen)
        points = analysis.points(block)
        if points is None:
            shown = '<p>The scans of this block learn no points.</p>'
        else:
            caption = f'Where the deformable scan reads: {analysis.describe_points(block)}'
            shown = picture(points, 'Arrows from each token to the point that is read for it', caption)
        return [scans, shown, self._order(analysis, block, chosen), self._activation(session, block)]

    def _order(self, analysis, block, scan):
        caption = 'The order of the scan: from the white dot to the red one, dark places first and yellow ones last.'
        name = analysis.traces[block].scans[scan]
        return picture(analysis.animation(block, scan), f'The path of the scan {name} over the image, moving', caption)

    def _activation(self, session, block):
        row, column = session.token
        caption = (
            f'What the token in row {row + 1}, column {column + 1} receives from each other one through all scans, '
            'the more the brighter. Click on another token, or go there with the arrow keys.'
        )
        image = session.analysis.activation(block, session.token)
        return picture(image, f'Activation map of the token in row {row + 1}, column {column + 1}', caption, True)


def serve(models, device='cpu', host='127.0.0.1', port=7860, open_browser=False, block=True):
    """Load the models and serve the page.

    Args:
        models: a list of :class:`~mmdefmamba.app.trained_models.TrainedModel`.
        device: where to run.
        host, port: where to listen; port 0 takes a free one.
        open_browser: whether to open the page.
        block: whether to serve until interrupted; else return at once.

    Returns:
        The served ``gradio.Blocks``, to be closed, and the page's address.

    Raises:
        ValueError: none of the models can be loaded.
        OSError: the port is taken.
    """
    explorer = Explorer(models, device)
    for name, reason in explorer.load_all().items():
        print(f'passed over {name}: {reason}', file=sys.stderr)
    if not explorer.models:
        raise ValueError('none of the models can be loaded')
    page = Page(explorer).build()
    _, url, _ = page.launch(
        server_name=host,
        server_port=port or None,
        inbrowser=open_browser,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_BYTES,
        state_session_capacity=SESSIONS,
        # nothing to the outside, whatever the environment says
        share=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Base(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']),
        css=CSS,
    )
    print(f'open {url} in a browser; Ctrl+C ends it', flush=True)
    if block:
        page.block_thread()
    return page, url
