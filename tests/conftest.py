"""Every op test runs on every backend: the CPU kernels, the CUDA kernels emulated on the CPU, and a GPU."""

from collections import Counter

import pytest
import torch

from lrkernels import testing


@pytest.fixture(params=testing.BACKENDS)
def device(request):
    """The device of one backend, which is active during the test."""
    reason = testing.unavailable(request.param)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    with testing.backend(request.param) as device:
        device_name = request.param
        yield BackendDevice(device, device_name)


class BackendDevice:
    """A torch.device and the name of the backend that serves it."""

    def __init__(self, device: torch.device, backend: str):
        self.device = device
        self.backend = backend


def pytest_terminal_summary(terminalreporter):
    """Why tests were skipped, a line a reason."""
    reasons = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")] += 1
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(autouse=True)
def fixed_seed_and_threads():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
