"""What every optimizer of lrkernels.optim owes to torch.optim: state, checkpoints, closures, schedules, dtypes."""

import copy
import io
import pickle

import pytest
import torch
from optimizer_cases import NAMES, OPTIMIZERS, SHAPES, matrices, run, set_gradients
from torch._dynamo.testing import CompileCounterWithBackend

from lrkernels import optim, reference
from lrkernels.demo.model import ByteTransformer

every_optimizer = pytest.mark.parametrize("name", NAMES)


def saved(state_dict):
    """Through a file, and as a stranger would load it: without unpickling objects."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def model_and_batch():
    torch.manual_seed(0)
    return ByteTransformer(16, 2, 2, 12), torch.randint(256, (3, 13))


def loss_of(model, tokens):
    return torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_is_the_same_to_the_bit(name, dtype):
    make, straight = OPTIMIZERS[name], matrices(dtype)
    optimizer = make(straight)
    run(optimizer, straight, 3)
    parameters = [torch.nn.Parameter(p.detach().clone()) for p in straight]
    resumed = make(parameters)
    resumed.load_state_dict(saved(optimizer.state_dict()))
    run(optimizer, straight, 4, start=3)
    run(resumed, parameters, 4, start=3)
    for a, b in zip(straight, parameters, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype, key


@every_optimizer
def test_state_is_tensors_and_wide(name):
    parameters = matrices(torch.bfloat16)
    optimizer = OPTIMIZERS[name](parameters)
    run(optimizer, parameters, 2)
    assert len(optimizer.state) == len(parameters)
    for state in optimizer.state.values():
        for key, value in state.items():
            assert type(value) is torch.Tensor, key
            assert value.dtype in (torch.float32, torch.int64), key
            own = value.untyped_storage().nbytes() == value.numel() * value.element_size()
            assert own, f"{key} would be saved with the storage of the stack that it is a view of"


@every_optimizer
def test_two_runs_are_the_same_to_the_bit(name):
    results = []
    for _ in range(2):
        parameters = matrices()
        run(OPTIMIZERS[name](parameters), parameters, 4)
        results.append(parameters)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if "staggered" not in name])  # those look at positions
def test_a_stack_is_what_its_matrices_are_alone(name):
    together, alone = matrices(), matrices()
    run(OPTIMIZERS[name](together), together, 4)
    for index, p in enumerate(alone):
        optimizer = OPTIMIZERS[name]([p])
        for step in range(4):
            p.grad = gradient(index, step)
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def gradient(index, step):
    parameters = matrices()
    set_gradients(parameters, step)
    return parameters[index].grad


@every_optimizer
def test_a_stack_has_no_more_bytes_than_it_may(name, monkeypatch):
    """Five matrices of 240 bytes, two or one at a time, take the step that they take together."""
    shapes = [(12, 5)] * 5
    together, bounded = matrices(shapes=shapes), matrices(shapes=shapes)
    run(OPTIMIZERS[name](together), together, 4)
    optimizer, counts = OPTIMIZERS[name](bounded), []
    direction = optimizer.direction
    monkeypatch.setattr(optimizer, "direction", lambda g, *rest: counts.append(len(g)) or direction(g, *rest))
    for most, expected in ((500, [2, 2, 1]), (10, [1] * 5)):
        monkeypatch.setattr("lrkernels.optim.stacks.STACK_BYTES", most)
        run(optimizer, bounded, 2, start=0 if most == 500 else 2)
        assert counts == expected * 2
        counts.clear()
    for p, q in zip(together, bounded, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@every_optimizer
def test_maximize_goes_the_other_way(name):
    down, up = matrices(), matrices()
    descent = OPTIMIZERS[name](down, weight_decay=0.0)
    ascent = OPTIMIZERS[name](up, weight_decay=0.0, maximize=True)
    start = matrices()
    for step in range(3):
        set_gradients(down, step)
        set_gradients(up, step)
        descent.step()
        ascent.step()
    for a, b, c in zip(down, up, start, strict=True):
        assert (a - c).norm() > 1e-4
        torch.testing.assert_close(a - c, c - b, rtol=1e-4, atol=1e-5)


@every_optimizer
def test_weight_decay_is_decoupled(name):
    with_decay, without = matrices(), matrices()
    a = OPTIMIZERS[name](with_decay, weight_decay=0.3, lr=0.1)
    b = OPTIMIZERS[name](without, weight_decay=0.0, lr=0.1)
    set_gradients(with_decay, 0)
    set_gradients(without, 0)
    a.step()
    b.step()
    for p, q, start in zip(with_decay, without, matrices(), strict=True):
        torch.testing.assert_close(p, q - 0.03 * start, rtol=1e-5, atol=1e-6)


@every_optimizer
def test_a_learning_rate_that_is_a_tensor(name):
    numbers, tensors = matrices(), matrices()
    a = OPTIMIZERS[name](numbers, lr=0.02, weight_decay=0.1)
    b = OPTIMIZERS[name](tensors, lr=torch.tensor(0.02), weight_decay=0.1)
    run(a, numbers, 2)
    run(b, tensors, 2)
    a.param_groups[0]["lr"] = 0.005
    b.param_groups[0]["lr"].fill_(0.005)
    run(a, numbers, 2, start=2)
    run(b, tensors, 2, start=2)
    for p, q in zip(numbers, tensors, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@every_optimizer
def test_nothing_waits_for_the_device(name):
    """A meta tensor has no values: whoever asks for one raises."""
    parameters = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    optimizer = OPTIMIZERS[name](parameters, weight_decay=0.1)
    for _ in range(5):
        for p in parameters:
            p.grad = torch.empty_like(p)
        optimizer.step()
    with pytest.raises(RuntimeError, match="meta"):
        bool(parameters[0].sum() > 0)


@every_optimizer
def test_a_step_that_counts_on_the_host_is_not_captured(name, monkeypatch):
    """Where a capture would freeze its number; what counts nothing runs."""
    parameters = matrices()
    optimizer = OPTIMIZERS[name](parameters)
    set_gradients(parameters, 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    if optimizer.counts_steps:
        with pytest.raises(RuntimeError, match="^ProjectedOptimizer: .* CUDA graph"):
            optimizer.step()
        assert not optimizer.state
    else:
        optimizer.step()
    optimizer.add_param_group({"params": matrices(shapes=[(3,)]), "algorithm": "adamw"})
    optimizer.param_groups[-1]["params"][0].grad = torch.ones(3)
    before = [p.detach().clone() for p in parameters]
    with pytest.raises(RuntimeError, match="CUDA graph"):
        optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(parameters, before, strict=True))


@every_optimizer
def test_groups_have_their_own_options(name):
    parameters, alone = matrices(), matrices()
    optimizer = OPTIMIZERS[name]([{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:], "lr": 0.1}])
    run(optimizer, parameters, 2)
    for p, start in zip(parameters, alone, strict=True):
        assert torch.equal(p, start) == (p is parameters[0] or p is parameters[1])


@every_optimizer
def test_parameters_without_gradients_and_empty_groups(name):
    parameters, start = matrices(), matrices()
    optimizer = OPTIMIZERS[name]([{"params": parameters}, {"params": []}])
    optimizer.step()
    assert len(optimizer.state) == 0
    set_gradients(parameters, 0)
    parameters[2].grad = None
    optimizer.step()
    assert parameters[2] not in optimizer.state and torch.equal(parameters[2], start[2])
    run(optimizer, parameters, 3, start=1)  # the third is a step behind the first now
    late = matrices()[2]
    alone = OPTIMIZERS[name]([late])
    if name == "flora_staggered":
        return
    for step in range(1, 4):
        late.grad = gradient(2, step)
        alone.step()
    torch.testing.assert_close(parameters[2], late, rtol=1e-4, atol=1e-5)


@every_optimizer
def test_a_closure_and_the_value_it_returns(name):
    parameters = matrices()
    optimizer = OPTIMIZERS[name](parameters)

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in parameters)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


@every_optimizer
def test_copies_and_pickles_go_on_alike(name):
    parameters = matrices()
    optimizer = OPTIMIZERS[name](parameters)
    run(optimizer, parameters, 2)
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    run(optimizer, parameters, 2, start=2)
    for other in copies:
        own = other.param_groups[0]["params"]
        run(other, own, 2, start=2)
        assert all(torch.equal(p, q) for p, q in zip(parameters, own, strict=True))


@every_optimizer
def test_gradient_scaler_skips_a_step_that_is_not_finite(name):
    parameters, start = matrices(), matrices()
    optimizer, scaler = OPTIMIZERS[name](parameters), torch.amp.GradScaler("cpu", init_scale=8.0)
    for value in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(sum((value * p.square()).sum() for p in parameters)).backward()
        scaler.step(optimizer)
        scaler.update()
        if value > 1:
            assert all(torch.equal(p, q) for p, q in zip(parameters, start, strict=True))
    plain = matrices()
    reference = OPTIMIZERS[name](plain)
    sum(p.square().sum() for p in plain).backward()
    reference.step()
    for p, q in zip(parameters, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


@every_optimizer
def test_autocast_around_a_step_changes_nothing(name):
    inside, outside = matrices(), matrices()
    a, b = OPTIMIZERS[name](inside), OPTIMIZERS[name](outside)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run(a, inside, 3)
    run(b, outside, 3)
    assert all(torch.equal(p, q) for p, q in zip(inside, outside, strict=True))


@every_optimizer
def test_a_compiled_step_is_the_same(name):
    """Whole, unless the number of a step decides what it does; that runs as it is, without compiling at every step."""
    compiled, eager = matrices(), matrices()
    a, b = OPTIMIZERS[name](compiled), OPTIMIZERS[name](eager)
    counter = CompileCounterWithBackend("eager")
    torch.compiler.reset()
    step = torch.compile(a.step, backend=counter, fullgraph=not a.counts_steps)
    for number in range(4):
        set_gradients(compiled, number)
        set_gradients(eager, number)
        step()
        b.step()
    assert all(torch.equal(p, q) for p, q in zip(compiled, eager, strict=True))
    assert counter.frame_count == (0 if a.counts_steps else 2)  # once to make the state, once with it


@every_optimizer
def test_a_model_learns_with_schedules(name):
    model, tokens = model_and_batch()
    groups = optim.param_groups(model, adamw={"lr": 1e-5}, report=None)
    optimizer = OPTIMIZERS[name](groups, lr=0.02)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
        ],
        milestones=[3],
    )
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = loss_of(model, tokens)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] / rates[1] == pytest.approx(0.02 / 1e-5) and 0 < rates[0] < 0.02


@every_optimizer
def test_parameters_of_several_dtypes(name):
    """Beside the step of the gradients as each dtype has them, computed in float64 by decompositions."""
    given = [*matrices(torch.bfloat16)[:2], *matrices()[2:4], *matrices(torch.float64)[4:]]
    optimizer = OPTIMIZERS[name](given, lr=0.1, weight_decay=0.5)
    group = optimizer.param_groups[0]
    for index, p in enumerate(given):
        p.grad = gradient(index, 0).to(p.dtype)
    starts = [p.detach().double().clone() for p in given]
    optimizer.step()
    for p, start in zip(given, starts, strict=True):
        expected = 0.95 * start - 0.1 * first_direction(name, p.grad.double(), optimizer.state[p], group)
        # bfloat16 rounds at 2⁻⁹; float32's errors are those of a polar iteration or an inverse root.
        tolerance = {torch.bfloat16: 8e-3, torch.float32: 1e-4, torch.float64: 1e-10}[p.dtype]
        torch.testing.assert_close(p.double(), expected, rtol=tolerance, atol=tolerance)
    widest = {value.dtype for value in optimizer.state[given[4]].values() if value.dim()}
    assert torch.float64 in widest and torch.float32 not in widest


def first_direction(name, g, state, group):
    """From a state of zeros, in float64 and by decompositions; what an optimizer chose at random is read."""
    rows, cols = g.shape
    if name in ("muon", "normuon"):
        u, s, vh = torch.linalg.svd(g, full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        o = (u * s) @ vh
        if name == "muon":
            return 0.2 * max(rows, cols) ** 0.5 * o
        o = o / ((0.05 * o.square().mean(1, keepdim=True)).sqrt() + 1e-8)
        return 0.2 * (rows * cols) ** 0.5 * o / o.norm()
    if name == "dion":
        size = state["right"].shape[1]
        signs = reference.sketch_matrix(cols, size, seed=0)
        p, _ = torch.linalg.qr(g @ (signs / signs.norm(dim=0)))
        r = g.T @ p
        return (rows / cols) ** 0.5 * p @ (r / r.norm(dim=0)).T
    wide = g.T if rows > cols else g
    size = wide.shape[0]
    if name.startswith("flora"):
        basis = reference.sketch_matrix(size, 3, seed=5)
    elif name.startswith("dct"):
        cosines = reference.sketch_matrix(size, size, kind="dct")
        basis = cosines[:, (cosines.T @ wide).square().sum(1).topk(3).indices]
    else:
        basis = torch.linalg.svd(wide)[0][:, :3]
    r = basis.T @ wide
    if name.endswith("sgd"):
        inner = r
    else:
        inner = r / (r.abs() + 1e-8)  # Adam's first; with the signs of singular vectors P·N(R) does not change
    moved = basis @ inner
    if name.startswith("fira"):
        moved = moved + (wide - basis @ r) * (inner.norm(dim=0) / r.norm(dim=0))
    return moved.T if rows > cols else moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_adamw_groups_are_torchs_adamw(dtype):
    shapes = [(7,), (3, 4), (2, 3, 4), (7,), ()]
    ours, theirs = matrices(dtype, shapes=shapes), matrices(dtype, shapes=shapes)
    options = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2}
    optimizer = optim.Muon([{"params": ours, "algorithm": "adamw", **options}])
    reference = torch.optim.AdamW(theirs, **options)
    run(optimizer, ours, 5)
    run(reference, theirs, 5)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q)
