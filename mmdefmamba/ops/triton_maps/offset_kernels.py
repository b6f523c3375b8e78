"""Kernels that read a map at reference points plus offsets and add an offset bias, forward and backward.

Legend: b image, l token (and pixel) of a map, c channel; (T, U) size of the table. Tensors: the map u, out and their
gradients (b, l, c), and the table (T, U, c), all with unit last stride; offsets and their gradient (b, l, 2), (y, x).

A program has a tile of 4 x 8 tokens. Where points stay within one pixel of their tokens, on both axes, a pixel finds
the tokens that read it among its 3 x 3 neighbours, and the few entries of the table that are read lie in a window. The
flags of a tile say whether it has other tokens. These are looked at one by one, so the gradient is right for any
offset. Every sum has a fixed order.
"""

import triton
import triton.language as tl

TILE_HEIGHT = tl.constexpr(4)
TILE_WIDTH = tl.constexpr(8)
TILE = tl.constexpr(32)
#: The gradient of a table is computed for windows of WINDOW x WINDOW entries.
WINDOW = tl.constexpr(4)
#: A point may leave its neighbourhood by rounding, in pixels.
ROUNDING = tl.constexpr(1e-5)
#: A place beyond this is on no map. It is an integer to which a place on a map can be added.
NOWHERE = tl.constexpr(1073741824.0)
FAR_ON_MAP, FAR_ON_TABLE = tl.constexpr(1), tl.constexpr(2)


@triton.jit
def first_of_tile(tile, width):
    """Return the row and column of the first token of a tile."""
    across = tl.cdiv(width, TILE_WIDTH)
    return tile // across * TILE_HEIGHT, tile % across * TILE_WIDTH


@triton.jit
def tokens_of_tile(tile, height, width):
    """Return the rows and columns of the tokens of a tile, and which of them lie on the map."""
    first_row, first_column = first_of_tile(tile, width)
    t = tl.arange(0, TILE)
    row, column = first_row + t // TILE_WIDTH, first_column + t % TILE_WIDTH
    return row, column, (row < height) & (column < width)


@triton.jit
def offsets_of(offsets, token, inside):
    """Return the offsets (y, x) of tokens; zero where there is no token."""
    y = tl.load(offsets + token * 2, mask=inside, other=0.0)
    return y, tl.load(offsets + token * 2 + 1, mask=inside, other=0.0)


@triton.jit
def pixels_moved(offset, size, RELEASED: tl.constexpr):
    """Return the distance from a token to its point along an axis, in pixels."""
    half = (size - 1) * 0.5
    moved = offset * half
    if RELEASED:
        moved += tl.minimum(half, 0.5)  # half a pixel; an axis of one pixel has one place only
    return moved


@triton.jit
def place_in_table(offset, i, size, table_size, RELEASED: tl.constexpr):
    """Return the place that a token in row (or column) ``i`` reads along an axis of the table, in entries."""
    middle = (table_size - 1) * 0.5
    displacement = offset
    if RELEASED:
        # key - point; key and reference point of row i are i * size / (size - 1) and i + 0.5, in pixels
        coordinate = 1.0 / tl.maximum(size - 1, 1)
        displacement = (i * coordinate - 0.5) * (2.0 * coordinate) - offset
    return middle + displacement * (0.5 * middle)


@triton.jit
def is_far_on_map(moved_y, moved_x):
    """Return whether a point leaves the neighbourhood of its token. NaN reads no pixel, so it is not far."""
    return (tl.abs(moved_y) > 1.0 + ROUNDING) | (tl.abs(moved_x) > 1.0 + ROUNDING)


@triton.jit
def is_far_on_table(y, x, first_y, first_x, rows, columns):
    """Return whether a place in the table lies outside of the windows."""
    far_y = (y < first_y - ROUNDING) | (y > first_y + rows - 1 + ROUNDING)
    far_x = (x < first_x - ROUNDING) | (x > first_x + columns - 1 + ROUNDING)
    return far_y | far_x


@triton.jit
def share(distance):
    """Return the weight of a pixel at this distance, along an axis, in a bilinear read. It is 0 if that is NaN."""
    weight = 1.0 - tl.abs(distance)
    return tl.where(weight > 0.0, weight, 0.0)


