"""Errors about unknown names are full sentences, with or without a suggestion."""

import pytest

from mmdefmamba.names import near_name, unknown_name

KNOWN = ['raster', 'column']


@pytest.mark.parametrize(
    ('name', 'remedy', 'text'),
    [
        ('rastr', 'Known: raster, column', "unknown scan 'rastr', did you mean 'raster'? Known: raster, column"),
        ('xyz', 'Known: raster, column', "unknown scan 'xyz'. Known: raster, column"),
        ('rastr', '', "unknown scan 'rastr', did you mean 'raster'?"),
        ('xyz', '', "unknown scan 'xyz'"),
        (None, 'Known: raster, column', 'unknown scan None. Known: raster, column'),
    ],
)
def test_unknown_name_error_is_a_full_sentence(name, remedy, text):
    assert unknown_name(f'unknown scan {name!r}', name, KNOWN, remedy) == text


def test_near_name_obeys_the_cutoff():
    assert near_name('rastr', KNOWN) == ", did you mean 'raster'?"
    assert near_name('rastr', KNOWN, cutoff=0.99) == ''
    assert unknown_name('no', 'rastr', KNOWN, 'See', cutoff=0.99) == 'no. See'
