import numpy as np
import pytest
from matplotlib.figure import Figure

from mmdefmamba.visualization import figure_to_rgb, map_to_image, token_at
from mmdefmamba.visualization.canvas import as_rgb, token_centres


def test_points_lie_in_the_cells_of_their_tokens():
    # a map of 2 x 4 over an image of 8 x 12: cells of 4 x 3 pixels with centres at 1.5 and 1
    points = [[-1, -1], [1, 1], [0, 1 / 3]]
    np.testing.assert_allclose(map_to_image(points, (2, 4), (8, 12)), [[1.5, 1], [5.5, 10], [3.5, 7]])
    expected = [[y, x] for y in (1.5, 5.5) for x in (1, 4, 7, 10)]
    np.testing.assert_allclose(token_centres((2, 4), (8, 12)), expected)


def test_an_axis_of_one_token_has_one_place():
    np.testing.assert_allclose(map_to_image([[-1, -1], [-0.4, 0.3]], (1, 1), (5, 7)), [[2, 3], [2, 3]])


@pytest.mark.parametrize(('map_size', 'image_size'), [((2, 4), (8, 12)), ((3, 5), (10, 17)), ((1, 1), (1, 1))])
def test_centre_of_a_token_lies_in_its_cell(map_size, image_size):
    tokens = [token_at(pixel, map_size, image_size) for pixel in token_centres(map_size, image_size)]
    assert tokens == [divmod(i, map_size[1]) for i in range(map_size[0] * map_size[1])]


def test_pixels_at_the_border_belong_to_a_cell():
    assert token_at((-0.5, -0.5), (2, 4), (8, 12)) == (0, 0)
    assert token_at((7.5, 11.5), (2, 4), (8, 12)) == (1, 3)
    assert token_at((3.4, 2.6), (2, 4), (8, 12)) == (0, 1)
    with pytest.raises(ValueError, match=r'pixel must be \(y, x\) on an image of 8 x 12, got \(8, 0\)'):
        token_at((8, 0), (2, 4), (8, 12))


def test_figures_become_pixels():
    figure = Figure(figsize=(3, 2), dpi=50, facecolor='#ff8000')
    assert figure_to_rgb(figure).shape == (100, 150, 3)
    assert (figure_to_rgb(figure) == (255, 128, 0)).all()


def test_grey_images_become_rgb():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for image in (grey, grey[..., None]):
        assert np.array_equal(as_rgb(image), np.stack([grey] * 3, axis=-1))
    with pytest.raises(ValueError, match=r'an image must be uint8, .* got float32 \(2, 3\)'):
        as_rgb(grey.astype(np.float32))
    with pytest.raises(ValueError, match=r'got uint8 \(2, 3, 4\)'):
        as_rgb(np.zeros((2, 3, 4), np.uint8))