@triton.jit
def whole(place):
    """Return a rounded place as an integer. NaN and what is far away become a place that is on no map."""
    return tl.where(tl.abs(place) < NOWHERE, place, NOWHERE).to(tl.int32)


@triton.jit
def pixels_at(u, row, column, height, width, stride, c, inside_c):
    """Return the pixels of a map at some places, (token, c), float32. Outside of the map they are zero."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = u + (row * width + column)[:, None] * stride + c[None, :]
    return tl.load(place, mask=inside[:, None] & inside_c[None, :], other=0.0).to(tl.float32)


@triton.jit
def read(u, row, column, down, right, height, width, stride, c, inside_c):
    """Return a map read at fractions ``down`` and ``right`` of a pixel after (row, column), (token, c)."""
    total = pixels_at(u, row, column, height, width, stride, c, inside_c) * ((1 - down) * (1 - right))[:, None]
    total += pixels_at(u, row, column + 1, height, width, stride, c, inside_c) * ((1 - down) * right)[:, None]
    total += pixels_at(u, row + 1, column, height, width, stride, c, inside_c) * (down * (1 - right))[:, None]
    total += pixels_at(u, row + 1, column + 1, height, width, stride, c, inside_c) * (down * right)[:, None]
    return total


@triton.jit
def slopes(u, row, column, down, right, height, width, stride, c, inside_c):
    """Return what :func:`read` changes by when the point moves by one pixel, along y and along x, (token, c)."""
    above = pixels_at(u, row, column, height, width, stride, c, inside_c)
    above_right = pixels_at(u, row, column + 1, height, width, stride, c, inside_c)
    below = pixels_at(u, row + 1, column, height, width, stride, c, inside_c)
    below_right = pixels_at(u, row + 1, column + 1, height, width, stride, c, inside_c)
    along_y = (below - above) * (1 - right)[:, None] + (below_right - above_right) * right[:, None]
    along_x = (above_right - above) * (1 - down)[:, None] + (below_right - below) * down[:, None]
    return along_y, along_x


@triton.jit
def any_flag(flags, count, flag: tl.constexpr):
    """Return whether one of ``count`` tiles has this flag."""
    found = tl.zeros([TILE], tl.int32)
    i = tl.arange(0, TILE)
    for begin in range(0, count, TILE):
        found |= tl.load(flags + begin + i, mask=begin + i < count, other=0) & flag
    return tl.max(found, 0) > 0


@triton.jit
def offset_forward(
    u, offsets, table, out, flags, u_b, u_l, height, width, channels, T, U, first_y, first_x, rows, columns,
    RELEASED: tl.constexpr, HAS_TABLE: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """Read a tile of tokens of an image, some channels, and set the flags of the tile."""
    blocks, tiles = tl.cdiv(channels, C_BLOCK), tl.cdiv(height, TILE_HEIGHT) * tl.cdiv(width, TILE_WIDTH)
    number = tl.program_id(0)
    block, tile = number % blocks, number // blocks % tiles
    b = (number // blocks // tiles).to(tl.int64)
    c = block * C_BLOCK + tl.arange(0, C_BLOCK)
    inside_c = c < channels
    row, column, inside = tokens_of_tile(tile, height, width)
    token = row * width + column
    offset_y, offset_x = offsets_of(offsets + b * height * width * 2, token, inside)

    down, right = pixels_moved(offset_y, height, RELEASED), pixels_moved(offset_x, width, RELEASED)
    far = tl.max(tl.where(inside & is_far_on_map(down, right), FAR_ON_MAP, 0), 0)
    top, left = tl.floor(down), tl.floor(right)
    total = read(
        u + b * u_b, row + whole(top), column + whole(left), down - top, right - left,
        height, width, u_l, c, inside_c,
    )  # fmt: skip
    if HAS_TABLE:
        y = place_in_table(offset_y, row, height, T, RELEASED)
        x = place_in_table(offset_x, column, width, U, RELEASED)
        far_on_table = inside & is_far_on_table(y, x, first_y, first_x, rows, columns)
        far += tl.max(tl.where(far_on_table, FAR_ON_TABLE, 0), 0)
        top, left = tl.floor(y), tl.floor(x)
        total += read(table, whole(top), whole(left), y - top, x - left, T, U, channels, c, inside_c)
    place = out + b * height * width * channels + token[:, None] * channels + c[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=inside[:, None] & inside_c[None, :])
    if block == 0:
        tl.store(flags + b * tiles + tile, far)


@triton.jit
def neighbour_share(offsets, row, column, dy: tl.constexpr, dx: tl.constexpr, height, width, RELEASED: tl.constexpr):
    """Return the weight of each pixel in the read of the token that lies (dy, dx) before it; 0 if its point is far."""
    row, column = row - dy, column - dx
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    y, x = offsets_of(offsets, row * width + column, inside)
    y, x = pixels_moved(y, height, RELEASED), pixels_moved(x, width, RELEASED)
    return tl.where(inside & (is_far_on_map(y, x) == 0), share(y - dy) * share(x - dx), 0.0)


@triton.jit
def from_neighbour(dout, token, weight, stride, c, inside_c):
    """Return what pixels receive from the gradient of one token each, (token, c)."""
    # a gradient that is NaN or infinite must not reach pixels that its token does not read
    reads = (weight > 0.0)[:, None] & inside_c[None, :]
    return tl.load(dout + token[:, None] * stride + c[None, :], mask=reads, other=0.0).to(tl.float32) * weight[:, None]


@triton.jit
def offset_backward(
    dout, u, offsets, table, flags, du, doffsets, dout_b, dout_l, u_b, u_l, height, width, channels, T, U,
    RELEASED: tl.constexpr, HAS_TABLE: tl.constexpr, C_GROUP: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of the map and of the offsets for a tile of an image.

    A program has C_GROUP channels. ``doffsets`` is (group, b, l, 2): what each group gives to the gradient.
    """
    groups, tiles = tl.cdiv(channels, C_GROUP), tl.cdiv(height, TILE_HEIGHT) * tl.cdiv(width, TILE_WIDTH)
    number = tl.program_id(0)
    group, tile, b = number % groups, number // groups % tiles, (number // groups // tiles).to(tl.int64)
    batch = tl.num_programs(0) // groups // tiles
    doffsets += (group * batch + b) * height * width * 2
    dout, u, offsets, flags = dout + b * dout_b, u + b * u_b, offsets + b * height * width * 2, flags + b * tiles
    row, column, inside = tokens_of_tile(tile, height, width)
    token = row * width + column

    # the weights of a pixel in the reads of its neighbours
    w0 = neighbour_share(offsets, row, column, -1, -1, height, width, RELEASED)
    w1 = neighbour_share(offsets, row, column, -1, 0, height, width, RELEASED)
    w2 = neighbour_share(offsets, row, column, -1, 1, height, width, RELEASED)
    w3 = neighbour_share(offsets, row, column, 0, -1, height, width, RELEASED)
    w4 = neighbour_share(offsets, row, column, 0, 0, height, width, RELEASED)
    w5 = neighbour_share(offsets, row, column, 0, 1, height, width, RELEASED)
    w6 = neighbour_share(offsets, row, column, 1, -1, height, width, RELEASED)
    w7 = neighbour_share(offsets, row, column, 1, 0, height, width, RELEASED)
    w8 = neighbour_share(offsets, row, column, 1, 1, height, width, RELEASED)
    has_far = any_flag(flags, tiles, FAR_ON_MAP)

    # where the tokens of the tile themselves read
    offset_y, offset_x = offsets_of(offsets, token, inside)
    down, right = pixels_moved(offset_y, height, RELEASED), pixels_moved(offset_x, width, RELEASED)
    top, left = tl.floor(down), tl.floor(right)
    down, right = down - top, right - left
    top, left = row + whole(top), column + whole(left)
    pixels_y, pixels_x = (height - 1) * 0.5, (width - 1) * 0.5  # pixels per unit of the offset
    if HAS_TABLE:
        y = place_in_table(offset_y, row, height, T, RELEASED)
        x = place_in_table(offset_x, column, width, U, RELEASED)
        table_top, table_left = tl.floor(y), tl.floor(x)
        y, x = y - table_top, x - table_left
        table_top, table_left = whole(table_top), whole(table_left)
        entries_y, entries_x = (T - 1) * 0.25, (U - 1) * 0.25
        if RELEASED:
            entries_y, entries_x = -entries_y, -entries_x

    doffset_y, doffset_x = tl.zeros([TILE, C_BLOCK], tl.float32), tl.zeros([TILE, C_BLOCK], tl.float32)
    for first_c in range(group * C_GROUP, tl.minimum(group * C_GROUP + C_GROUP, channels), C_BLOCK):
        c = first_c + tl.arange(0, C_BLOCK)
        inside_c = c < channels
        stored = inside[:, None] & inside_c[None, :]
        total = from_neighbour(dout, token + width + 1, w0, dout_l, c, inside_c)
        total += from_neighbour(dout, token + width, w1, dout_l, c, inside_c)
        total += from_neighbour(dout, token + width - 1, w2, dout_l, c, inside_c)
        total += from_neighbour(dout, token + 1, w3, dout_l, c, inside_c)
        total += from_neighbour(dout, token, w4, dout_l, c, inside_c)
        total += from_neighbour(dout, token - 1, w5, dout_l, c, inside_c)
        total += from_neighbour(dout, token - width + 1, w6, dout_l, c, inside_c)
        total += from_neighbour(dout, token - width, w7, dout_l, c, inside_c)
        total += from_neighbour(dout, token - width - 1, w8, dout_l, c, inside_c)
        if has_far:
            for other in range(tiles):
                if (tl.load(flags + other) & FAR_ON_MAP) != 0:
                    first_row, first_column = first_of_tile(other, width)
                    for i in range(first_row, tl.minimum(first_row + TILE_HEIGHT, height)):
                        for j in range(first_column, tl.minimum(first_column + TILE_WIDTH, width)):
                            far_y = pixels_moved(tl.load(offsets + (i * width + j) * 2), height, RELEASED)
                            far_x = pixels_moved(tl.load(offsets + (i * width + j) * 2 + 1), width, RELEASED)
                            if is_far_on_map(far_y, far_x):
                                # the difference of whole numbers is exact
                                weight = share(far_y - (row - i)) * share(far_x - (column - j))
                                far_token = tl.zeros([TILE], tl.int32) + (i * width + j)
                                total += from_neighbour(dout, far_token, weight, dout_l, c, inside_c)
        place = du + b * height * width * channels + token[:, None] * channels + c[None, :]
        tl.store(place, total.to(du.dtype.element_ty), mask=stored)

        gradient = tl.load(dout + token[:, None] * dout_l + c[None, :], mask=stored, other=0.0).to(tl.float32)
        along_y, along_x = slopes(u, top, left, down, right, height, width, u_l, c, inside_c)
        along_y, along_x = along_y * pixels_y, along_x * pixels_x
        if HAS_TABLE:
            more_y, more_x = slopes(table, table_top, table_left, y, x, T, U, channels, c, inside_c)
            along_y, along_x = along_y + more_y * entries_y, along_x + more_x * entries_x
        doffset_y += gradient * along_y
        doffset_x += gradient * along_x
    tl.store(doffsets + token * 2, tl.sum(doffset_y, 1), mask=inside)
    tl.store(doffsets + token * 2 + 1, tl.sum(doffset_x, 1), mask=inside)


