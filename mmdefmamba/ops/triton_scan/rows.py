"""The kernel that adds up the parts of the gradients of B and C, and writes them where the rows of a scan have them."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=['scans', 'parts', 'size'])
def sum_rows(parts_of_rows, drows, scans, parts, size, columns, pitch, first_column, BLOCK: tl.constexpr):
    """Add up (b, k, parts, l, columns) over parts, in their order, and write columns of drows, (b, l, k, pitch).

    ``size`` is the number of tokens times columns.
    """
    blocks = tl.cdiv(size, BLOCK)
    bk = (tl.program_id(0) // blocks).to(tl.int64)
    b, k = bk // scans, bk % scans
    i = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        total += tl.load(parts_of_rows + (bk * parts + part) * size + i, mask=inside, other=0.0).to(tl.float32)
    token = b * (size // columns) + i // columns
    row = drows + (token * scans + k) * pitch + first_column
    tl.store(row + i % columns, total.to(drows.dtype.element_ty), mask=inside)
