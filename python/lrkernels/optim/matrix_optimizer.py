"""The optimizer that those of matrices are made from: groups, stacks of equal shapes, state, and how a step ends."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lrkernels.ops._lowrank_checks import KERNEL_DTYPES
from lrkernels.optim import options as checks
from lrkernels.optim import rules
from lrkernels.optim.naming import role_of_name
from lrkernels.optim.sharding import Whole, is_sharded, layout_of
from lrkernels.optim.stacks import HOST_STATE, Factors, Stack, wide


class MatrixOptimizer(torch.optim.Optimizer):
    """Base class. Groups whose ``algorithm`` is ``"matrix"`` take the subclass's step, those with ``"adamw"`` AdamW's.

    A subclass says what a matrix's state is (``initial_state``) and the direction of a stack of gradients
    (``direction``), and may work elementwise on them before (``accumulate``). This class stacks the parameters of a
    group that have one shape, dtype, device and placement; it keeps a state of plain tensors, in float32 or wider
    whatever the parameters' dtype; nothing in a step waits for the device.
    """

    counts_steps = False  # whether `direction` and `accumulate` want to know the step
    elementwise_state: tuple[str, ...] = ()  # what only `accumulate` reads and writes

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        super().__init__(params, {"algorithm": "matrix", "maximize": False, **defaults})

    # --- what a subclass says ---

    def check_options(self, group: dict[str, Any]) -> None:
        """Raises ValueError or TypeError for options of a matrix group."""

    def initial_state(self, matrix: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The state of one matrix before its first step; ``matrix`` has its shape, device and state dtype."""
        raise NotImplementedError

    def accumulate(self, gradients: list[Tensor], stack: Stack, group: dict[str, Any]) -> list[Tensor]:
        """What of the step is elementwise, on the rows that this process holds."""
        return gradients

    def direction(
        self,
        gradients: list[Tensor],
        state: dict[str, list[Tensor]],
        group: dict[str, Any],
        step: int,
        positions: list[int],
    ) -> Tensor | Factors:
        """``[count, rows, cols]`` of what ``accumulate`` gave to what is taken off the parameters, but for lr·scale.

        Leaves ``gradients`` as they are. Changes ``state`` in place, or puts another list of tensors in its place.
        """
        raise NotImplementedError

    def scale(self, rows: int, cols: int, group: dict[str, Any]) -> float:
        """Of the direction of matrices of this shape: cheaper than a pass over all of them."""
        return 1.0

    def finish(self, stack: Stack, group: dict[str, Any]) -> None:
        """What every process does after the step with the state that the host reads."""

    # --- groups ---

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(dict(param_group))  # torch writes into it
        try:
            self._check_group(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        checks.check_choice(name, "algorithm", group["algorithm"], ("matrix", "adamw"))
        checks.check_learning_rate(name, group["lr"])
        checks.check_at_least(name, "weight_decay", group["weight_decay"], 0)
        checks.check_betas(name, group["betas"])
        checks.check_at_least(name, "eps", group["eps"], 0)
        if group["algorithm"] == "matrix":
            self._check_matrices(group)
            self.check_options(group)

    def _check_matrices(self, group: dict[str, Any]) -> None:
        optimizer = type(self).__name__
        advice = "lrkernels.optim.param_groups(model) sorts a model's parameters and gives these to AdamW"
        for parameter, name in itertools.zip_longest(group["params"], group.get("param_names", ())):
            shown = f"{name or 'a parameter'}, of shape {tuple(parameter.shape)}"
            if parameter.dim() != 2:
                raise ValueError(f"{optimizer}: params has {shown}, expected matrices; {advice}")
            if name is not None and (role := role_of_name(name)) is not None:
                raise ValueError(f"{optimizer}: params has {shown}, by its name {role}; {advice}")
            if parameter.dtype not in KERNEL_DTYPES:
                expected = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"
                raise TypeError(f"{optimizer}: params has {shown} and {parameter.dtype}, expected {expected}")
            try:
                layout_of(parameter)
            except ValueError as error:
                raise ValueError(f"{optimizer}: params has {shown}; {error}") from None

    def check_saved_options(self, number: int, saved: dict[str, Any], group: dict[str, Any]) -> None:
        """Raises ValueError where a checkpoint's group of that number has options that the state here is not for."""

    # --- the step ---

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.counts_steps or any(group["algorithm"] == "adamw" for group in self.param_groups):
            self._check_not_captured()
        self._check_gradients()
        for group in self.param_groups:
            if group["algorithm"] == "adamw":
                self._adamw_steps(group)
                continue
            for stack in self._stacks(group):
                with _without_autocast(stack.parameters[0].device.type):
                    self._matrix_step(stack, group)
        return loss

    @torch.compiler.disable
    def _check_not_captured(self) -> None:
        """For steps whose number the host reads: a replayed graph would take the captured one again and again."""
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                f"{type(self).__name__}: a CUDA graph would replay this step with one number, for the host counts the "
                "steps of ProjectedOptimizer and of AdamW's groups; take it outside the graph"
            )

    def moments(self, parameter: Tensor) -> list[Tensor]:
        """The averages of the parameter's gradients or of their squares that its state has, entry by entry or in a
        basis: what a method that restarts a parameter, such as ReLoRA, has to forget of them."""
        state = self.state.get(parameter, {})
        return [state[name] for name in ("exp_avg", "exp_avg_sq", "momentum_buffer") if name in state]

    def _check_gradients(self) -> None:
        """Of all groups before any parameter moves."""
        for group in self.param_groups:
            for parameter, name in itertools.zip_longest(group["params"], group.get("param_names", ())):
                if parameter.grad is not None and parameter.grad.is_sparse:
                    shown = f"{name or 'a parameter'}, of shape {tuple(parameter.shape)}"
                    raise ValueError(f"{type(self).__name__}: params has {shown}, with a sparse gradient")

    def _stacks(self, group: dict[str, Any]) -> list[Stack]:
        """The parameters that have a gradient, and together those that have taken as many steps; matrices of one shape
        and placement; no more bytes than ``STACK_BYTES``."""
        stacks: list[Stack] = []
        open_stacks: dict[tuple, Stack] = {}
        matrices = group["algorithm"] == "matrix"
        for position, parameter in enumerate(group["params"]):
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state.update((self._matrix_state if matrices else self._adamw_state)(parameter, group))
            step = int(state["step"]) if "step" in state else 0
            layout = layout_of(parameter) if matrices else None
            key = (parameter.dtype, parameter.device, step)
            if layout is not None:
                key = (*key, tuple(parameter.shape), layout.key)
            if key not in open_stacks or not open_stacks[key].has_room_for(parameter):
                open_stacks[key] = Stack(step, layout)
                stacks.append(open_stacks[key])
            open_stacks[key].add(parameter, state, position)
        return stacks

    def _adamw_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        dtype = wide(parameter.dtype)
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(parameter, dtype=dtype),
            "exp_avg_sq": torch.zeros_like(parameter, dtype=dtype),
        }

    @torch.compiler.disable  # its number of steps, which the host reads, would be compiled in, at every step anew
    def _adamw_steps(self, group: dict[str, Any]) -> None:
        for stack in self._stacks(group):
            moments = stack.local_state("exp_avg"), stack.local_state("exp_avg_sq")
            gradients = stack.gradients(group["maximize"])
            directions = rules.adam(gradients, *moments, stack.step + 1, group["betas"], group["eps"])
            stack.move(directions, group["lr"], group["weight_decay"])
            stack.count()

    def _matrix_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        layout = layout_of(parameter)
        matrix = torch.empty(parameter.shape, dtype=wide(parameter.dtype), device=parameter.device)
        state = self.initial_state(matrix, group)
        placed = {name: value if name in HOST_STATE else layout.place(value) for name, value in state.items()}
        return {"step": torch.zeros((), dtype=torch.float32), **placed} if self.counts_steps else placed

    def _matrix_step(self, stack: Stack, group: dict[str, Any]) -> None:
        layout, (rows, cols), count = stack.layout, stack.parameters[0].shape, len(stack.parameters)
        parts = self.accumulate(stack.gradients(group["maximize"]), stack, group)
        names = sorted(name for name in stack.states[0] if name != "step" and name not in self.elementwise_state)
        state = {}
        for name in names:
            kept = [each[name] for each in stack.states]
            state[name] = layout.mine(kept) if name in HOST_STATE else layout.read(kept)
        matrices = layout.gather(parts, rows)
        positions = layout.mine(stack.positions)
        if positions:
            whole = self.direction(matrices, state, group, stack.step, positions)
        else:
            whole = parts[0].new_empty(0, rows, cols)
        for name in names:
            if name not in HOST_STATE:
                layout.write([each[name] for each in stack.states], state[name])
        options = group["lr"], group["weight_decay"], self.scale(rows, cols, group)
        if (
            isinstance(whole, Factors)
            and isinstance(layout, Whole)
            and whole.left[0].dtype == stack.parameters[0].dtype
        ):
            stack.move_by_factors(whole, *options)
        else:
            if isinstance(whole, Factors):
                whole = whole.product()
            stack.move(layout.scatter(whole, rows, count), *options)
        self.finish(stack, group)
        if self.counts_steps:
            stack.count()

    # --- checkpoints ---

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's, but for two things. What another optimizer, other options or other shapes made raises ValueError,
        which names the difference, before anything is loaded. And the state keeps the dtypes that it was saved with:
        torch casts it to those of the parameters, which would make indices floating-point numbers and cost moments of
        bfloat16 parameters most of their bits."""
        loaded: dict[str, Any] = {}

        def look(_, given: dict[str, Any]) -> None:  # after the hooks of those who rewrite it
            self._check_saved(given)
            loaded.update(given)

        handle = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        for parameter, saved in self._saved_states(loaded):
            for name, value in saved.items():
                device = torch.device("cpu") if name in HOST_STATE else parameter.device
                self.state[parameter][name] = value.to(device)

    def _saved_states(self, state_dict: dict[str, Any]) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        numbers = itertools.chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = itertools.chain.from_iterable(group["params"] for group in self.param_groups)
        return ((p, state_dict["state"].get(number, {})) for number, p in zip(numbers, parameters, strict=True))

    def _check_saved(self, state_dict: dict[str, Any]) -> None:
        name, groups = type(self).__name__, state_dict["param_groups"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in self.param_groups]:
            return  # torch says so
        for number, (saved, group) in enumerate(zip(groups, self.param_groups, strict=True)):
            # torch adds `differentiable` to the defaults of an optimizer that was loaded, not to its groups.
            if missing := sorted(self.defaults.keys() - saved.keys() - {"differentiable"}):
                raise ValueError(
                    f"{name}: state_dict's group {number} has no {', '.join(missing)}: another optimizer made it"
                )
            if saved["algorithm"] != group["algorithm"]:
                raise ValueError(
                    f"{name}: state_dict's group {number} is of algorithm {saved['algorithm']!r}, expected "
                    f"{group['algorithm']!r}"
                )
            self.check_saved_options(number, saved, group)
        owners = {p: (group, i) for group in self.param_groups for i, p in enumerate(group["params"])}
        for parameter, saved in self._saved_states(state_dict):
            if saved:
                group, position = owners[parameter]
                shown = group["param_names"][position] if "param_names" in group else "a parameter"
                shown = f"{name}: state_dict has for {shown}, of shape {tuple(parameter.shape)},"
                self._check_saved_state(shown, saved, parameter, group)

    def _check_saved_state(self, shown: str, saved: dict[str, Any], parameter: Tensor, group: dict[str, Any]) -> None:
        expected = self._expected_state(parameter, group)
        if saved.keys() != expected.keys():
            raise ValueError(f"{shown} {', '.join(sorted(saved))}, expected {', '.join(sorted(expected))}")
        for entry, value in saved.items():
            wanted = expected[entry]
            if not isinstance(value, Tensor):
                raise ValueError(f"{shown} {entry} of type {type(value).__name__}, expected a tensor")
            if value.shape != wanted.shape:
                raise ValueError(f"{shown} {entry} of shape {tuple(value.shape)}, expected {tuple(wanted.shape)}")
            if value.is_floating_point() != wanted.is_floating_point():
                raise ValueError(f"{shown} {entry} of {value.dtype}, expected {wanted.dtype}")
            sharded = is_sharded(parameter) and entry not in HOST_STATE
            if is_sharded(value) != sharded or (sharded and value.placements != parameter.placements):
                placed = [
                    value.placements if is_sharded(value) else "whole",
                    parameter.placements if sharded else "whole",
                ]
                raise ValueError(f"{shown} {entry} placed as {placed[0]}, expected {placed[1]}")

    def _expected_state(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """What a state looks like, without a byte of it."""
        matrix = torch.empty(parameter.shape, dtype=wide(parameter.dtype), device="meta")
        if group["algorithm"] == "adamw":
            return self._adamw_state(matrix, group)
        return {**self.initial_state(matrix, group), **({"step": torch.zeros(())} if self.counts_steps else {})}


def _without_autocast(device: str) -> contextlib.AbstractContextManager:
    """The products of a step are the state's business, not that of a model whose loop forgot to leave autocast."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
