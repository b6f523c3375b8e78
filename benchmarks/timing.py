"""What benchmarks print beside their times."""

import platform

import torch


def describe(device, dtype=torch.float32):
    """One line on where and how: device, threads, dtype, TF32, versions."""
    name = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    tf32 = f', TF32 {"on" if torch.backends.cuda.matmul.allow_tf32 else "off"}' if device == 'cuda' else ''
    return f'{name}, {dtype}{tf32}, eager, torch {torch.__version__}, Python {platform.python_version()}'


def print_table(header, rows):
    """Print rows as a Markdown table."""
    for row in (header, ['---'] * len(header), *rows):
        print('| ' + ' | '.join(str(cell) for cell in row) + ' |', flush=True)
