"""check_adapter passes every adapter of the kit, and each of its checks fails an adapter broken in that one way."""

import random

import pytest
import torch
import torch.nn.functional as F
from adapter_cases import CASES
from torch import nn

import lrkernels.adapters
from lrkernels.adapters import Adapter, LoRA
from lrkernels.testing import check_adapter
from lrkernels.testing.adapter_checks import CHECKS


@pytest.mark.parametrize("name", CASES)
def test_every_adapter_passes(name):
    case = CASES[name]
    findings = check_adapter(case.adapter_class, **{**case.options, **case.checked_with})
    assert list(findings) == list(CHECKS) and all(findings.values())


def test_every_exported_adapter_is_a_case():
    exported = [getattr(lrkernels.adapters, name) for name in lrkernels.adapters.__all__]
    adapters = {c.__name__ for c in exported if isinstance(c, type) and issubclass(c, Adapter)}
    assert adapters - {"Adapter", "LowRankAdapter", "RotationAdapter"} == set(CASES)


class Loud(LoRA):
    """Does not start at the base."""

    def reset_parameters(self, base_layer):
        super().reset_parameters(base_layer)
        nn.init.constant_(self.up, 0.25)


class Idle(LoRA):
    """Trains a parameter that nothing uses."""

    def __init__(self, base_layer, r):
        super().__init__(base_layer, r)
        self.unused = self.parameter(r)

    def reset_parameters(self, base_layer):
        super().reset_parameters(base_layer)
        nn.init.zeros_(self.unused)


class WrongGradient(LoRA):
    """The value of down, twice its gradient."""

    def forward(self, x, base):
        return base.plus(x, 2.0 * self.down - self.down.detach(), self.up, scale=self.scale)


class HalfMerged(LoRA):
    def merged(self, weight):
        return weight + 0.5 * self.delta().to(weight.dtype)


class MergedInPlace(LoRA):
    """Writes the merged weight where the unmerged one is."""

    def merged(self, weight):
        return weight.detach().copy_(super().merged(weight)).clone()


class Scribbler(LoRA):
    """Trains the base weight."""

    def forward(self, x, base):
        base.weight.requires_grad_(True)
        return super().forward(x, base)


class InputScaler(LoRA):
    """Scales the caller's x in place."""

    def forward(self, x, base):
        y = super().forward(x, base)
        x.data.mul_(1.5)
        return y


class HostBranch(LoRA):
    """Waits for a number on the host."""

    def forward(self, x, base):
        return super().forward(x, base) if x.sum().item() < 1e9 else base.output


class Forgetful(LoRA):
    """Keeps what it computes with outside state_dict."""

    def __init__(self, base_layer, r):
        super().__init__(base_layer, r)
        self.shift = random.random()

    def forward(self, x, base):
        return super().forward(x, base) + self.shift


class Clinging(LoRA):
    """A function that holds on to the original's parameters."""

    def __init__(self, base_layer, r):
        super().__init__(base_layer, r)
        self.the_up = lambda: self.up

    def forward(self, x, base):
        return base.plus(x, self.down, self.the_up(), scale=self.scale)


class OnTheCPU(LoRA):
    """Makes its parameter where the base weight is not."""

    def __init__(self, base_layer, r):
        super().__init__(base_layer, r)
        self.up = nn.Parameter(torch.zeros(self.out_features, r, dtype=self.down.dtype))


class Rounding(LoRA):
    """Multiplies float32 in bfloat16."""

    def forward(self, x, base):
        dtype = torch.bfloat16 if x.dtype == torch.float32 else x.dtype
        update = self.scale * x.to(dtype) @ self.down.to(dtype).mT @ self.up.to(dtype).mT
        return base.output + update.to(base.output.dtype)


class Upcasting(LoRA):
    """Returns the dtype of its parameters."""

    def forward(self, x, base):
        return super().forward(x, base).to(self.down.dtype)


class RowsOnly(LoRA):
    """Takes matrices alone."""

    def forward(self, x, base):
        update = torch.mm(torch.mm(x.to(self.down.dtype), self.down.mT), self.up.mT)
        return base.output + (self.scale * update).to(base.output.dtype)


class Bypass(LoRA):
    """Computes with the base's weight what the base might compute."""

    def forward(self, x, base):
        delta = self.delta().to(x.dtype)
        return F.linear(x, base.weight + delta, base.bias)


class ResetsOnce(LoRA):
    """Does nothing when it is reset again, as ``restart`` does."""

    def reset_parameters(self, base_layer):
        if not hasattr(self, "done"):
            super().reset_parameters(base_layer)
        self.done = True


class HalfReset(LoRA):
    """Leaves one factor as the allocator gave it."""

    def reset_parameters(self, base_layer):
        nn.init.zeros_(self.up)


class WideMerged(LoRA):
    """Merges into the dtype of its parameters."""

    def merged(self, weight):
        return weight + self.delta()


