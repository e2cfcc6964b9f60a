"""The emulator and a GPU against the PTX manual, and against each other, one small kernel for each wrapper.

Where there is no GPU the emulator alone is held against the manual (as written down in model_*.py and fragments.py).
"""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from models import MODELS, assert_same

from lrkernels import testing

try:
    from lrkernels import _conformance
except ImportError:
    pytest.skip(
        "this build has no conformance kernels (LRK_EMULATOR=1 builds them, `make test` does)", allow_module_level=True
    )

for group in sorted(Path(__file__).parent.glob("model_*.py")):
    import_module(group.stem)  # adds to MODELS


def run(model, inputs, backend):
    expected = model.expected(*inputs)
    output = _conformance.run(model.case, inputs, backend)
    return output.reshape(-1).view(expected.dtype).reshape(expected.shape), expected


def require(backend):
    reason = testing.unavailable(backend)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")


@pytest.mark.parametrize("backend", ("cuda_emulated", "cuda"))
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_follows_the_manual(model, backend):
    require(backend)
    inputs = model.inputs(seed=1)
    actual, expected = run(model, inputs, backend)
    assert_same(actual, expected, model.compare, model.bound(*inputs) if model.compare == "bound" else None)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_gpu_and_emulator_agree(model):
    require("cuda")
    inputs = model.inputs(seed=2)
    on_gpu, _ = run(model, inputs, "cuda")
    emulated, _ = run(model, inputs, "cuda_emulated")
    # Each is within the bound of the exact sum, so they are within twice the bound of each other.
    assert_same(on_gpu, emulated, model.compare, 2 * model.bound(*inputs) if model.compare == "bound" else None)


def test_every_case_has_a_model():
    assert {model.case for model in MODELS} == set(_conformance.cases())


def test_inputs_have_the_sizes_the_cases_declare():
    sizes = _conformance.cases()
    for model in MODELS:
        per_trial = [array.nbytes // model.trials for array in model.inputs(seed=0)]
        assert per_trial == sizes[model.case][0], model


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="no case is named 'mma_m16n8k61'"):
        _conformance.run("mma_m16n8k61", [], "cuda_emulated")
    with pytest.raises(ValueError, match="takes 2 inputs"):
        _conformance.run("shared_2", [np.zeros(64, np.uint16)], "cuda_emulated")
    with pytest.raises(ValueError, match="input 1 of shared_2 has 4 bytes, expected 1 times 256"):
        _conformance.run("shared_2", [np.zeros(64, np.uint16), np.zeros(1, np.uint32)], "cuda_emulated")
    with pytest.raises(ValueError, match="backend 'tpu'"):
        _conformance.run("shared_2", [], "tpu")
