"""Which lane holds which element, from the figures and formulas of the PTX manual (not from our kernels).

Each function returns index arrays ``[32 lanes, elements of a lane]``: the row and the column of a lane's element i, in
the order of its registers, low half first. ``groupID`` and ``threadID_in_group`` are the manual's words.
"""

import numpy as np

LANES = 32


def _table(elements: int, place) -> tuple[np.ndarray, np.ndarray]:
    """place(groupID, threadID_in_group, i) -> (row, column)."""
    places = [[place(lane >> 2, lane % 4, i) for i in range(elements)] for lane in range(LANES)]
    return np.array(places)[..., 0], np.array(places)[..., 1]


def matrix_8x8() -> tuple[np.ndarray, np.ndarray]:
    """ldmatrix and stmatrix, "fragment layout for one 8x8 matrix with 16-bit elements": a group of four threads holds a
    row, thread 0 its first two elements. With .trans this is the layout of the transposed matrix."""
    return _table(2, lambda group, thread, i: (group, 2 * thread + i))


def a_m16n8k16() -> tuple[np.ndarray, np.ndarray]:
    """mma.m16n8k16, .f16 / .bf16, a0 .. a7: row = groupID for 0 <= i < 2 or 4 <= i < 6, else groupID + 8;
    col = threadID_in_group * 2 + (i & 1), and 8 more for i >= 4."""
    return _table(
        8,
        lambda group, thread, i: (
            group if 0 <= i < 2 or 4 <= i < 6 else group + 8,
            thread * 2 + (i & 1) + (8 if i >= 4 else 0),
        ),
    )


def b_m16n8k16() -> tuple[np.ndarray, np.ndarray]:
    """b0 .. b3: row = threadID_in_group * 2 + (i & 1), and 8 more for i >= 2; col = groupID."""
    return _table(4, lambda group, thread, i: (thread * 2 + (i & 1) + (8 if i >= 2 else 0), group))


def c_m16n8() -> tuple[np.ndarray, np.ndarray]:
    """c0 .. c3 of every m16n8 shape with .f32 accumulators: row = groupID for i < 2, else groupID + 8;
    col = threadID_in_group * 2 + (i & 1)."""
    return _table(4, lambda group, thread, i: (group if i < 2 else group + 8, thread * 2 + (i & 1)))


def a_m16n8k8_tf32() -> tuple[np.ndarray, np.ndarray]:
    """mma.m16n8k8, .tf32, a0 .. a3: row = groupID for a0 and a2, groupID + 8 for a1 and a3; col = threadID_in_group for
    a0 and a1, threadID_in_group + 4 for a2 and a3."""
    return _table(4, lambda group, thread, i: (group + 8 * (i in (1, 3)), thread + 4 * (i in (2, 3))))


def b_m16n8k8_tf32() -> tuple[np.ndarray, np.ndarray]:
    """b0, b1: row = threadID_in_group for b0, threadID_in_group + 4 for b1; col = groupID."""
    return _table(2, lambda group, thread, i: (thread + 4 * (i == 1), group))


def sparse_a_m16n8k32() -> tuple[np.ndarray, np.ndarray]:
    """mma.sp.m16n8k32, .f16 / .bf16, a0 .. a7: rows as for m16n8k16; a register holds the two kept values of columns
    firstcol .. firstcol + 3, firstcol = threadID_in_group * 4, and 16 more for i >= 4. As columns of the packed 16x16
    matrix, in which the kept values of columns 4 j .. 4 j + 3 are columns 2 j and 2 j + 1."""

    def place(group, thread, i):
        first_column = thread * 4 + (16 if i >= 4 else 0)
        return (group if 0 <= i < 2 or 4 <= i < 6 else group + 8, first_column // 4 * 2 + (i & 1))

    return _table(8, place)


def b_m16n8k32() -> tuple[np.ndarray, np.ndarray]:
    """mma.sp.m16n8k32, .f16 / .bf16, b0 .. b7 (two a register): the four 8-row slices of B in turn."""
    return _table(8, lambda group, thread, i: (8 * (i // 2) + thread * 2 + (i & 1), group))


def sparse_metadata_m16n8k32(first: np.ndarray, second: np.ndarray, selector: int, others: np.ndarray) -> np.ndarray:
    """The metadata words [trials, 32 lanes] from the positions [trials, 16 rows, 8 chunks of 4 columns] of the kept
    values; lanes that the selector leaves out keep their word of ``others``.

    Figure "Sparse MMA .m16n8k32 metadata layout for .f16/.bf16 type": in every group of four threads, thread 2 selector
    has columns 0-15 and the next one columns 16-31; bits 0-15 of a word are row groupID, bits 16-31 row groupID + 8; a
    chunk of four columns takes four bits, two for each index, the lowest for the first.
    """
    words = others.copy()
    for group in range(8):
        for half in range(2):
            word = np.zeros(len(words), np.uint32)
            for row in (group, group + 8):
                for chunk in range(4):
                    place = 4 * chunk + (16 if row >= 8 else 0)
                    word |= first[:, row, 4 * half + chunk].astype(np.uint32) << np.uint32(place)
                    word |= second[:, row, 4 * half + chunk].astype(np.uint32) << np.uint32(place + 2)
            words[:, 4 * group + 2 * selector + half] = word
    return words
