"""Prediction with exported ONNX files: no network is built, and no config and no checkpoint are needed."""

import importlib
import json

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..export.file_metadata import KEY, TASKS, read_description
from ..files import existing_file, shorten, shown

_MAX_BYTES = 2**31  # the limit of the format
_MODULES = {'classification': 'onnx_classifier', 'segmentation': 'onnx_segmentor'}
_LIBRARIES = {task: library for library, task in TASKS.items()}
_PACKS = {'classification': 'PackInputs', 'segmentation': 'PackSegInputs'}


class ExportedNetwork:
    """An ONNX file and its description.

    Args:
        file: path of a file that tools/export.py wrote.
        device: 'cpu', 'cuda' or 'cuda:1'; None takes a GPU if this onnxruntime has one.

    Attributes:
        description: what the file says about itself, see :mod:`mmdefmamba.export.file_metadata`.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: onnxruntime is not installed.
        ValueError: the file is not one of tools/export.py, or the device is not there.
    """

    def __init__(self, file, device=None):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "ONNX files need onnxruntime, which is not installed: pip install 'mmdefmamba[export]', or "
                'pip install onnxruntime'
            ) from error
        self.file = existing_file(file, 'ONNX file')
        providers = _providers(device, onnxruntime.get_available_providers())
        if self.file.stat().st_size >= _MAX_BYTES:
            raise ValueError(f'{shown(file)} has {self.file.stat().st_size:,} bytes; an ONNX file has less than 2 GiB')
        # onnxruntime raises more than ten classes of errors, and others for a damaged text
        try:
            self._session = onnxruntime.InferenceSession(self.file.read_bytes(), providers=providers)
            text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        except Exception as error:
            raise ValueError(f'{shown(file)} cannot be read as an ONNX file: {shorten(error)}') from error
        if device is not None and self._session.get_providers()[0] != _name_of(providers[0]):
            raise ValueError(
                f'onnxruntime cannot start on {device}: it took {self._session.get_providers()[0]} instead'
            )
        self.description = read_description(text, file)
        self._check()

    def _check(self):
        task, part = self.description['task'], self.description['part']
        if task == 'detection' or part != 'model':
            what = 'the backbone and neck of a detector' if task == 'detection' and part == 'model' else 'a backbone'
            raise ValueError(
                f'{shown(self.file)} holds {what}: its outputs are maps, not predictions. Predict with --config and '
                '--checkpoint instead, or read the maps with onnxruntime (docs/howto/export.md)'
            )
        if self.description['pipeline'] is None:
            raise ValueError(
                f'{shown(self.file)} does not say how images are prepared: {self.description.get("pipeline_reason")}. '
                'Predict '
                'with --config and --checkpoint instead, or prepare the images yourself (docs/howto/export.md)'
            )
        if self.description['outputs'] is None:
            raise ValueError(
                f'{shown(self.file)} does not say how its logits become predictions: the head of its model is none '
                'that is '
                'known. Predict with --config and --checkpoint instead'
            )

    def __call__(self, inputs):
        """Return the logits, a tensor.

        Args:
            inputs: normalised images, (batch, channels, height, width), float32. They are turned back into raw images
                for a file that normalises itself.

        Raises:
            ValueError: the file takes images of another size.
        """
        shape, size = self.description['shape'], list(inputs.shape[2:])
        if shape is not None and size != shape:
            raise ValueError(
                f'{shown(self.file)} takes images of {shape[0]} x {shape[1]} alone (it was exported with --static), '
                'this one '
                f'is {size[0]} x {size[1]} after the test pipeline. Export the model without --static'
            )
        if self.description['preprocessing']:
            inputs = self._raw(inputs)
        batch = self.description['batch']
        if batch is None:
            return self._run(inputs)
        return torch.cat([self._run_fixed(part, batch) for part in inputs.split(batch)])

    def _run(self, inputs):
        try:
            name = self._session.get_inputs()[0].name
            [logits] = self._session.run(None, {name: inputs.contiguous().numpy()})
            return torch.from_numpy(logits)
        except Exception as error:  # the file is one of tools/export.py by its description only
            raise ValueError(f'{shown(self.file)} cannot predict: {shorten(error)}') from error

    def _run_fixed(self, inputs, batch):
        missing = batch - len(inputs)
        filled = torch.cat([inputs, inputs[-1:].expand(missing, -1, -1, -1)]) if missing else inputs
        return self._run(filled)[: len(inputs)]

    def _raw(self, inputs):
        """Undo the normalisation. The padding of a batch is a normalised number, so it has to be done in this order."""
        if self.description['mean'] is not None:
            mean, std = (torch.tensor(self.description[name]).view(-1, 1, 1) for name in ('mean', 'std'))
            inputs = inputs * std + mean
        # the file takes RGB and turns it into the order of its network
        return inputs.flip(1) if inputs.shape[1] == 3 and not self.description['to_rgb'] else inputs


def get_onnx_predictor(file, device=None, **options):
    """Build a :class:`~mmdefmamba.apis.predictors.Predictor` from an exported classifier or segmentor.

    It reads, predicts, describes and draws as the one of :func:`~mmdefmamba.apis.predictors.get_predictor`.

    Args:
        file: path of an ONNX file that tools/export.py wrote, with or without preprocessing inside.
        device: 'cpu', 'cuda' or 'cuda:1'; None takes a GPU if this onnxruntime has one.
        options: of the predictor, such as ``score_thr``.

    Raises:
        FileNotFoundError, ImportError, ValueError: as :class:`ExportedNetwork`.
    """
    network = ExportedNetwork(file, device)
    task = network.description['task']
    library = _LIBRARIES[task]
    pipeline = [dict(step) for step in network.description['pipeline']]
    for step in pipeline:
        step.update({key: tuple(value) for key, value in step.items() if isinstance(value, list)})
    cfg = Config(
        dict(
            default_scope=library,
            model=dict(type=f'{library}.exported'),
            test_dataloader=dict(dataset=dict(type='exported', pipeline=[*pipeline, dict(type=_PACKS[task])])),
        )
    )
    with DefaultScope.overwrite_default_scope(library):
        module = importlib.import_module(f'.{_MODULES[task]}', __package__)
    return module.OnnxPredictor(cfg, network, 'cpu', **options)


def dataset_meta(network):
    """Return ``classes`` and ``palette`` of an :class:`ExportedNetwork`, as far as its file has them."""
    return {key: network.description[key] for key in ('classes', 'palette') if network.description[key]}


def _name_of(provider):
    return provider if isinstance(provider, str) else provider[0]


def _providers(device, available):
    if device is None:
        return [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in available]
    kind, _, index = str(device).partition(':')
    if kind == 'cpu':
        return ['CPUExecutionProvider']
    if kind == 'cuda' and 'CUDAExecutionProvider' in available:
        return [('CUDAExecutionProvider', {'device_id': int(index or 0)}), 'CPUExecutionProvider']
    raise ValueError(
        f'device {device} is not there: this onnxruntime has {json.dumps(available)}. Give --device cpu, or install '
        'onnxruntime-gpu for an NVIDIA GPU'
    )
