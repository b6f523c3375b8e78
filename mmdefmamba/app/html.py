"""HTML for what Gradio has no component for: the drawing pad, animated or clickable pictures, and bars of shares."""

import base64
import html
import io

from PIL import Image

from ..files import shown_lines

CSS = """
.gradio-container {max-width: 1280px !important; margin: auto}
#message:empty {display: none}
#message p {margin: 0; padding: .6em .8em; border-radius: 6px; border-left: 4px solid #D55E00;
  background: var(--background-fill-secondary); color: var(--body-text-color)}
.picture figure {margin: 0}
.picture img {width: 100%; max-width: 480px; display: block; margin: auto; border-radius: 6px; image-rendering: auto}
.picture figcaption {padding-top: .4em; font-size: .9em; color: var(--body-text-color); opacity: .85}
#prediction img {max-width: 400px}
#found .verdict {font-size: 1.4em; font-weight: 600; margin: 0 0 .4em}
.clickable img {cursor: crosshair; touch-action: manipulation}
.clickable img:focus-visible {outline: 3px solid #0072B2; outline-offset: 2px}
#pad canvas {width: 100%; max-width: 280px; aspect-ratio: 1; display: block; margin: auto; background: white;
  border: 1px solid var(--border-color-primary); border-radius: 6px; touch-action: none; cursor: crosshair}
#pad p {text-align: center; margin: .3em 0 0; opacity: .85}
#pad button {display: block; margin: .5em auto 0; padding: .3em 1.2em; border-radius: 6px;
  border: 1px solid var(--border-color-primary); background: var(--button-secondary-background-fill);
  color: var(--body-text-color)}
.shares {list-style: none; margin: 0; padding: 0; font-size: .95em}
.shares li {display: grid; grid-template-columns: 7em 1fr 4.5em; gap: .6em; align-items: center; padding: .12em 0}
.shares .name {overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
.shares .bar {height: .7em; border-radius: 3px; background: #0072B2}
.shares .rail {background: var(--border-color-primary); border-radius: 3px}
.shares .number {text-align: right; font-variant-numeric: tabular-nums}
"""

PAD = """<canvas width="280" height="280" role="img" aria-label="Draw a digit here"></canvas>
<p>Draw a digit.</p><button>Clear</button>"""

# The drawing is sent half a second after the last stroke, because a digit can have several strokes.
PAD_JS = """
const canvas = element.querySelector('canvas'), pen = canvas.getContext('2d');
let drawing = false, empty = true, timer = null;
function clear() {
  pen.fillStyle = 'white';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  empty = true;
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}
canvas.addEventListener('pointerdown', event => {
  clearTimeout(timer);
  drawing = true;
  empty = false;
  canvas.setPointerCapture(event.pointerId);
  pen.strokeStyle = 'black';
  pen.lineWidth = 26;
  pen.lineCap = pen.lineJoin = 'round';
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event));
  pen.stroke();
});
canvas.addEventListener('pointermove', event => {
  if (!drawing) return;
  pen.lineTo(...place(event));
  pen.stroke();
});
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => {
  if (!drawing) return;
  drawing = false;
  timer = setTimeout(() => { if (!empty) trigger('submit', {png: canvas.toDataURL('image/png')}); }, 500);
});
element.querySelector('button').addEventListener('click', () => { clearTimeout(timer); clear(); });
clear();
"""

# Sends the clicked place, from 0 to 1 along the picture, or the step of an arrow key.
CLICK_JS = """
element.addEventListener('click', event => {
  const picture = event.target.closest('img');
  if (!picture) return;
  const box = picture.getBoundingClientRect();
  trigger('select', {x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height});
});
const steps = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
element.addEventListener('keydown', event => {
  if (!(event.key in steps) || !event.target.closest('img')) return;
  event.preventDefault();
  trigger('select', {step: steps[event.key]});
});
"""


def picture(image, alt, caption='', focusable=False):
    """Return the HTML of a picture with a caption.

    Args:
        image: (height, width, 3), uint8, RGB, or the bytes of a WebP.
        alt: description of the picture for screen readers.
        caption: plain text below the picture.
        focusable: whether the keyboard can select the picture.
    """
    if not isinstance(image, bytes):
        buffer = io.BytesIO()
        # lossless WebP has half the size of PNG and takes as much time
        Image.fromarray(image).save(buffer, 'WEBP', lossless=True, quality=0, method=0)
        image = buffer.getvalue()
    source = f'data:image/webp;base64,{base64.b64encode(image).decode()}'
    focus = ' tabindex="0"' if focusable else ''
    return (
        f'<figure><img src="{source}" alt="{_escaped(alt)}"{focus}>'
        f'<figcaption>{_escaped(caption)}</figcaption></figure>'
    )


def shares(pairs, verdict=None):
    """Return the HTML of one row per pair: name, bar and percentage.

    Args:
        pairs: (name, share from 0 to 1).
        verdict: plain text above the rows, or None.
    """
    rows = ''.join(
        f'<li><span class="name" title="{_escaped(name)}">{_escaped(name)}</span>'
        f'<span class="rail"><div class="bar" style="width: {100 * share:.1f}%"></div></span>'
        f'<span class="number">{100 * share:.1f} %</span></li>'
        for name, share in pairs
    )
    first = f'<p class="verdict">{_escaped(verdict)}</p>' if verdict else ''
    return f'{first}<ol class="shares">{rows}</ol>' if rows else '<p class="verdict">No objects</p>'


def message(text):
    """Return the HTML of a message that screen readers announce; empty for an empty text."""
    return f'<p role="alert">{_escaped(text)}</p>' if text else ''


def _escaped(text):
    return html.escape(shown_lines(text))
