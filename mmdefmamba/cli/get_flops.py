"""Print the parameters and FLOPs of a config's model, with and without the selective scan."""

from mmengine import DictAction

from ..analysis import config_complexity, format_complexity
from ..apis.zoo import load_config
from ..files import say
from .program import Parser


def parse_args(argv):
    parser = Parser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        help='height and width of the image, or one number for both; default: 224 for classification, '
        '1280 800 for detection, 512 2048 for segmentation, as in the paper',
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='key=value to override')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    say(*format_complexity(*config_complexity(cfg, args.shape)).split('\n'))
