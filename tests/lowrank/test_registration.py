"""opcheck: schemas, fakes and gradients agree with the kernels, for every optional argument."""

import pytest
import torch
from lowrank_cases import make_case
from torch.library import opcheck

SETUPS = {
    "factors only": dict(weight=False, bias=False),
    "lora": dict(),
    "base": dict(weight=False, base=True),
    "core": dict(core=True),
    "gate of one": dict(gate="one"),
    "gate a token": dict(gate="token", leading=(2, 3)),
    "dropout": dict(dropout=0.3),
    "everything": dict(core=True, gate="rank", dropout=0.3, leading=(2, 3)),
}


@pytest.mark.parametrize("setup", SETUPS)
def test_lowrank_linear(device, setup):
    case = make_case(device.device, torch.float32, **{"leading": (3,)} | SETUPS[setup]).differentiable()
    opcheck(torch.ops.lrk.lowrank_linear.default, case.tensors, case.scalars)


def test_half_with_float32_factors(device):
    case = make_case(device.device, torch.bfloat16, factor_dtype=torch.float32).differentiable()
    opcheck(torch.ops.lrk.lowrank_linear.default, case.tensors, case.scalars, atol=0.02, rtol=0.02)


def test_the_other_ops(device):
    case = make_case(device.device, torch.float32, gate="rank", core=True, base=True, dropout=0.3).differentiable()
    s = torch.randn(7, 5, device=device.device, requires_grad=True)
    opcheck(torch.ops.lrk.lowrank_project.default, (case.x, case.down, case.gate, case.seed), {"dropout": 0.3})
    opcheck(torch.ops.lrk.lowrank_expand.default, (s, case.up, case.base, case.bias), {"scale": 0.5})
    merge = torch.ops.lrk.lowrank_merge.default
    opcheck(merge, (case.weight, case.down, case.up, case.core, case.gate), {"scale": 0.5})


def test_backward_ops(device):
    case = make_case(device.device, torch.float32, gate="token", core=True, dropout=0.3)
    grad, projected = torch.randn(7, 18, device=device.device), torch.randn(7, 5, device=device.device)
    tensors = (case.down, case.up, case.x, projected, case.weight, case.core, case.gate, case.seed)
    for needs in (31, 1, 2, 4, 24):
        opcheck(
            torch.ops.lrk._lowrank_linear_backward.default,
            (grad, *tensors),
            {"scale": 0.5, "dropout": 0.3, "needs": needs},
            test_utils=("test_schema", "test_faketensor"),
        )
