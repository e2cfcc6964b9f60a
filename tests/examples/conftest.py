"""The examples are scripts beside the package; a wheel does not bring them."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example():
    """Imports an example by its file name, as a fresh module."""

    def load(name):
        path = FOLDER / f"{name}.py"
        if not path.exists():
            pytest.skip("the tests run outside the source tree")
        spec = importlib.util.spec_from_file_location(f"example_{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