class Remembering(LoRA):
    """Computes its merged weight once."""

    def merged(self, weight):
        if not hasattr(self, "cached"):
            self.cached = super().merged(weight).detach()
        return self.cached


class Holding(LoRA):
    """Keeps the base layer."""

    def __init__(self, base_layer, r):
        super().__init__(base_layer, r)
        self.base = base_layer


class Twice(LoRA):
    """Calls the base layer for itself."""

    def forward(self, x, base):
        return super().forward(x, base) + 0.0 * base.at(x)


class Unfinished(Adapter):
    """Has neither parameters nor methods."""


BROKEN = [
    (Loud, "neutral", r"the output of a new layer in training differs by up to \d"),
    (ResetsOnce, "reset", "reset_parameters did not fill down, up"),
    (HalfReset, "reset", "reset_parameters did not fill down"),
    (Idle, "learns", "unused is trained but got no gradient"),
    (WrongGradient, "gradients", r"gradients: the gradient of adapters.default.down: .*numerical:\S+ analytical:\S+"),
    (HalfMerged, "merge", r"the output of the merged layer differs by up to \d"),
    (Remembering, "merge", r"trained on and was merged again differs by up to \d"),
    (WideMerged, "unmerge", r"TypeError: AdaptedLinear.merge: the merged weight is torch.float32 \(10, 12\), expected"),
    (MergedInPlace, "unmerge", r"after unmerge\(\)|the state_dict of a merged layer: \d+ bytes of base_layer.weight"),
    (Scribbler, "frozen", r"the base layer in a training step: \d+ bytes of weight changed"),
    (Holding, "frozen", "the adapter holds the base layer's tensors: base.weight, base.bias"),
    (InputScaler, "frozen", r"the input: \d+ bytes of x changed"),
    (HostBranch, "compile", "data-dependent"),
    (Forgetful, "state_dict", r"the layer that loaded the state_dict: \d+ bytes of output changed"),
    (Clinging, "copies", "(AttributeError|PicklingError): "),
    (OnTheCPU, "meta", "over a base on the meta device adapters.default.up are not on it"),
    (Rounding, "dtypes", r"the torch.float32 output differs by up to \d"),
    (Upcasting, "dtypes", "over a torch.bfloat16 base the output is torch.float32"),
    (RowsOnly, "shapes", "RuntimeError: "),
    (Bypass, "base_forward", r"the output over a base with its own forward differs by up to \d"),
    (Twice, "base_forward", "a base with its own forward ran 2 times in one forward"),
]


@pytest.mark.parametrize(("broken", "check", "message"), BROKEN, ids=[case[0].__name__ for case in BROKEN])
def test_a_broken_adapter_fails_its_check(broken, check, message):
    assert check_adapter(LoRA, r=4, only=[check])
    with pytest.raises(AssertionError) as failure:
        check_adapter(broken, r=4, only=[check])
    first, second, *_ = str(failure.value).splitlines()
    assert first == f"check_adapter({broken.__name__}): 1 of 1 checks failed"
    assert second.startswith(f"  {check}: ")
    assert failure.match(message)


def test_every_check_has_a_broken_adapter():
    assert {check for _, check, _ in BROKEN} == set(CHECKS)


def test_one_flaw_is_reported_by_the_checks_that_see_it():
    with pytest.raises(AssertionError) as failure:
        check_adapter(HalfMerged, r=4, only=["neutral", "merge", "learns", "state_dict"])
    lines = str(failure.value).splitlines()
    assert lines[0] == "check_adapter(HalfMerged): 1 of 4 checks failed" and len(lines) == 2


def test_an_update_that_is_off_is_no_evidence():
    with pytest.raises(AssertionError, match=r"change the output by \S+ only; let prepare= turn the update on"):
        check_adapter(CASES["SingLoRA"].adapter_class, r=4, only=["merge"])


def test_an_adapter_that_is_not_written_says_what_is_missing():
    with pytest.raises(AssertionError, match=r"neutral: NotImplementedError: Unfinished has no reset_parameters"):
        check_adapter(Unfinished, only=["neutral"])


def test_it_repeats_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    findings = check_adapter(LoRA, r=4, dropout=0.5, only=["merge", "dtypes"])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(123)
    assert check_adapter(LoRA, r=4, dropout=0.5, only=["merge", "dtypes"]) == findings


@pytest.mark.parametrize("wrong", [None, nn.Linear, "LoRA", object()])
def test_what_is_no_adapter_class_raises(wrong):
    with pytest.raises(TypeError, match="check_adapter: adapter_class is .*, expected a subclass of Adapter"):
        check_adapter(wrong)


def test_one_check_by_name():
    assert list(check_adapter(LoRA, r=4, only="merge")) == ["merge"]


def test_an_unknown_check_raises():
    with pytest.raises(ValueError, match=r"check_adapter: unknown checks \['marge'\], expected some of \['neutral'"):
        check_adapter(LoRA, r=4, only=["marge"])
