"""The page in Gradio: its layout and its events. It loads nothing from other machines."""

import sys
from typing import NamedTuple

import gradio as gr
import numpy as np
from starlette.middleware import Middleware

from ..files import say, shown
from .examples import example_image
from .explorer import Analysis, Explorer
from .hosts import AllowedHosts, allowed_names, is_everywhere
from .html import CLICK_JS, CSS, PAD, PAD_JS, message, picture, shares
from .uploads import FORMATS, MAX_BYTES, UploadError, load_drawing, load_upload

TITLE = 'DefMamba: what it sees'
INTRO = f"""# {TITLE}
What a trained network predicts, where its deformable scan reads and in which order, and how much its tokens influence
each other. Everything stays on this machine."""
DRAWING, UPLOAD, EXAMPLE = 'drawing', 'upload', 'example'
SESSIONS, SESSION_SECONDS = 32, 3600
WHAT = {
    'classification': 'Predicted class',
    'detection': 'Objects, each with its score',
    'segmentation': 'Share of the pixels per class',
}


class Session(NamedTuple):
    """The state of one visitor: the image, its source and its analysis, and the selected token."""

    image: np.ndarray | None = None
    source: str = EXAMPLE
    examples: int = 0
    analysis: Analysis | None = None
    token: tuple = (0, 0)


class Page:
    """The page: ``build`` makes its layout, and the other methods handle its events.

    Args:
        explorer: an :class:`~mmdefmamba.app.explorer.Explorer` with at least one model.
    """

    def __init__(self, explorer):
        self.explorer = explorer

    def build(self):
        """Build the page, a ``gradio.Blocks`` that can be launched."""
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
                                label='Cut out the digit and convert it to the form of the training images',
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
            # one event at a time for all visitors, because they share one processor
            alone = dict(concurrency_id='explorer', concurrency_limit=1, api_visibility='private')
            # Gradio would drop events that arrive while the page is busy; with always_last the last one is handled
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
        """Handle an uploaded file."""
        return self._attempt(lambda: load_upload(path), UPLOAD, session, model, as_digit)

    def on_drawing(self, event: gr.EventData, session, model, as_digit):
        """Handle a drawing."""
        return self._attempt(lambda: load_drawing(event._data.get('png')), DRAWING, session, model, as_digit)

    def on_example(self, session, model, as_digit):
        """Handle a request for an example."""
        session = session._replace(examples=session.examples + 1)

        def load():
            return example_image(self.explorer.is_of_digits(model), session.examples - 1)

        return self._attempt(load, EXAMPLE, session, model, as_digit)

    def on_model(self, session, model, as_digit):
        """Handle the choice of another model: show a new example if an example is shown, else the same image again."""
        looked = self.on_example if session.source == EXAMPLE else self.on_settings
        results = looked(session, model, as_digit)
        loaded = results[0].analysis is not None and results[0].analysis.model == model
        return [gr.update(visible=loaded and self.explorer.is_of_digits(model)), *results]

    def on_settings(self, session, model, as_digit):
        """Handle a change of settings: analyse the same image again."""
        return self._attempt(lambda: session.image, session.source, session, model, as_digit)

    def on_block(self, session, block):
        """Handle the choice of another block."""
        session = session._replace(token=session.analysis.centre(block))
        return [session, *self._views(session, block)]

    def on_scan(self, session, block, scan):
        """Handle the choice of another scan."""
        return self._order(session.analysis, block, scan)

    def on_token(self, event: gr.EventData, session, block):
        """Handle a click on a token, or an arrow key."""
        token = session.analysis.neighbour(block, session.token, event._data)
        session = session._replace(token=token)
        return session, self._activation(session, block)

    def _attempt(self, load, source, session, model, as_digit):
        """Load and analyse an image. If it cannot be used, show the reason.

        What the page shows stays, unless it is of another model than the selected one.
        """
        try:
            image = load()
            like_training = source == DRAWING or (source == UPLOAD and as_digit)
            analysis = self.explorer.look(model, image, like_training and self.explorer.is_of_digits(model))
        except UploadError as error:
            if session.analysis is None or session.analysis.model == model:
                return [session, message(str(error)), *[gr.skip()] * 7]
            nothing = [gr.update(choices=[], value=None)] * 2
            return [session._replace(analysis=None), message(str(error)), '', '', *nothing, '', '', '']
        traces = analysis.traces
        # the first block that learns points, which is the one with most tokens
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
            shown = '<p>The scans of this block do not learn points.</p>'
        else:
            caption = f'Where the deformable scan reads: {analysis.describe_points(block)}'
            shown = picture(points, 'Arrows from each token to the point that is read for it', caption)
        return [scans, shown, self._order(analysis, block, chosen), self._activation(session, block)]

    def _order(self, analysis, block, scan):
        caption = (
            'The order of the scan, from the white dot to the red dot. Dark places are first, yellow places are last.'
        )
        name = analysis.traces[block].scans[scan]
        return picture(
            analysis.animation(block, scan), f'Animation of the path of the scan {name} over the image', caption
        )

    def _activation(self, session, block):
        row, column = session.token
        caption = (
            f'How much each token influences the token in row {row + 1}, column {column + 1} through all scans: '
            'bright is much. Click on another token, or use the arrow keys.'
        )
        image = session.analysis.activation(block, session.token)
        return picture(image, f'Activation map of the token in row {row + 1}, column {column + 1}', caption, True)


def serve(models, device='cpu', host='127.0.0.1', port=7860, open_browser=False, block=True, allow_hosts=()):
    """Load the models and serve the page.

    Args:
        models: a list of :class:`~mmdefmamba.app.trained_models.TrainedModel`.
        device: device of the models.
        host, port: address to listen at; port 0 takes a free port.
        open_browser: whether to open the page in a browser.
        block: whether to serve until interrupted; with False the function returns at once.
        allow_hosts: further names that the page answers to, see :func:`~mmdefmamba.app.hosts.allowed_names`.

    Returns:
        The served ``gradio.Blocks``, which the caller closes, and the address of the page.

    Raises:
        ValueError: no model can be loaded.
        OSError: the port is in use.
    """
    explorer = Explorer(models, device)
    for name, reason in explorer.load_all().items():
        say(*f'skipped {shown(name)}: {reason}'.split('\n'), file=sys.stderr)
    if not explorer.models:
        raise ValueError('no model can be loaded: the lines above give the reasons')
    page = Page(explorer).build()
    guard = Middleware(AllowedHosts, names=allowed_names(host, allow_hosts), any_address=is_everywhere(host))
    _, url, _ = page.launch(
        server_name=host,
        server_port=port or None,
        inbrowser=open_browser,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_BYTES,
        app_kwargs={'middleware': [guard]},
        state_session_capacity=SESSIONS,
        # nothing is sent to other machines, whatever the environment variables say
        share=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Base(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']),
        css=CSS,
    )
    say(f'open {url} in a browser; press Ctrl+C to stop')
    if block:
        page.block_thread()
    return page, url
