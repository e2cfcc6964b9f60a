"""A linear layer stored as a 2:4 sparse matrix and a low-rank correction."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lrkernels.nn.arguments import check_dense_weight, check_dtype, check_linear, check_rank, check_size
from lrkernels.nn.weighted_svd import check_moment, low_rank_factors
from lrkernels.ops import sparse24_compress, sparse24_decompress, sparse24_linear, sparse24_mask, sparse24_pack


class Sparse24LowRankLinear(nn.Module):
    """A linear layer that keeps two of every four weights of a row, and repairs what is missing by thin factors.

        y = x·W₂₄ᵀ + x·downᵀ·upᵀ + bias

    W₂₄ is stored as :func:`lrkernels.sparse24_compress` makes it, 9/16 of the bytes of a dense 16-bit matrix, the same
    on every device; what a device's kernel reads is packed when it is first needed, again after every change of
    ``values``, and never stored.

    Shapes: x ``[..., in_features]``, values ``[out_features, in_features / 2]``, bitmask uint8 ``[out_features,
    ⌈in_features / 8⌉]``, down ``[rank, in_features]``, up ``[out_features, rank]``, bias ``[out_features]``; y is
    ``[..., out_features]``, in x's dtype. Dtypes: float32, float64, bfloat16, float16.
    ``state_dict`` keys: ``values``, ``bitmask``, with a rank above 0 ``down`` and ``up``, with a bias ``bias``. Loading
    raises for a bitmask that does not keep exactly two of every four, before anything is changed.

    ``values`` train on their support, which stays; ``sparse24_linear_ste`` is the op that lets it move.

    Initialisation: an ``nn.Linear`` weight, what its mask keeps; ``down`` as ``nn.Linear``'s weight and ``up`` zero.

    Raises ValueError when a size is below 1, ``in_features`` is no multiple of 4 (or ``out_features``, where the mask
    is to be transposable), or the rank is below 0 or above min(in, out); TypeError when a size is no int or ``dtype``
    is another than these.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 0,
        bias: bool = True,
        *,
        transposable: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "Sparse24LowRankLinear"
        check_size(name, "in_features", in_features)
        check_size(name, "out_features", out_features)
        _check_sizes(name, in_features, out_features, rank, transposable)
        check_dtype(name, dtype)
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.transposable = transposable
        self.values = nn.Parameter(torch.empty((out_features, in_features // 2), device=device, dtype=dtype))
        bits = torch.empty((out_features, (in_features + 7) // 8), device=device, dtype=torch.uint8)
        self.register_buffer("bitmask", bits)
        for key, shape in (("down", (rank, in_features)), ("up", (out_features, rank))):
            factor = nn.Parameter(torch.empty(shape, device=device, dtype=dtype)) if rank else None
            self.register_parameter(key, factor)
        bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", bias)
        self._packed: tuple[tuple, Tensor] | None = None
        if self.values.device.type != "meta":
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights, as the class says; what ``to_empty()`` on a meta module needs next."""
        bound = 1.0 / math.sqrt(self.in_features)
        weight = torch.empty(self.out_features, self.in_features, device=self.values.device, dtype=self.values.dtype)
        weight.uniform_(-bound, bound)
        values, bitmask = sparse24_compress(weight, sparse24_mask(weight, transposable=self.transposable))
        self.values.copy_(values)
        self.bitmask.copy_(bitmask)
        if self.rank:
            nn.init.uniform_(self.down, -bound, bound)
            nn.init.zeros_(self.up)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def packed(self) -> Tensor | None:
        """The packing of the present values for their device, or None while they train (a packing a step costs more
        than it saves) and where torch.compile traces."""
        if torch.compiler.is_compiling() or (self.values.requires_grad and torch.is_grad_enabled()):
            return None
        values, bitmask = self.values, self.bitmask
        if values.is_inference() or bitmask.is_inference():  # no version counter says when they change
            return None
        key = (values.data_ptr(), values._version, values.device, values.dtype, bitmask.data_ptr(), bitmask._version)
        if self._packed is None or self._packed[0] != key:
            self._packed = key, sparse24_pack(values.detach(), bitmask, transposable=self.transposable)
        return self._packed[1]

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed() if x.dtype == self.values.dtype else None
        return sparse24_linear(
            x, self.values, self.bitmask, packed, self.down, self.up, self.bias, transposable=self.transposable
        )

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_packed": None}

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        values, bitmask = state_dict.get(f"{prefix}values"), state_dict.get(f"{prefix}bitmask")
        fits = all(isinstance(t, Tensor) and t.device.type != "meta" for t in (values, bitmask))
        if fits and values.shape == self.values.shape and bitmask.shape == self.bitmask.shape:
            try:
                sparse24_decompress(values, bitmask)
            except (TypeError, ValueError) as error:
                errors.append(f"{prefix}bitmask: {error}")
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    @classmethod
    @torch.inference_mode(False)
    @torch.no_grad()
    def from_linear(
        cls, linear: nn.Linear, rank: int = 0, *, input_moment: Tensor | None = None, transposable: bool = False
    ) -> Sparse24LowRankLinear:
        """Prune a linear layer to 2:4, and give back the most that ``rank`` can of what that lost.

            weight ≈ W₂₄ + up·down,    up·down the rank-r approximation of weight − W₂₄

        Of every four weights of a row those of the largest magnitude are kept. With ``input_moment``, E[x·xᵀ] of the
        layer's inputs (``lrkernels.nn.input_statistics`` measures it) or its diagonal, those of the largest |w|·√E[x²]
        (Wanda), and the factors make the error of the *output* the least, E‖(weight − W₂₄ − up·down)·x‖² (EoRA): it
        falls with every rank. Values are weights bit for bit; values, factors and bias have the linear's device, dtype
        and ``requires_grad``.

        Raises TypeError for anything but an ``nn.Linear`` with a floating-point [out, in] weight, ValueError for sizes
        and ranks as the class does, a weight with NaN or Inf, or a moment that cannot be one.

        Sun et al., "A simple and effective pruning approach for large language models" (Wanda), ICLR 2024; Liu et al.,
        "EoRA", 2024.
        """
        name = f"{cls.__name__}.from_linear"
        check_linear(name, "linear", linear)
        check_dense_weight(name, "linear", linear)
        _check_sizes(name, linear.in_features, linear.out_features, rank, transposable)
        weight = linear.weight
        if input_moment is not None:
            check_moment(name, "input_moment", input_moment, linear.in_features, "input")
            input_moment = input_moment.to(weight.device)
        layer = cls(
            linear.in_features, linear.out_features, rank, linear.bias is not None, transposable=transposable,
            device="meta", dtype=weight.dtype,
        )  # fmt: skip
        layer.train(linear.training)
        if weight.is_meta:
            return layer
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if not torch.isfinite(wide).all():
            raise ValueError(f"{name}: linear.weight holds NaN or Inf")
        scores = wide
        if input_moment is not None:
            diagonal = input_moment if input_moment.dim() == 1 else input_moment.diagonal()
            scores = wide * diagonal.clamp(min=0).sqrt().to(wide.dtype)
        values, layer.bitmask = sparse24_compress(weight, sparse24_mask(scores, transposable=transposable))
        layer.values = nn.Parameter(values, requires_grad=weight.requires_grad)
        if rank:
            lost = wide - sparse24_decompress(values, layer.bitmask).to(wide)
            for key, factor in zip(("up", "down"), low_rank_factors(name, lost, rank, input_moment), strict=True):
                setattr(layer, key, nn.Parameter(factor.to(weight.dtype), requires_grad=weight.requires_grad))
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.clone(), requires_grad=linear.bias.requires_grad)
        return layer

    @torch.inference_mode(False)
    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The ``nn.Linear`` with weight W₂₄ + up·down, added in float32 or wider, rounded once, and a copied bias."""
        dtype = self.values.dtype
        wide = torch.promote_types(dtype, torch.float32)
        weight = sparse24_decompress(self.values, self.bitmask).to(wide)
        if self.rank:
            weight = weight + self.up.to(wide) @ self.down.to(wide)
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta", dtype)
        linear.weight = nn.Parameter(weight.to(dtype), self.values.requires_grad)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.clone(), self.bias.requires_grad)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
        return f"{sizes}, bias={self.bias is not None}, transposable={self.transposable}"


def _check_sizes(name: str, in_features: int, out_features: int, rank: int, transposable: bool) -> None:
    if in_features % 4:
        raise ValueError(f"{name}: in_features is {in_features}, expected a multiple of 4")
    if transposable and out_features % 4:
        raise ValueError(
            f"{name}: out_features is {out_features}, expected a multiple of 4 because the mask is transposable"
        )
    if rank != 0 or isinstance(rank, bool):
        check_rank(name, "rank", rank, in_features, out_features)
