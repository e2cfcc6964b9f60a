"""examples/hotswap.py: both ways of switching answer as stock PEFT with that adapter alone."""

import pytest
import torch

peft = pytest.importorskip("peft", reason="PEFT is not installed (requirements-dev.txt has it)")
pytest.importorskip("transformers", reason="transformers is not installed (requirements-dev.txt has it)")

import lrkernels  # noqa: E402


def test_both_ways_answer_as_stock_peft(example, tmp_path):
    torch.compiler.reset()
    hotswap = example("hotswap")
    hotswap.write_adapters(tmp_path)
    requests = hotswap.requests()
    stock = {n: peft.PeftModel.from_pretrained(hotswap.base_model(), tmp_path / n) for n in hotswap.ADAPTERS}
    with torch.no_grad():
        expected = [stock[name](ids).logits for name, ids in requests]
    with lrkernels.trace() as kernels:
        answers = hotswap.switching(tmp_path, requests)
    assert kernels
    torch.testing.assert_close(answers, expected)
    # Without the code generator, which takes half a minute; graphs and guards are the same.
    torch.testing.assert_close(hotswap.swapping(tmp_path, requests, backend="eager"), expected)
    first, second = (stock[name](requests[0][1]).logits for name in hotswap.ADAPTERS)
    assert not torch.allclose(first, second, atol=1e-2)  # the adapters differ
