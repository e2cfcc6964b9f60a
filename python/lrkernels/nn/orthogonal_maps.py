"""Maps from unconstrained parameters to matrices with orthonormal columns (or rows, when there are fewer), and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lrkernels.nn import givens_schedule
from lrkernels.nn.rotations.rotation import full_precision
from lrkernels.ops import cayley_rectangular, givens_apply, householder_apply


def orthonormalized(weight: Tensor) -> Tensor:
    """The orthonormal factor of a QR decomposition, with R's diagonal positive, in float32 or wider.

    Of a Gaussian matrix it is uniformly distributed (Mezzadri, "How to generate random matrices from the classical
    compact groups", 2007). A wide weight gets orthonormal rows.
    """
    if weight.shape[0] < weight.shape[1]:
        return orthonormalized(weight.mT).mT
    q, r = torch.linalg.qr(weight.to(torch.promote_types(weight.dtype, torch.float32)))
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)


def signed_lu(q: Tensor, panel: int = 32) -> tuple[Tensor, Tensor]:
    """Y and d of Q·diag(d) + [I; 0] = Y·U, Y unit lower trapezoidal ``[rows, cols]``, d of ±1, for orthonormal columns.

    d is chosen, column by column, such that every pivot is at least 1: no pivoting is needed, the top of the sum is
    invertible, and the columns of Y are Householder vectors with H₁·H₂···[I; 0] = −Q·diag(d).

    Ballard et al., "Reconstructing Householder vectors from tall-skinny QR", IPDPS 2014, algorithm 5. ``panel`` columns
    are eliminated at a time, the rest then by a product.
    """
    cols = q.shape[1]
    lower = q.double().clone()  # in place: eliminated columns become Y, with the multiples of Q's columns still to do
    signs = lower.new_ones(cols)
    for start in range(0, cols, panel):
        stop = min(start + panel, cols)
        for j in range(start, stop):
            sign = torch.where(lower[j, j] < 0, -1.0, 1.0).to(lower.dtype)
            signs[j] = sign
            # The column of Q·diag(d) + [I; 0], eliminated so far, is sign times that of Q plus that of [I; 0].
            lower[j + 1 :, j] /= lower[j, j] + sign
            lower[j + 1 :, j + 1 : stop] -= lower[j + 1 :, j : j + 1] * lower[j, j + 1 : stop]
        if stop < cols:
            y = lower[start:stop, start:stop].tril(-1)
            top = torch.linalg.solve_triangular(y, lower[start:stop, stop:], upper=False, unitriangular=True)
            lower[start:stop, stop:] = top
            lower[stop:, stop:] -= lower[stop:, start:stop] @ top
    y = lower.tril(-1)
    y.diagonal().fill_(1.0)
    return y, signs


class OrthogonalMap(nn.Module):
    """A parametrization of ``[rows, cols]`` matrices Q with QᵀQ = I, or QQᵀ = I where rows < cols.

    ``forward(parameter)`` is Q and ``right_inverse(Q)`` a parameter of it, as ``torch.nn.utils.parametrize`` asks. A
    subclass writes both for rows ≥ cols, as ``tall`` and ``of_tall``, and the parameter's ``parameter_shape``.
    Autocast does not reach into the map: what it rounds would no longer be orthogonal.
    """

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__()
        self.rows, self.cols = max(rows, cols), min(rows, cols)
        self.wide = rows < cols

    @property
    def parameter_shape(self) -> tuple[int, int]:
        return self.rows, self.cols

    def tall(self, parameter: Tensor) -> Tensor:
        raise NotImplementedError

    def of_tall(self, q: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, parameter: Tensor) -> Tensor:
        with full_precision(parameter):
            q = self.tall(parameter)
        return q.mT if self.wide else q

    @torch.no_grad()
    def right_inverse(self, q: Tensor) -> Tensor:
        """The parameter of an orthonormal matrix. Raises ValueError for a matrix that is not, to 10⁻² in its norm."""
        tall = q.mT if self.wide else q
        if tuple(tall.shape) != (self.rows, self.cols):
            raise ValueError(f"{type(self).__name__}: the matrix is {tuple(q.shape)}, expected {self._shape()}")
        if not tall.is_meta:
            wide = tall.to(torch.promote_types(tall.dtype, torch.float32))
            excess = wide.mT @ wide - torch.eye(self.cols, dtype=wide.dtype, device=wide.device)
            error = torch.linalg.matrix_norm(excess)
            if not error <= 1e-2 * self.cols**0.5:
                name = type(self).__name__
                raise ValueError(f"{name}: the matrix is not orthonormal, ||Q'Q - I|| is {error:.2g} (Frobenius)")
        return self.of_tall(tall).to(q.dtype).contiguous()

    def _shape(self) -> tuple[int, int]:
        return (self.cols, self.rows) if self.wide else (self.rows, self.cols)

    def extra_repr(self) -> str:
        return f"shape={self._shape()}"


class CayleyMap(OrthogonalMap):
    """Q = cayley_rectangular(X)·diag(signs), X ``[rows, cols]`` free.

    The Cayley map alone reaches no Q whose top has an eigenvalue −1; ``signs``, of ±1 and chosen by ``right_inverse``,
    puts any Q into the middle of its reach. ``lrkernels.cayley_rectangular`` has the equation.
    """

    def __init__(self, rows: int, cols: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(rows, cols)
        self.register_buffer("signs", torch.ones(self.cols, device=device))

    def tall(self, parameter: Tensor) -> Tensor:
        return cayley_rectangular(parameter) * self.signs.to(parameter.dtype)

    def of_tall(self, q: Tensor) -> Tensor:
        # Q·diag(signs) = [2Z − I; −2VZ] with Z = (I + A)⁻¹ and A = U − Uᵀ + VᵀV.
        _, signs = signed_lu(q)
        self.signs.copy_(signs)
        q = q.double() * signs
        top, bottom = q[: self.cols], q[self.cols :]
        identity = torch.eye(self.cols, dtype=q.dtype, device=q.device)
        inverse = torch.linalg.inv(identity + top)  # Z⁻¹ / 2
        a = 2.0 * inverse - identity
        return torch.cat([(a - a.mT) / 4.0, -bottom @ inverse])


class HouseholderMap(OrthogonalMap):
    """Q = the first columns of H₁·H₂···H_cols, times diag(signs), with a reflection a row of X ``[cols, rows]``."""

    def __init__(self, rows: int, cols: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(rows, cols)
        self.register_buffer("signs", torch.ones(self.cols, device=device))

    @property
    def parameter_shape(self) -> tuple[int, int]:
        return self.cols, self.rows

    def tall(self, parameter: Tensor) -> Tensor:
        first = torch.eye(self.cols, self.rows, dtype=parameter.dtype, device=parameter.device)
        return (self.signs.to(parameter.dtype)[:, None] * householder_apply(first, parameter, transpose=True)).mT

    def of_tall(self, q: Tensor) -> Tensor:
        vectors, signs = signed_lu(q)
        self.signs.copy_(-signs)
        return vectors.mT


class GivensMap(OrthogonalMap):
    """The columns of ``base`` under a butterfly of Givens rotations, X ``[rounds, rows // 2]`` their angles.

    ``right_inverse(Q)`` makes Q the base and the angles zero: a butterfly has too few angles to be every Q, so this
    trains in a neighbourhood that turns with the base. It costs rows·cols·log₂(rows), the others rows·cols².
    """

    def __init__(self, rows: int, cols: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(rows, cols)
        self.strides = givens_schedule.butterfly(self.rows)
        self.register_buffer("base", torch.eye(self.rows, self.cols, device=device))

    @property
    def parameter_shape(self) -> tuple[int, int]:
        return len(self.strides), self.rows // 2

    def tall(self, parameter: Tensor) -> Tensor:
        return givens_apply(self.base.to(parameter.dtype).mT, parameter, self.strides).mT

    def of_tall(self, q: Tensor) -> Tensor:
        self.base = q.to(torch.promote_types(q.dtype, torch.float32), copy=True)
        return q.new_zeros(self.parameter_shape)


MAPS: dict[str, type[OrthogonalMap]] = {"cayley": CayleyMap, "householder": HouseholderMap, "givens": GivensMap}


def make_map(name: str, map: str, rows: int, cols: int, device: torch.device | str | None) -> OrthogonalMap:
    if map not in MAPS:
        raise ValueError(f"{name}: map is {map!r}, expected one of {', '.join(MAPS)}")
    return MAPS[map](rows, cols, device=device)
