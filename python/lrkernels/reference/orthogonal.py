"""The orthogonal family in plain torch. Sums and rotations are float32 or wider, rounded once to x's dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _wide(*tensors: Tensor) -> torch.dtype:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _rows(tensor: Tensor) -> Tensor:
    """``[..., features]`` as a matrix; a vector is one row of it."""
    return tensor.unsqueeze(0).flatten(0, -2)


def givens_pairs(features: int, stride: int, device: torch.device | None = None) -> Tensor:
    """The first members i of a round's pairs (i, i + stride): (i // stride) is even and i + stride < features."""
    i = torch.arange(max(features - stride, 0), device=device)
    return i[(i // stride) % 2 == 0]


def givens_apply(x: Tensor, angles: Tensor, strides: Sequence[int], *, inverse: bool = False) -> Tensor:
    """Round t rotates the pairs (i, j = i + strides[t]): y_i = cos·x_i − sin·x_j, y_j = sin·x_i + cos·x_j."""
    y = x.to(_wide(x, angles), copy=True)  # an op never returns its input
    rounds = list(zip(angles.to(y.dtype), strides, strict=True))
    for angle, stride in reversed(rounds) if inverse else rounds:
        i = givens_pairs(x.shape[-1], stride, x.device)
        j = i + stride
        cos, sin = angle[: len(i)].cos(), angle[: len(i)].sin()
        if inverse:
            sin = -sin
        first, second = y.index_select(-1, i), y.index_select(-1, j)
        y = y.index_copy(-1, i, cos * first - sin * second).index_copy(-1, j, sin * first + cos * second)
    return y.to(x.dtype).contiguous()


def givens_backward(
    grad: Tensor, y: Tensor, angles: Tensor, *, strides: Sequence[int], inverse: bool
) -> tuple[Tensor, Tensor]:
    """dx and dangles of :func:`givens_apply` from its result y, both walked back round by round.

    dangles[t, p] = Σ over rows of g_j·y_i − g_i·y_j, the same before and after the rotation.
    """
    dtype, pairs = _wide(grad, angles), angles.shape[-1]
    g, y = grad.to(dtype, copy=True), y.to(dtype)
    dangles = [angles.new_zeros(pairs, dtype=dtype)] * len(strides)
    rounds = list(enumerate(zip(angles.to(dtype), strides, strict=True)))
    for t, (angle, stride) in rounds if inverse else reversed(rounds):
        i = givens_pairs(y.shape[-1], stride, y.device)
        j = i + stride
        cos, sin = angle[: len(i)].cos(), angle[: len(i)].sin()
        if inverse:
            sin = -sin
        first, second = (v.index_select(-1, i) for v in (y, g)), (v.index_select(-1, j) for v in (y, g))
        (y_i, g_i), (y_j, g_j) = first, second
        sums = _rows(g_j * y_i - g_i * y_j).sum(0)
        dangles[t] = torch.nn.functional.pad(-sums if inverse else sums, (0, pairs - len(i)))
        y = y.index_copy(-1, i, cos * y_i + sin * y_j).index_copy(-1, j, cos * y_j - sin * y_i)
        g = g.index_copy(-1, i, cos * g_i + sin * g_j).index_copy(-1, j, cos * g_j - sin * g_i)
    stacked = torch.stack(dangles) if dangles else angles.new_zeros(0, pairs, dtype=dtype)
    return g.to(grad.dtype).contiguous(), stacked.to(angles.dtype)


def skew_matrices(skew: Tensor, block: int) -> Tensor:
    """The skew-symmetric ``[blocks, block, block]`` matrices Q whose row-major upper triangles are the rows of skew."""
    row, column = torch.triu_indices(block, block, 1, device=skew.device)
    upper = skew.new_zeros(skew.shape[0], block * block).index_copy(1, row * block + column, skew)
    upper = upper.view(-1, block, block)
    return upper - upper.mT


def cayley(skew: Tensor, block: int, *, method: str = "exact", terms: int = 5) -> Tensor:
    """R = (I + Q)(I − Q)⁻¹, or the first terms of its Neumann series: I + 2Q + … + 2Qᵗ⁻² + Qᵗ⁻¹, t = ``terms``."""
    q = skew_matrices(skew.to(_wide(skew)), block)
    identity = torch.eye(block, dtype=q.dtype, device=q.device)
    if method == "exact":
        r = torch.linalg.solve(identity - q, identity + q)  # the two factors commute
    else:
        r, power = identity.expand_as(q), q
        if terms == 2:
            r = r + 2 * q
        elif terms > 2:
            for _ in range(max(terms, 4) - 2):  # PEFT's series of three terms is that of four
                r, power = r + 2 * power, power @ q
            r = r + power
    return r.to(skew.dtype).contiguous()


def cayley_backward(grad: Tensor, saved: Tensor, *, block: int, method: str, terms: int) -> Tensor:
    """dskew of :func:`cayley`; ``saved`` is R where the method is exact, else skew.

    Exact: dQ = ½(R + I)ᵀ G (R + I)ᵀ. Of the term c·Qᵏ: c·Σⱼ (Qᵀ)ʲ G (Qᵀ)ᵏ⁻¹⁻ʲ over j < k.
    """
    g = grad.to(_wide(grad))
    if method == "exact":
        plus = saved.to(g.dtype) + torch.eye(block, dtype=g.dtype, device=g.device)
        dq = plus.mT @ g @ plus.mT / 2
    else:
        count = 4 if terms == 3 else terms
        q = skew_matrices(saved.to(g.dtype), block)
        identity = torch.eye(block, dtype=q.dtype, device=q.device).expand_as(q)
        powers = [identity]
        for _ in range(count - 2):
            powers.append(powers[-1] @ q.mT)
        dq = torch.zeros_like(q)
        for k in range(1, count):
            factor = 1 if k == count - 1 and count > 2 else 2
            for j in range(k):
                dq = dq + factor * (powers[j] @ g @ powers[k - 1 - j])
    row, column = torch.triu_indices(block, block, 1, device=g.device)
    return (dq - dq.mT)[:, row, column].to(grad.dtype).contiguous()


def block_diagonal_apply(x: Tensor, blocks: Tensor, *, transpose: bool = False) -> Tensor:
    """Each block of features as a row vector times its matrix: y_blk = x_blk·R, or x_blk·Rᵀ."""
    dtype, block = _wide(x, blocks), blocks.shape[-1]
    r = blocks.to(dtype)
    y = x.to(dtype).unflatten(-1, (-1, 1, block)) @ (r.mT if transpose else r)
    return y.flatten(-3).to(x.dtype).contiguous()


def block_diagonal_backward(
    grad: Tensor, x: Tensor, blocks: Tensor, *, transpose: bool, needs_dx: bool
) -> tuple[Tensor, Tensor]:
    """dx = g·Rᵀ and dR = Σ over rows of xᵀ·g (transposed: g·R and gᵀ·x) of every block; without ``needs_dx`` no dx."""
    dx = block_diagonal_apply(grad, blocks, transpose=not transpose) if needs_dx else grad.new_empty(0)
    dtype, block = _wide(x, blocks), blocks.shape[-1]
    shape = math.prod(x.shape[:-1]), x.shape[-1] // block, block
    left, right = (t.to(dtype).reshape(shape) for t in ((grad, x) if transpose else (x, grad)))
    dblocks = left.permute(1, 2, 0) @ right.permute(1, 0, 2)
    if blocks.shape[0] == 1:
        dblocks = dblocks.sum(0, keepdim=True)
    return dx, dblocks.to(blocks.dtype).contiguous()


def _scaled(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows v divided by their largest entry, so that squares neither overflow nor vanish; 2/‖v‖² of those, 0 for v = 0;
    and what the rows were divided by."""
    largest = vectors.detach().abs().amax(-1, keepdim=True) if vectors.shape[-1] else vectors.new_zeros(len(vectors), 1)
    zero = largest == 0
    largest = torch.where(zero, 1, largest)
    v = vectors / largest
    return v, torch.where(zero, 0, 2) / torch.where(zero, 1, v.square().sum(-1, keepdim=True)), largest


def householder_apply(x: Tensor, vectors: Tensor, *, transpose: bool = False) -> Tensor:
    """y = x·H₁·H₂···H_k with H = I − 2·vᵀv/‖v‖² of a row v, and H = I for v = 0; ``transpose`` reverses the order."""
    y = _rows(x.to(_wide(x, vectors), copy=True))
    reflections = list(zip(*_scaled(vectors.to(y.dtype))[:2], strict=True))
    for v, twice in reversed(reflections) if transpose else reflections:
        y = y - (twice * (y @ v)).unsqueeze(-1) * v
    return y.reshape(x.shape).to(x.dtype).contiguous()


def householder_backward(
    grad: Tensor, rows: Tensor, vectors: Tensor, *, transpose: bool, of_result: bool
) -> tuple[Tensor, Tensor]:
    """dx and dvectors of :func:`householder_apply` from its input, or from its result (``of_result``), undone
    reflection by reflection.

    Of y = x − τ·(x·v)·v with τ = 2/‖v‖²: dv = −τ·((x·v)·g + (g·v)·x) + τ²·(x·v)·(g·v)·v, summed over the rows.
    """
    y = rows if of_result else householder_apply(rows, vectors, transpose=transpose)
    wide = _wide(grad, vectors)
    g, y = _rows(grad.to(wide)), _rows(y.to(wide))
    vs, taus, largest = _scaled(vectors.to(wide))
    dvs = [torch.zeros_like(v) for v in vs]
    for i in range(len(vs)) if transpose else reversed(range(len(vs))):
        v, tau = vs[i], taus[i]
        x_v, g_v = -(y @ v), g @ v  # H undoes itself, and turns v into −v
        y = y + (tau * x_v).unsqueeze(-1) * v
        dvs[i] = -tau * (x_v @ g + g_v @ y) + tau.square() * (x_v @ g_v) * v
        g = g - (tau * g_v).unsqueeze(-1) * v
    dvectors = torch.stack(dvs) / largest if dvs else torch.zeros_like(vectors, dtype=wide)
    return g.view(grad.shape).to(grad.dtype), dvectors.to(vectors.dtype)


def cayley_rectangular(weight: Tensor) -> Tensor:
    """Orthonormal columns from any ``[..., rows, cols]`` with rows ≥ cols (else orthonormal rows).

    With weight = [U; V], U square: A = U − Uᵀ + VᵀV and the result is [(I + A)⁻¹(I − A); −2V(I + A)⁻¹].
    """
    return cayley_rectangular_saving(weight)[0]


def _cayley_inverse(w: Tensor) -> Tensor:
    cols = w.shape[-1]
    u, v = w[..., :cols, :], w[..., cols:, :]
    return torch.linalg.inv(torch.eye(cols, dtype=w.dtype, device=w.device) + u - u.mT + v.mT @ v)


def cayley_rectangular_saving(weight: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`cayley_rectangular` and Z = (I + A)⁻¹ (of the transposed weight where that is tall), which its gradient
    needs; float32 or wider."""
    wide = weight.shape[-2] < weight.shape[-1]
    w = (weight.mT if wide else weight).to(_wide(weight))
    inverse = _cayley_inverse(w)
    identity = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    q = torch.cat([2 * inverse - identity, -2 * w[..., w.shape[-1] :, :] @ inverse], dim=-2)
    return (q.mT if wide else q).to(weight.dtype).contiguous(), inverse


def cayley_rectangular_backward(grad: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """dweight from Z = (I + A)⁻¹: with grad = [G₁; G₂], dZ = 2G₁ − 2VᵀG₂ and dA = −Zᵀ·dZ·Zᵀ, dU = dA − dAᵀ and
    dV = −2G₂Zᵀ + V(dA + dAᵀ).

    ``inverse`` is computed again here: a derivative of this function then has the part that goes through it.
    """
    wide = weight.shape[-2] < weight.shape[-1]
    g, w = ((t.mT if wide else t).to(_wide(weight)) for t in (grad, weight))
    cols = w.shape[-1]
    z, v = _cayley_inverse(w).mT, w[..., cols:, :]
    da = -z @ (2 * g[..., :cols, :] - 2 * v.mT @ g[..., cols:, :]) @ z
    dw = torch.cat([da - da.mT, -2 * g[..., cols:, :] @ z + v @ (da + da.mT)], dim=-2)
    return (dw.mT if wide else dw).to(weight.dtype).contiguous()
