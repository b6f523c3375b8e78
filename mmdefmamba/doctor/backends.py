"""Which backends of the scan can run, and why the others cannot."""

import os
import platform
import sys

from ..files import shown


def backends(report):
    """Each backend of the scan per device, what 'auto' takes, and the compiled kernels."""
    report.step('import the operators')
    import torch

    from .. import ops
    from ..ops.native import library
    from ..ops.native.compile import LIBRARIES, library_name

    for device in ['cpu'] + ['cuda'] * torch.cuda.is_available():
        u = torch.empty(1, device=device)
        for name in ops.BACKENDS:
            reason = ops.unavailable_reason(name, u)
            report.fact(f'{name} on {device}', 'can run' if reason is None else f'cannot run: {reason}')
        chosen, why = ops.auto_backend(u)
        report.fact(f'auto on {device}', f'{chosen} ({why})')
        if device == 'cuda' and chosen not in ('mamba_ssm', 'triton'):
            report.problem(f'on CUDA the scan takes {chosen}, which is slow there: {why}')
    capability = torch.backends.cpu.get_cpu_capability()
    files = [LIBRARIES / library_name(level) for level in library.LEVELS.get(capability, {})]
    file = next((path for path in files if path.exists()), None)
    report.fact('compiled kernels', shown(file) if file and library.LIBRARY else f'none: {library.REASON}')
    compilable = sys.platform == 'linux' and platform.machine() in ('x86_64', 'aarch64')
    if library.LIBRARY is None:
        remedy = (
            ' Install mmdefmamba again, or in a clone: pip install ziglang && python mmdefmamba/ops/native/compile.py'
        )
        text = (
            f'the compiled kernels cannot run, and the scan takes 5 to 10 times as long on the CPU: {library.REASON}.'
        )
        (report.problem if compilable else report.note)(text + remedy * compilable)
    if os.environ.get('TRITON_INTERPRET') == '1':
        report.note("TRITON_INTERPRET=1: Triton's kernels are interpreted, thousands of times slower. Unset it")
