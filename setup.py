"""Runs CMake for the torch-free kernel library, then links it into the two extension modules. See pyproject.toml."""

import os
import shutil
import subprocess
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension

ROOT = Path(__file__).resolve().parent
CUDA = os.environ.get("LRK_CUDA", "1") == "1"
EMULATOR = {"0": "OFF", "1": "ON", "checked": "CHECKED"}[os.environ.get("LRK_EMULATOR", "0")]
BUILD = Path(os.environ.get("LRK_BUILD_DIR", ROOT / "build" / "package"))


class CMakeThenExtensions(BuildExtension):
    """Builds liblrk_kernels.a first; the extensions link it, so torch is compiled against in seconds."""

    def build_extensions(self) -> None:
        targets = ["lrk_kernels"] + (["lrk_emulated", "lrk_conformance"] if EMULATOR != "OFF" else [])
        configure = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DCMAKE_BUILD_TYPE=Release"]
        nvcc = self.cuda_compiler()
        configure += [f"-DLRK_CUDA={'ON' if nvcc else 'OFF'}", f"-DLRK_EMULATOR={EMULATOR}"]
        missing = "no nvcc was found when the package was built" if CUDA else "the package was built with LRK_CUDA=0"
        configure.append(f"-DLRK_WITHOUT_CUDA_REASON={missing}")
        if ninja := shutil.which("ninja"):
            # Said every time: an earlier isolated build may have left the path of a ninja that is gone.
            configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={os.path.abspath(ninja)}"]
        if nvcc:
            configure.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
        subprocess.check_call(configure)
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        subprocess.check_call(["cmake", "--build", str(BUILD), "--parallel", jobs, "--target", *targets])
        archives = [str(BUILD / f"lib{target}.a") for target in targets]
        link = ["-Wl,--start-group", *archives, "-Wl,--end-group", "-Wl,--exclude-libs,ALL", "-lpthread", "-ldl"]
        if nvcc:
            link += [str(self.cuda_runtime(nvcc)), "-lrt"]
        for extension in self.extensions:
            if extension.name == conformance.name:
                extension.define_macros = [("LRK_HAVE_CUDA", "1" if nvcc else "0")]
            extension.extra_link_args = [*extension.extra_link_args, *link]
            extension.depends = [*extension.depends, *archives]
        super().build_extensions()

    @staticmethod
    def cuda_runtime(nvcc: Path) -> Path:
        root = nvcc.parent.parent
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            if (root / folder / "libcudart_static.a").exists():
                return root / folder / "libcudart_static.a"
        raise FileNotFoundError(f"libcudart_static.a is not below {root}; set LRK_CUDA=0 to build without CUDA kernels")

    @staticmethod
    def cuda_compiler() -> Path | None:
        """The real nvcc, not a wrapper script around it: the toolkit's libraries lie beside the real one."""
        # What torch looks for when it was built with CUDA: nvcc on the PATH, /usr/local/cuda.
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or CUDA_HOME
        in_home = shutil.which("nvcc", path=Path(home, "bin")) if home else None
        found = os.environ.get("LRK_NVCC") or in_home or shutil.which("nvcc")
        if not found or not CUDA:
            return None
        # nvcc --dryrun prints where it lives even when a shell script stands on the PATH.
        lines = subprocess.run([found, "--dryrun", "-E", "x.cu"], capture_output=True, text=True).stderr.splitlines()
        tops = [line.split("=", 1)[1].strip() for line in lines if line.startswith("#$ TOP=")]
        root = Path(tops[0]) if tops else Path(os.path.realpath(found)).parent.parent
        return Path(os.path.normpath(root)) / "bin" / "nvcc"


INCLUDE = [str(ROOT / "csrc" / "include"), str(ROOT / "csrc")]
torch_ops = CppExtension(
    "lrkernels._C",
    [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc" / "torch").glob("*.cpp"))],
    include_dirs=INCLUDE,
    depends=[str(path) for path in (ROOT / "csrc").rglob("*.h")],
    py_limited_api=True,
    extra_compile_args={
        "cxx": ["-O2", "-std=c++20", "-fvisibility=hidden", "-Wall", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    },
)
inspection = Pybind11Extension(
    "lrkernels._kernels",
    [str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc" / "python").glob("*.cpp"))],
    include_dirs=INCLUDE,
    cxx_std=20,
)
# The kernels that compare the emulator with a GPU; development builds only.
conformance = Pybind11Extension(
    "lrkernels._conformance", ["csrc/python/conformance/module.cpp"], include_dirs=INCLUDE, cxx_std=20
)

setup(
    ext_modules=[torch_ops, inspection] + ([conformance] if EMULATOR != "OFF" else []),
    cmdclass={"build_ext": CMakeThenExtensions},
)
