"""The project's promises to its users and developers: types, versions, links, the wheel."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from runs import ROOT, command, environment

import aae_jax as aae

PACKAGE = ROOT / "aae_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
CALLED = {"__init__", "__call__", "__enter__", "__exit__"}  # public, though they begin with "_"


def unannotated(body):
    """Public functions, and methods of public classes, without full annotations."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from unannotated(node.body)
        if isinstance(node, ast.FunctionDef) and (node.name in CALLED or node.name[0] != "_"):
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            arguments += [a for a in (given.vararg, given.kwarg) if a is not None]
            missing = [
                a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                yield f"{node.name}, line {node.lineno}: {missing or 'return'}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_function_is_annotated(path):
    assert list(unannotated(ast.parse(path.read_text()).body)) == []


def test_type_checkers_see_the_public_names():
    """Type checkers find public names where they are found at run time."""
    homes = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert name.asname == name.name  # else it is not public to a type checker
                homes[name.name] = node.module
    assert sorted(homes) == aae.__all__
    for name, home in homes.items():
        if name not in aae._MODULES:
            assert f"aae_jax.{aae._HOME_OF[name]}" == home


def test_one_version_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", aae.__version__)
    assert f"\nversion: {aae.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"({aae.__version__})" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("program", [command(), [sys.executable, "-m", "aae_jax"]], ids=str)
def test_the_commands_tell_their_version(program, tmp_path):
    done = subprocess.run(
        [*program, "--version"], cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"aae_jax {aae.__version__}\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_page_of_the_habits_is_linked_truly():
    for page in ("CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), target


# In the new environment, without what launch.py needs beside the core: a model is trained and used.
_USE = """
import sys

for name in OTHERS:
    sys.modules[name] = None  # which makes importing it an ImportError
import jax
import numpy as np
import aae_jax as aae
from aae_jax import parzen

assert aae.__file__.startswith(sys.prefix), aae.__file__
for name in aae.__all__:
    if name != "annealed" and aae._HOME_OF.get(name) != "likelihood":  # they need blackjax
        getattr(aae, name)
spec = aae.Spec((3, 4, 1), model=aae.ModelSpec(
    code_dim=2, encoder_hidden=(8,), decoder_hidden=(8,), discriminator_hidden=(8,)))
state = aae.create_train_state(spec, jax.random.key(0))
dataset = {"image": np.zeros((20, 3, 4, 1), np.uint8), "label": np.zeros(20, np.int32)}
state, metrics = aae.train_steps(state, dataset, 2)
samples = np.asarray(aae.generate(state, jax.random.key(1), 10)).reshape(10, 12)
assert np.isfinite(parzen.log_likelihood(samples, samples, 0.2)).all()
print(aae.__version__)
"""


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment(tmp_path):
    """Built from the project's files, installed alone; its dependencies are those of this one."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "runs", "build", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"aae_jax-{aae.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {str(path.relative_to(ROOT)) for path in (*FILES, PACKAGE / "__init__.pyi")}
    assert held == wanted | {"aae_jax/py.typed"}
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", wheel], check=True)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = "".join(text for extra, text in extras.items() if extra != "test")
    names = re.findall(r"^[\w-]+", lines, re.MULTILINE)
    # Flax and chex bring some of them.
    others = {MODULES.get(name, name) for name in names} - {"orbax", "absl", "scipy", "requests"}
    code = f"OTHERS = {sorted(others)}\n{_USE}"
    found = environment(PYTHONPATH=sysconfig.get_path("purelib"))  # where no editable install acts
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=found, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{aae.__version__}\n"), done.stderr


# What packages are imported as, where that is not their name.
MODULES = {
    "absl-py": "absl",
    "orbax-checkpoint": "orbax",
    "scikit-learn": "sklearn",
    "tensorflow-datasets": "tensorflow_datasets",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "tensorflow-cpu": "tensorflow",
}
