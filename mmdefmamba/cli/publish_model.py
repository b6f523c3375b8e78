"""Write the public form of a checkpoint: the weights alone, with a hash in the file name, and a model card."""

import pickle
import sys

from ..checkpoints.publishing import publish
from ..files import say
from ..report.model_card import model_card
from .program import Parser


def main(argv=None):
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config of the model, a path or a name')
    parser.add_argument('checkpoint', help='the checkpoint of a training')
    parser.add_argument('target', help='the file to write, .pth or .safetensors; it gets a hash in its name')
    parser.add_argument('--keep-ema', action='store_true', help='keep ema_state_dict as well')
    parser.add_argument('--data', nargs='+', help='data sets that the weights were trained on, for the card')
    parser.add_argument('--metric', nargs='+', default=[], metavar='NAME=VALUE', help='results, for the card')
    parser.add_argument('--licence', help='licence of the weights, such as apache-2.0, for the card')
    parser.add_argument('--shape', type=int, nargs='+', help='height and width of the image for the FLOPs of the card')
    args = parser.parse_args(argv)
    wrong = [text for text in args.metric if '=' not in text]
    if wrong:
        parser.error(f'--metric must be NAME=VALUE, got {wrong[0]}')
    metrics = dict(text.split('=', 1) for text in args.metric)
    try:
        # first the card without the file, which finds mistakes before anything is written
        options = dict(data=args.data, metrics=metrics, licence=args.licence, shape=args.shape)
        model_card(args.config, checkpoint=args.checkpoint, **options)
        written, left_out = publish(args.checkpoint, args.target, args.keep_ema)
        card = written.with_suffix('.md')
        card.write_text(model_card(args.config, written, **options), 'utf-8')
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, pickle.UnpicklingError) as error:
        sys.exit(f'error: {error}')
    say(f'{written}, {card}; left out: {", ".join(left_out) or "nothing"}')
