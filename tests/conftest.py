"""Eight virtual devices for every test, fast compilation, and the directories of real data."""

import os
import pathlib
import signal
import sys
import tempfile

import jaxlib.version

# Before JAX is imported. Programs of the tests are small: most of the time goes into compilation,
# which takes a quarter as long without LLVM's optimiser and XLA's newer emitters.
# Only for a jaxlib that is known to have these flags: XLA ends the process at an unknown flag.
FAST_COMPILATION = ""
if jaxlib.version.__version__.startswith("0.10."):
    FAST_COMPILATION = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false"
    )
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        FAST_COMPILATION,
    ]
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # `experiments` is not part of the installed package

import gzip

import jax
import numpy as np
import pytest

from aae_jax import parzen

# The cache of the runs that tests start: they share it, and leave the user's own alone.
_CACHE = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# A shell ignores SIGINT for background processes, and the runs that tests stop would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)

assert len(jax.devices()) == 8  # from here on, whatever a test does to XLA_FLAGS

MNIST_FILES = ROOT.parent / "shared" / "data" / "mnist"


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Each compiled program holds memory maps, of which Linux allows a process 65,530."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > 10_000:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=[False, True], ids=["float32", "bf16_split"])
def bf16_split(request, monkeypatch):
    """Sets whether the Parzen window splits products with 8-bit pixels, on any machine."""
    monkeypatch.setattr(parzen.running, "_has_fast_bfloat16", lambda: request.param)
    return request.param


@pytest.fixture(scope="session")
def mnist_files():
    """The directory of the four original MNIST files."""
    if not MNIST_FILES.is_dir():
        pytest.skip("needs the original MNIST files in ../shared/data/mnist")
    return MNIST_FILES


@pytest.fixture(scope="session")
def mnist_images(mnist_files):
    """{"train", "t10k"} → f32[N, 784] in [0, 1], read without the package."""

    def read(name):
        raw = gzip.open(mnist_files / f"{name}-images-idx3-ubyte.gz").read()[16:]
        return np.frombuffer(raw, np.uint8).reshape(-1, 784) / np.float32(255)

    return {name: read(name) for name in ("train", "t10k")}
