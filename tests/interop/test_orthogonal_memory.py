"""What a backward pass of a fused OFT, BOFT or HRA layer keeps: its input and what is small beside it."""

import pytest
import torch
from peft_models import stock_and_fused
from peft_orthogonal import OPTIONS, forwards_of_peft, orthogonal_layers
from test_accelerate_replicas import replica
from test_saved_activations import saved_by

ROWS, WIDTH, HEIGHT = 512, 24, 40
ADAPTER = 6 * 4 * 4 * 4  # bytes of the rotations: six blocks of 4 x 4 in float32


def layers(method, dtype, adapter_dtype=torch.float32):
    stock, fused = stock_and_fused(orthogonal_layers(dtype, adapter_dtype, method=method, target_modules=["first"]))
    return stock.base_model.model.first, fused.base_model.model.first


@pytest.mark.parametrize("method", ["oft", "hra"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_its_input(method, dtype):
    """In its own dtype; PEFT keeps a float32 copy of it beside float32 adapters, and HRA the weight it has made."""
    stock, fused = layers(method, dtype)
    x = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    size = x.numel() * x.element_size()
    saved, with_peft = saved_by(fused, x)[0], saved_by(stock, x)[0]
    assert size <= saved <= size + 2 * ADAPTER
    assert with_peft > (saved if dtype == torch.float32 else 2 * size)
    assert saved_by(fused, x, held=(x,))[0] <= 2 * ADAPTER  # x belongs to whoever made it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:.*CUDA extension.*", "ignore:.*butterfly.*")
def test_boft_keeps_its_input_and_the_output_that_it_scales(dtype):
    stock, fused = layers("boft", dtype)
    x = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    size = (ROWS * (WIDTH + HEIGHT)) * x.element_size()
    saved, with_peft = saved_by(fused, x)[0], saved_by(stock, x)[0]
    assert size <= saved <= size + 2 * ADAPTER and saved < with_peft


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.filterwarnings("ignore:.*CUDA extension.*", "ignore:.*butterfly.*")
def test_replicas_compute_what_stock_replicas_compute(method):
    """Of nn.DataParallel. HRA reads the base layer's parameters, of which a replica has none."""
    stock, fused = stock_and_fused(orthogonal_layers(method=method))
    x = torch.randn(6, WIDTH)
    with forwards_of_peft() as ran:
        y = replica(fused)(x)
    assert len(ran) == (2 if method == "hra" else 0)
    torch.testing.assert_close(y, replica(stock)(x))


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.filterwarnings("ignore:.*CUDA extension.*", "ignore:.*butterfly.*")
def test_the_meta_device(method):
    _, fused = stock_and_fused(orthogonal_layers(method=method))
    assert fused.to("meta")(torch.randn(6, WIDTH, device="meta")).shape == (6, 17)