@triton.jit
def table_parts(
    dout, offsets, parts, dout_b, dout_l, batch, height, width, channels, T, U, first_y, first_x, rows, columns,
    CHUNK: tl.constexpr, RELEASED: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up what CHUNK tokens give to a window of the table: a product of weights and gradients.

    Tokens are counted through all images. ``parts`` is (chunk, rows, columns, c), where the windows cover ``rows`` x
    ``columns`` entries.
    """
    number, blocks = tl.program_id(0), tl.cdiv(channels, C_BLOCK)
    c = number % blocks * C_BLOCK + tl.arange(0, C_BLOCK)
    inside_c = c < channels
    number = number // blocks
    entry = tl.arange(0, WINDOW * WINDOW)
    entry_x = number % (columns // WINDOW) * WINDOW + entry % WINDOW
    number = number // (columns // WINDOW)
    entry_y = number % (rows // WINDOW) * WINDOW + entry // WINDOW
    chunk = (number // (rows // WINDOW)).to(tl.int64)
    length = height * width
    end = tl.minimum(chunk * CHUNK + CHUNK, batch * length.to(tl.int64))

    total = tl.zeros([WINDOW * WINDOW, C_BLOCK], tl.float32)
    for begin in range(chunk * CHUNK, end, TILE):
        i = begin + tl.arange(0, TILE)
        inside = i < end
        offset_y, offset_x = offsets_of(offsets, i, inside)
        image, token = i // length, (i % length).to(tl.int32)
        y = place_in_table(offset_y, token // width, height, T, RELEASED)
        x = place_in_table(offset_x, token % width, width, U, RELEASED)
        # a token that is far is added in offset_table_backward, and NaN reads no entry
        reads = inside & (is_far_on_table(y, x, first_y, first_x, rows, columns) == 0) & (y + x == y + x)
        weight_y = share(y[None, :] - (first_y + entry_y)[:, None])
        weight = tl.where(reads[None, :], weight_y * share(x[None, :] - (first_x + entry_x)[:, None]), 0.0)
        received = dout + (image * dout_b + token * dout_l)[:, None] + c[None, :]
        gradient = tl.load(received, mask=reads[:, None] & inside_c[None, :], other=0.0).to(tl.float32)
        total = tl.dot(weight, gradient, total, input_precision='tf32x3')
    place = chunk * rows * columns + entry_y * columns + entry_x
    tl.store(parts + place[:, None] * channels + c[None, :], total, mask=inside_c[None, :])


@triton.jit
def offset_table_backward(
    sums, dout, offsets, flags, dtable, dout_b, dout_l, batch, height, width, channels, T, U,
    first_y, first_x, rows, columns, RELEASED: tl.constexpr, C_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of some entries of the table, (c, T, U): the sums of the windows, and what is far."""
    blocks, tiles = tl.cdiv(channels, C_BLOCK), tl.cdiv(height, TILE_HEIGHT) * tl.cdiv(width, TILE_WIDTH)
    c = tl.program_id(0) % blocks * C_BLOCK + tl.arange(0, C_BLOCK)
    entry = tl.program_id(0) // blocks * TILE + tl.arange(0, TILE)
    entry_y, entry_x = entry // U, entry % U
    inside_c, inside = c < channels, entry < T * U
    place_y, place_x = entry_y - first_y, entry_x - first_x
    in_window = inside & (place_y >= 0) & (place_y < rows) & (place_x >= 0) & (place_x < columns)
    place = (place_y * columns + place_x)[None, :] * channels + c[:, None]
    total = tl.load(sums + place, mask=in_window[None, :] & inside_c[:, None], other=0.0)
    if any_flag(flags, batch * tiles, FAR_ON_TABLE):
        for _image in range(batch):
            for tile in range(tiles):
                if (tl.load(flags + tile) & FAR_ON_TABLE) != 0:
                    first_row, first_column = first_of_tile(tile, width)
                    for i in range(first_row, tl.minimum(first_row + TILE_HEIGHT, height)):
                        for j in range(first_column, tl.minimum(first_column + TILE_WIDTH, width)):
                            token = i * width + j
                            y = place_in_table(tl.load(offsets + token * 2), i, height, T, RELEASED)
                            x = place_in_table(tl.load(offsets + token * 2 + 1), j, width, U, RELEASED)
                            if is_far_on_table(y, x, first_y, first_x, rows, columns):
                                weight = share(y - entry_y) * share(x - entry_x)
                                reads = (weight > 0.0)[None, :] & inside_c[:, None]
                                gradient = dout + token * dout_l + tl.zeros([C_BLOCK, TILE], tl.int32) + c[:, None]
                                total += tl.load(gradient, mask=reads, other=0.0).to(tl.float32) * weight[None, :]
            dout += dout_b
            offsets += height * width * 2
            flags += tiles
    tl.store(dtable + c[:, None] * (T * U) + entry[None, :], total, mask=inside[None, :] & inside_c[:, None])
