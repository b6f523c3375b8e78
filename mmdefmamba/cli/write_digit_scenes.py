"""Write the digit scenes: a COCO style instance set and an ADE style semantic set, from data scikit-learn brings."""

from ..datasets.digit_scenes import write_digit_scenes
from ..files import say
from .program import Parser


def main():
    parser = Parser(description=__doc__)
    parser.add_argument('out_dir', help='folder to write, e.g. data/digit_scenes')
    parser.add_argument('--train', type=int, default=800, help='number of training scenes')
    parser.add_argument('--val', type=int, default=200, help='number of validation scenes')
    parser.add_argument(
        '--difficulty',
        type=float,
        default=0.3,
        help='0 to 1: smaller and more varied sizes, more rotation and overlap, less contrast',
    )
    parser.add_argument('--seed', type=int, default=0, help='the same seed writes the same files')
    args = parser.parse_args()
    written = write_digit_scenes(args.out_dir, args.train, args.val, args.difficulty, args.seed)
    say(f'{args.out_dir}: {args.train} training and {args.val} validation scenes, digits {written}')
