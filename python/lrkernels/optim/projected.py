"""An inner optimizer that sees gradients in a basis of few directions, and whose state is that small."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lrkernels.optim import options, rules
from lrkernels.optim.basis import Basis, MatrixBasis, State
from lrkernels.optim.matrix_optimizer import MatrixOptimizer
from lrkernels.optim.stacks import HOST_STATE, Factors, Stack

# Names of the moments of an inner optimizer, and the power of R that they average.
MOMENTS = {"adamw": {"exp_avg": 1, "exp_avg_sq": 2}, "sgd": {"momentum_buffer": 1}}

_USUAL = (MatrixBasis.project, MatrixBasis.update)


class ProjectedOptimizer(MatrixOptimizer):
    """R = project(G), W ← (1 − ηλ)W − ηα·lift(N(R)): N is AdamW's rule or momentum's, on R.

        ProjectedOptimizer(param_groups(model), "adamw", GaLore(rank=128), lr=1e-2, scale=0.25)

    The shorter side of a matrix is projected: for a tall one R is that of Gᵀ. A basis of more directions than that side
    has is cut down to it (then GaLore's N(R) is N(G) turned).

    Args:
        params: matrices, or :func:`lrkernels.optim.param_groups` of a model; its AdamW groups are AdamW's.
        inner: ``"adamw"``, or ``"sgd"`` for momentum.
        basis: ``GaLore``, ``Fira``, ``Flora``, ``DCT`` or another :class:`Basis`; a group may have its own.
        lr: η, a number or a tensor.
        scale: α of the groups of matrices.
        refresh_every: steps between choices of a basis; the first step always chooses one.
        stagger: spread the refreshes of a group over these steps instead of having all of them in one.
        betas, eps: Adam's, of AdamW groups too.
        momentum, nesterov: of ``"sgd"``; as torch.optim.SGD's.
        weight_decay: λ, decoupled, whatever ``inner`` is.
        maximize: go up.

    All but ``params``, also ``inner``, are options of a group; ``basis`` and ``inner`` of a group that is there cannot
    be changed. When a basis changes, the moments are turned along
    (``Basis.rotate_state``). A gradient that is not finite leaves the basis as it is. State: the moments of R, the
    basis's tensors (``basis_*``), and two numbers on the CPU, ``step`` and ``refreshed``.

    Raises:
        ValueError, TypeError: an option out of range, a parameter that is no matrix or is named like an embedding, or
            ``step`` where a group's ``basis`` or ``inner`` was changed.
    """

    counts_steps = True

    def __init__(
        self,
        params: Iterable,
        inner: str,
        basis: Basis,
        lr: float | Tensor = 1e-3,
        *,
        scale: float = 1.0,
        refresh_every: int = 200,
        stagger: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        given = options.given(locals())
        self._default_basis = given.pop("basis")
        self._bases: list[Basis] = []  # of the groups, which hold its repr: a checkpoint has no objects
        self._inners: list[str] = []
        super().__init__(params, given)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        basis = param_group.get("basis", self._default_basis)
        if not isinstance(basis, Basis):
            raise TypeError(f"ProjectedOptimizer: basis is {basis!r}, expected a lrkernels.optim.Basis")
        options.check_count("ProjectedOptimizer", "basis.rank", basis.rank)
        super().add_param_group({**param_group, "basis": repr(basis)})
        self._bases.append(basis)
        self._inners.append(self.param_groups[-1]["inner"])

    def check_options(self, group: dict[str, Any]) -> None:
        name = "ProjectedOptimizer"
        options.check_choice(name, "inner", group["inner"], tuple(MOMENTS))
        options.check_number(name, "scale", group["scale"])
        options.check_count(name, "refresh_every", group["refresh_every"])
        options.check_share(name, "momentum", group["momentum"])

    def _basis(self, group: dict[str, Any]) -> Basis:
        return next(basis for basis, own in zip(self._bases, self.param_groups, strict=True) if own is group)

    def initial_state(self, matrix: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        basis = self._basis(group)
        wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
        size = basis.size(wide.shape[0])
        moments = {name: matrix.new_zeros(size, wide.shape[1]) for name in MOMENTS[group["inner"]]}
        own = {f"basis_{name}": tensor for name, tensor in basis.initial(wide).items()}
        return {**moments, **own, "refreshed": torch.zeros((), dtype=torch.int64)}

    def _due(self, group: dict[str, Any], step: int, positions: list[int]) -> list[int]:
        """Which of these have their basis chosen in this step."""
        every, count = group["refresh_every"], len(group["params"])
        ahead = [position * every // count if group["stagger"] else 0 for position in positions]
        return [i for i, offset in enumerate(ahead) if step == 0 or (step + offset) % every == 0]

    @torch.compiler.disable  # which step it is decides what runs
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        self._check_fixed()
        return super().step(closure)

    def direction(
        self,
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
        positions: list[int],
    ) -> Tensor | Factors:
        basis, tall = self._basis(group), gradients[0].shape[0] > gradients[0].shape[1]
        wide = [g.mT for g in gradients] if tall else gradients
        if due := self._due(group, step, positions):
            self._refresh(basis, wide, due, state, group, step)
        if _by_matrix(basis, wide[0]):
            rows, dtype = wide[0].shape[0], wide[0].dtype
            left = [basis.matrix_as(_own(state, [i]), rows, dtype)[0] for i in range(len(wide))]
            r = [p.mT @ g for p, g in zip(left, wide, strict=True)]
            update = Factors(left, self._inner(r, state, group, step))
        else:
            own, g = _own(state, range(len(wide))), torch.stack(wide)
            given = dict(own)
            r = basis.project(own, g)
            update = basis.update(own, g, r, torch.stack(self._inner(list(r.unbind()), state, group, step)))
            for name, stack in own.items():
                if stack is not given[name]:
                    state[f"basis_{name}"] = list(stack.unbind())
        if isinstance(update, Factors):
            return update.transposed() if tall else update
        return update.mT if tall else update

    def _inner(self, r: list[Tensor], state: dict[str, list[Tensor]], group: dict[str, Any], step: int) -> list[Tensor]:
        if group["inner"] == "adamw":
            return rules.adam(r, state["exp_avg"], state["exp_avg_sq"], step + 1, group["betas"], group["eps"])
        return rules.momentum(r, state["momentum_buffer"], group["momentum"], group["nesterov"])

    def scale(self, rows: int, cols: int, group: dict[str, Any]) -> float:
        return group["scale"]

    def _refresh(
        self,
        basis: Basis,
        gradients: list[Tensor],
        due: list[int],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
    ) -> None:
        """Chooses the bases of ``due`` anew and turns their moments along."""
        old, seen = _own(state, due), torch.stack([gradients[i] for i in due])
        new = basis.refresh(old, seen, step)
        if basis.reads_gradient:
            finite = seen.isfinite().flatten(1).all(1)
            new = {name: stack.where(_column(finite, stack), old[name]) for name, stack in new.items()}
        new["refreshed"] = torch.full_like(old["refreshed"], step)
        if step > 0:
            for name, power in MOMENTS[group["inner"]].items():
                moments = [state[name][i] for i in due]
                turned = basis.rotate_state(old, new, torch.stack(moments), power, seen.shape[-2])
                torch._foreach_copy_(moments, list(turned.unbind()))
        for name, stack in new.items():
            key = name if name in HOST_STATE else f"basis_{name}"
            for i, tensor in zip(due, stack.unbind(), strict=True):
                state[key][i] = tensor

    def finish(self, stack: Stack, group: dict[str, Any]) -> None:
        for i in self._due(group, stack.step, stack.positions):
            stack.states[i]["refreshed"].fill_(stack.step)

    def check_saved_options(self, number: int, saved: dict[str, Any], group: dict[str, Any]) -> None:
        if saved.get("basis") != group["basis"] or saved["inner"] != group["inner"]:
            raise ValueError(
                f"ProjectedOptimizer: state_dict's group {number} is of {saved['inner']!r} in {saved.get('basis')}, "
                f"expected {group['inner']!r} in {group['basis']}"
            )

    def _check_fixed(self) -> None:
        """The state is made for them, so that another value would be an error later on, or nothing."""
        for number, (group, basis, inner) in enumerate(zip(self.param_groups, self._bases, self._inners, strict=True)):
            for option, kept in (("basis", repr(basis)), ("inner", inner)):
                if group[option] != kept:
                    raise ValueError(
                        f"ProjectedOptimizer: param_groups[{number}][{option!r}] is {group[option]!r}, but the group "
                        f"was made with {kept!r}, and so was its state: make another optimizer"
                    )

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("_default_basis", "_bases", "_inners")}
        return {**super().__getstate__(), **own}


def _column(flags: Tensor, stack: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (stack.dim() - 1))


def _by_matrix(basis: Basis, g: Tensor) -> bool:
    """On a CPU, products of one matrix after the other cost less than a copy of all gradients and batched ones."""
    usual = isinstance(basis, MatrixBasis) and (type(basis).project, type(basis).update) == _USUAL
    return usual and g.device.type == "cpu"


def _own(state: dict[str, list[Tensor]], chosen: Sequence[int]) -> State:
    """What the basis knows of these matrices; of one it is no copy."""
    names = {name: name.removeprefix("basis_") for name in state if name.startswith("basis_") or name == "refreshed"}
    if len(chosen) == 1:
        return {own: state[name][chosen[0]].unsqueeze(0) for name, own in names.items()}
    return {own: torch.stack([state[name][i] for i in chosen]) for name, own in names.items()}
