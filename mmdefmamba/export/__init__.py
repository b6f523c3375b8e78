"""Exported models: files that other programs run, and the proof that they give the same results.

- :func:`export_model` writes a model as an ONNX file, or as a ``.pt2`` file of torch.export, and checks it.
- ``graph`` traces a model and ``onnx_file`` translates the trace. ``onnx_functions`` has the scan and the sort as
  functions of standard ONNX operators, and ``translations`` what PyTorch's own translation lacks.
- ``verification`` compares a file with its network; ``file_metadata`` describes a model inside of its file.

Needs ``pip install 'mmdefmamba[export]'`` for ONNX files.
"""

from .export_model import WrongFileError, export_model

__all__ = ['WrongFileError', 'export_model']
