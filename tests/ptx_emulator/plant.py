"""Faults that tests plant into compiled kernels, to see that the emulator reports them."""

import re


def remove_barriers(ptx, file=''):
    """Remove the barriers of source lines in ``file``, or all of them."""
    source, lines = '', []
    for line in ptx.split('\n'):
        source = line if line.lstrip().startswith('.loc') else source
        if not (re.match(r'\s*bar\.(warp\.)?sync', line) and f'// {file}' in source):
            lines.append(line)
    return '\n'.join(lines)


def remove_masks(ptx, access):
    """Let all lanes run each global load (access 'ld') or store ('st')."""
    return re.sub(rf'@!?%p\d+ ({access}\.global)', r'\1', ptx)
