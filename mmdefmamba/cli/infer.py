"""The program of tools/infer.py: it predicts images in any of the three tasks, and writes pictures and a JSON file."""

import argparse
import json
import pickle
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from ..apis.images import find_images, output_names, write_image
from ..apis.onnx_predictor import get_onnx_predictor
from ..apis.predictors import get_predictor
from ..files import decodable, say, shown
from ..guards.image_size import MAX_PIXELS
from ..visualization.pictures import to_picture
from .program import Parser, tell_error

DONE, SKIPPED, FAILED = 0, 1, 2


def infer_parser():
    """Return the parser of tools/infer.py."""
    parser = Parser(
        description='Predict images with a trained model: classification, detection or segmentation.',
        epilog='Exit code: 0 if all images are predicted, 1 if some are skipped (each is named), 2 after an error.',
    )
    parser.add_argument(
        'images', nargs='+', metavar='IMAGE', help="image files, folders, or patterns in quotes: 'a/*.png'"
    )
    parser.add_argument('--config', help='path of the config, or a name of mmdefmamba.list_models()')
    parser.add_argument('--checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        '--onnx',
        metavar='FILE',
        help='a classifier or segmentor that tools/export.py wrote, in place of --config and --checkpoint',
    )
    parser.add_argument(
        '--out-dir', type=Path, default=Path('outputs'), help='folder for the results; default: %(default)s'
    )
    parser.add_argument('--recursive', action='store_true', help='also take the images in subfolders')
    parser.add_argument('--batch-size', type=_positive, default=1, help='images per batch; default: %(default)s')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; default: a GPU if there is one')
    parser.add_argument(
        '--score-thr',
        type=_share,
        default=0.3,
        help='leave out objects with a lower score (detection); default: %(default)s',
    )
    parser.add_argument(
        '--max-pixels',
        type=_positive,
        default=MAX_PIXELS,
        help='skip images with more pixels than this, which is read before they are decoded; default: %(default)s',
    )
    parser.add_argument('--no-pictures', action='store_true', help='write only the JSON file')
    return parser


def main(argv=None):
    """Run tools/infer.py.

    Returns:
        The exit code: ``DONE``, ``SKIPPED`` or ``FAILED``.
    """
    parser = infer_parser()
    args = parser.parse_args(argv)
    if (args.config is None, args.checkpoint is None) != (args.onnx is not None,) * 2:
        parser.error('give --config and --checkpoint, or --onnx alone')
    try:
        paths = find_images(args.images, args.recursive, leave_out=args.out_dir)
        predictor = _predictor(args)
        skipped = infer(predictor, paths, args)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, pickle.UnpicklingError) as error:
        tell_error(error)
        return FAILED
    return SKIPPED if skipped else DONE


def _predictor(args):
    if args.onnx is not None:
        return get_onnx_predictor(args.onnx, args.device, max_pixels=args.max_pixels)
    return get_predictor(args.config, args.checkpoint, args.device, args.score_thr, args.max_pixels)


def infer(predictor, paths, args):
    """Predict images, write the results, and report which images are skipped.

    Args:
        predictor: from :func:`~mmdefmamba.apis.predictors.get_predictor`.
        paths: of the images.
        args: of :func:`infer_parser`.

    Returns:
        A dict for each image that was skipped: ``path`` and ``error``.
    """
    names = dict(zip(paths, output_names(paths), strict=True))
    predicted, skipped = [], []
    console = Console(stderr=True, soft_wrap=True)
    columns = ('predicting', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    args.out_dir.mkdir(parents=True, exist_ok=True)
    try:
        with Progress(*columns, console=console, redirect_stdout=console.is_terminal) as progress:
            bar = progress.add_task('', total=len(paths))
            for path, image, result in _results(predictor, paths, args.batch_size):
                progress.advance(bar)
                try:
                    if isinstance(result, Exception):
                        raise result
                    entry, pictures = _present(predictor, path, image, result, not args.no_pictures)
                except Exception as error:  # whatever an image causes: the others are predicted all the same
                    skipped.append({'path': decodable(path), 'error': decodable(error) or type(error).__name__})
                    progress.console.print(
                        shown(f'skipped {path}: {skipped[-1]["error"]}'), markup=False, highlight=False
                    )
                    continue
                for kind, picture in pictures.items():
                    file = Path(f'{kind}s', names[path])
                    write_image(args.out_dir / file, picture)
                    entry[kind] = decodable(file.as_posix())
                predicted.append(entry)
                say(f'{path}: {predictor.summary(result)}')
    finally:
        # after an interruption, too: the file then has the images up to there
        document = {
            'task': predictor.task,
            'config': args.config and decodable(args.config),
            'checkpoint': args.checkpoint and decodable(args.checkpoint),
            **({} if args.onnx is None else {'onnx': decodable(args.onnx)}),
            'classes': predictor.classes,
            'images': predicted,
            'skipped': skipped,
        }
        file = args.out_dir / 'predictions.json'
        file.write_text(json.dumps(document, indent=1, allow_nan=False), encoding='utf-8')
    say(f'{len(predicted)} of {len(paths)} images predicted, {len(skipped)} skipped: {file}')
    return skipped


def _results(predictor, paths, batch_size):
    """Yield (path, image, data sample) in order. An image that fails has its error in place of the data sample."""
    for batch in _batches(paths, batch_size, predictor):
        good = [(path, image) for path, image in batch if not isinstance(image, Exception)]
        try:
            samples = predictor.predict([image for _, image in good]) if good else []
        except Exception:
            # one image of the batch is at fault: predict each alone
            samples = [_attempt(lambda image: predictor.predict([image])[0], image) for _, image in good]
        samples = iter(samples)
        for path, image in batch:
            yield (path, None, image) if isinstance(image, Exception) else (path, image, next(samples))


def _batches(paths, size, predictor):
    """Yield lists of at most ``size`` pairs (path, image or error); of one shape if the predictor needs that."""
    batch, shape = [], None
    for path in paths:
        image = _attempt(predictor.read, path)
        is_image = not isinstance(image, Exception)
        other_shape = is_image and not predictor.any_sizes and shape not in (None, image.shape)
        if batch and (len(batch) == size or other_shape):
            yield batch
            batch, shape = [], None
        batch.append((path, image))
        shape = image.shape if is_image else shape
    if batch:
        yield batch


def _attempt(function, argument):
    try:
        return function(argument)
    except Exception as error:
        return error


def _present(predictor, path, image, sample, draw):
    """Return the entry of an image in the JSON file, and its pictures by kind."""
    entry = {'path': decodable(path), 'size': list(image.shape[:2]), **predictor.describe(sample)}
    pictures = {}
    if draw:
        pictures['picture'] = predictor.draw(to_picture(image), sample)
        if predictor.task == 'segmentation':
            class_map = predictor.class_map(sample)
            pictures['map'] = class_map.astype('uint8' if class_map.max() < 256 else 'uint16')
    return entry, pictures


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be positive, got {value}')
    return value


def _share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'must be from 0 to 1, got {value}')
    return value
