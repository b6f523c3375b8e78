"""From a model to a file that was checked."""

import json
import os
from pathlib import Path

import torch
from mmengine.utils import digit_version

from ..files import shown, unfinished_file
from .graph import exported_part, output_names, trace
from .runners import OnnxFile, ProgramFile, import_onnxruntime
from .verification import SIZES, verify

FORMATS = ('onnx', 'pt2')
#: The oldest PyTorch with which the export was run. That of 2.7 cannot write a graph of any size as ONNX.
OLDEST_TORCH = '2.11'
#: (height, width) at which a file of any size is checked, beside the sizes of ``verification.SIZES``.
MAIN_SHAPE = (224, 224)


class WrongFileError(ValueError):
    """An exported file does not compute what its network computes.

    Attributes:
        verification: the :class:`~.verification.Verification`.
    """

    def __init__(self, message, verification):
        super().__init__(message)
        self.verification = verification


def export_model(
    cfg,
    model,
    out,
    *,
    format='onnx',
    part='model',
    shape=None,
    static=False,
    batch=None,
    preprocessing=False,
    inline=False,
    check=True,
    report=lambda line: None,
):
    """Write a model into a file, and check the file against the model.

    Args:
        cfg: the Config of the model.
        model: the model, see :func:`mmdefmamba.get_model`; float32, on the CPU.
        out: path of the file. It appears only after the check, in place of an older one.
        format: 'onnx', or 'pt2' for a program of torch.export.
        part: 'model', or 'backbone' for the maps of the backbone alone.
        shape: (height, width): the only size with ``static``, else the largest size of the check; 224 x 224 by default.
        static: whether the size and the batch are fixed. Otherwise both are free.
        batch: number of images with ``static``; 1 by default.
        preprocessing: whether the images are raw RGB, 0 to 255, and the file normalises them.
        inline: whether the functions of an ONNX file are replaced by their operators (OpenVINO needs it).
        check: whether the file is checked.
        report: takes lines of text while it works.

    Returns:
        The :class:`~.verification.Verification`, or None without a check.

    Raises:
        ValueError: an option is wrong, or the model cannot be exported; the message says why.
        WrongFileError: the file gives other results than the model. No file is left.
        ImportError: a package is missing, and the message names the extra that has it, or PyTorch is older than 2.11.
        OSError: the file cannot be written.
    """
    _check_options(format, shape, static, batch, inline)
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        raise ImportError(
            f'the export needs PyTorch {OLDEST_TORCH} or newer, this is {torch.__version__}. Update it together with '
            'torchvision: pip install --upgrade torch torchvision. Trainings and checkpoints stay as they are'
        )
    if format == 'onnx':
        from .onnx_file import import_onnx

        import_onnx()
        if check:
            import_onnxruntime()
    out = Path(out).expanduser()
    if not out.parent.is_dir():
        raise FileNotFoundError(f'the folder {shown(out.parent)} does not exist: create it first')
    if out.is_dir():
        raise IsADirectoryError(f'{shown(out)} is a folder: give the path of the file to write')
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f'the folder {shown(out.parent)} cannot be written: choose another one')
    shape = tuple(shape or MAIN_SHAPE)
    fixed = (batch or 1, *shape) if static else None
    network = exported_part(cfg, model, part, preprocessing)
    report(f'1/3 tracing {part}, ' + (f'{" x ".join(map(str, fixed))}' if static else 'any batch and size'))
    program = trace(network, shape if static else None, batch)
    names = output_names(network, program)
    report(f'2/3 writing {", ".join(names)} as {format}')
    with unfinished_file(out) as unfinished:
        description = _description(cfg, model, part, preprocessing, fixed)
        if format == 'onnx':
            import onnx

            from .onnx_file import to_onnx

            onnx.save(to_onnx(program, names, description, inline), unfinished)
        else:
            with unfinished.open('wb') as file:
                torch.export.save(program, file, extra_files={'names': json.dumps(names), **description})
        verification = None
        if check:
            report('3/3 checking the file against the network')
            file = OnnxFile(unfinished) if format == 'onnx' else ProgramFile(unfinished)
            sizes = [fixed] * 3 if static else [(1, *shape), *SIZES]
            verification = verify(file, network, sizes, preprocessing, lambda line: report(f'    {line}'))
            if verification.problems:
                raise WrongFileError(
                    'the exported file does not compute what the network computes, and was deleted:\n'
                    + '\n'.join(verification.problems),
                    verification,
                )
        unfinished.replace(out)
    return verification


def _description(cfg, model, part, preprocessing, fixed):
    from .file_metadata import describe_model

    batch, *shape = fixed or (None,)
    options = dict(part=part, preprocessing=preprocessing, shape=shape or None, batch=batch)
    return {'mmdefmamba': describe_model(cfg, model, **options)}


def _check_options(format, shape, static, batch, inline):
    if format not in FORMATS:
        raise ValueError(f'format must be one of {FORMATS}, got {format!r}')
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f'shape must be HEIGHT WIDTH, both positive, got {shape}')
    if static and shape is None:
        raise ValueError('a static file has one size: give it with --shape HEIGHT WIDTH')
    if batch is not None and (not static or batch < 1):
        raise ValueError('the batch can be set only for a static file, to a positive number: --static --batch N')
    if inline and format != 'onnx':
        raise ValueError(f'inline is an option of the format onnx, got the format {format}')
