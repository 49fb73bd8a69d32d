"""`report.html`: its contents, its independence of other files, and its command."""

import base64
import html
import html.parser
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from runs import ROOT, environment, small_config
from test_spec import EXPERIMENTS

from aae_jax import experiment, figures, registry
from aae_jax.config import default_config
from aae_jax.errors import UserError
from aae_jax.workdir import meanings, report

VOID = {"meta", "img"}
PNG = b"\x89PNG \x00\xff"  # no picture, but its bytes


class Page(html.parser.HTMLParser):
    """Refuses tags that are not closed in order, and everything loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.images, self.texts, self.cells, self._open, self.style = {}, [], [], [], ""
        assert text.startswith("<!DOCTYPE html>\n") and text.isascii()
        self.feed(text)
        self.close()
        assert self._open == []
        assert not re.search("url|import|http", self.style)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes)
        assert tag not in {"script", "link", "iframe", "a", "base", "object"}
        assert given.keys() <= {"class", "lang", "charset", "alt", "src"}
        if tag == "img":
            kind, _, data = given["src"].partition(";base64,")
            assert kind in {"data:image/png", "data:image/gif"}
            self.images[len(self.images)] = base64.b64decode(data, validate=True)
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] == ["style"]:
            self.style += data
            return
        self.texts.append(data)
        if self._open[-1:] in (["td"], ["th"]):
            self.cells[-1] += data

    def row(self, title):
        """The cells that follow the one with a title, up to the meaning."""
        start = self.cells.index(title)
        return self.cells[start + 1 : start + 5]


def run_of(**fields):
    given = {"workdir": "runs/x", "config": {}, "default": {}, "results": {}, "pictures": {}}
    return report.Run(**{**given, **fields})


def page_of(**fields):
    return Page(report.page(run_of(**fields)))


SCORES = {
    "steps": 20_000,
    "seconds": 61.4,
    "devices": ["cpu", "cpu"],
    "jax": "0.10.2",
    "parzen/log_likelihood": -340.24,
    "parzen/standard_error": 1.96,
    "parzen/num_samples": 10_000,
    "prior/sliced_wasserstein": 0.25,
    "prior/sliced_wasserstein_floor": 0.125,
    "warnings": ["σ is < 1 & so"],
    "my/number": 123456,
}


def test_scores_are_shown_with_what_they_mean():
    page = page_of(results=SCORES, config={"algorithm": "aae", "data": {"name": "mnist"}})
    assert "Algorithm aae on mnist, seed 0, 20,000 training steps in 61 s, on 2 × cpu" in page.text
    title, meaning = meanings.NUMBERS["parzen/log_likelihood"][:2]
    assert page.row(title)[:3] == ["−340.2 ± 2.0", "", meaning]
    assert page.row("Samples")[0] == "10,000"
    assert page.row("Distance of codes from the prior")[:2] == ["0.25", "0.125"]
    assert "σ is < 1 & so" in page.text  # as text, not as a tag
    assert "123456" not in page.text  # a number that has no meaning here
    assert "standard error over test images" in page.text


def test_numbers_that_could_not_be_had_and_later_ones():
    scores = {"parzen/log_likelihood": None, "annealed/log_likelihood": 505.04}
    page = page_of(results={**scores, "annealed/standard_error": 2.0})
    assert page.row("Test log-likelihood, nats")[0] == "none"
    assert page.row("Annealed log-likelihood, nats")[0] == "505.0 ± 2.0"


def test_several_seeds_and_folds():
    name = "parzen/log_likelihood"
    fold = {"log_likelihood": 5.0, "standard_error": 0.5, "sigma": 0.2}
    page = page_of(
        config={"seed": 3, "num_seeds": 2},
        results={
            name: 2.0,
            "parzen/sigma": 0.2,
            "parzen/by_fold": [fold, {**fold, "log_likelihood": -1.0}],
            "spread": {name: 1.414, "parzen/sigma": 1e-17},
            "by_seed": [
                {"seed": 3, name: 1.0, "parzen/sigma": 0.2},
                {"seed": 4, name: None, "parzen/sigma": 0.2},
            ],
        },
        pictures={"samples.png": PNG},
    )
    assert page.row("Test log-likelihood, nats")[:2] == ["2.0", "1.4"]
    assert page.row("σ of the Parzen window")[:2] == ["0.2", "0"]  # equal but for rounding
    seed, fold = page.cells.index("seed"), page.cells.index("fold")
    assert page.cells[seed + 3 : seed + 9] == ["3", "1.0", "0.2", "4", "none", "0.2"]
    assert page.cells[fold + 3 : fold + 9] == ["1", "5.0", "0.2", "2", "−1.0", "0.2"]
    assert "seeds 3 … 4" in page.text and "standard error over folds" in page.text
    assert "Of the first seed" in page.text


def test_a_run_without_scores_or_pictures_says_so():
    page = page_of()
    assert "--mode=evaluate scores the run" in page.text
    assert "--mode=figures draws them" in page.text
    assert page.images == {} and "The default." in page.text
    page = page_of(pictures={"samples.png": PNG}, missing=["walk.gif"])
    assert "Not drawn: walk.gif" in page.text and len(page.images) == 1


def test_pictures_are_within_the_page_the_curves_first():
    files = {"codes.png": b"1", "training_curves.png": b"2", "walk.gif": b"3", "my<own>.png": PNG}
    page = page_of(pictures=files)
    assert list(page.images.values()) == [b"2", b"1", PNG, b"3"]
    assert "my<own>.png" in page.text and meanings.CAPTIONS["codes"] in page.text


def test_every_figure_has_a_caption():
    assert figures.FIGURES.keys() == meanings.CAPTIONS.keys()


def test_whatever_a_user_writes_is_text():
    bad = "</pre><script>alert('x')</script>&amp;\udc80"
    page = page_of(
        workdir=bad, config={"prior": {bad: bad}}, results={"warnings": [bad]}, missing=[bad]
    )
    shown = html.unescape(bad.encode("ascii", "xmlcharrefreplace").decode())
    assert page.text.count("<script>alert(") >= 4 and shown[:-1] not in page.style
    assert "<h1><" not in report.page(run_of(workdir=bad))


def test_differences_from_the_default():
    default = {"a": {"x": 1, "y": [1, 2]}, "b": None}
    page = page_of(config={"a": {"x": 1, "y": [3]}, "b": "c d", "new": {"z": 2.5}}, default=default)
    start = page.cells.index("field")
    assert page.cells[start:] == [
        *("field", "this run", "default"),
        *("a.y", "(3,)", "(1, 2)"),
        *("b", "c d", "None"),
        *("new.z", "2.5", "None"),
    ]
    run = run_of(config={"a": {"y": [3]}, "b": "c d"}, default=default, workdir="runs/my run")
    assert shlex.split(report.command(run).replace("\\\n", "")) == [
        *("python", "launch.py", "--config=experiments/default.py", "--config.a.y=(3,)"),
        *("--config.b=c d", "--workdir=runs/my run"),
    ]


# Reads commands from its standard input, and prints what launch.py makes of each.
_PARSE = """
import json, os, shlex, sys
sys.path.insert(0, os.getcwd())
import launch
for line in json.load(sys.stdin):
    if os.fork() == 0:
        sys.argv[:] = shlex.split(line)[1:]
        launch._parse_flags(sys.argv)
        print(json.dumps([json.loads(launch._CONFIG.value.to_json_best_effort()),
                          launch._WORKDIR.value]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_the_command_gives_the_same_config_for_every_experiment():
    configs = []
    for name, variant in EXPERIMENTS:
        get_config = importlib.import_module(f"experiments.{name}").get_config
        config = get_config() if variant is None else get_config(variant)
        configs.append(json.loads(config.to_json_best_effort()))
    override = {"model.encoder_hidden": (7,), "optimizer.generator.learning_rate": 1e-3}
    override |= {"data.name": "it's", "prior.function": "a:b", "evaluation.sigmas": None}
    configs.append(json.loads(small_config(**override).to_json_best_effort()))
    runs = [run_of(config=c, default=default_config(), workdir="a b") for c in configs]
    commands = [report.command(run).replace("\\\n", " ") for run in runs]
    done = subprocess.run(
        [sys.executable, "-c", _PARSE], cwd=ROOT, env=environment(), input=json.dumps(commands),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(configs)
    for line, config, command in zip(lines, configs, commands, strict=True):
        assert json.loads(line) == [config, "a b"], command


def test_without_the_project_the_command_is_python(tmp_path):
    config = {"seed": 1, "data": {"image_shape": [2, 2, 1]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = run_of(config=config, default=None, workdir=str(tmp_path))
    page = Page(report.page(run))
    assert "Every field." in page.text and "data.image_shape" in page.cells
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "run", lambda *given: seen.append(given))
        exec(report.command(run), {})
    ((found, workdir),) = seen
    assert json.loads(found.to_json_best_effort()) == config and workdir == str(tmp_path)


def config(num_steps=4):
    """A config with two seeds, and a length that may change."""
    phases = ("reconstruction", "discriminator", "generator")
    schedules = {f"optimizer.{phase}.schedule": "constant" for phase in phases}
    return small_config(num_seeds=2, **schedules, **{"train.num_steps": num_steps})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A whole run of two seeds."""
    workdir = tmp_path_factory.mktemp("report") / "run"
    experiment.run(config(), str(workdir))
    return workdir


def read(workdir):
    return Page((workdir / "report.html").read_text("ascii"))


def test_a_run_ends_with_its_report(workdir):
    page = read(workdir)
    drawn = {path.read_bytes() for path in (workdir / "figures").iterdir()}
    assert set(page.images.values()) == drawn and len(drawn) == 5
    with open(workdir / "results.json") as file:
        results = json.load(file)
    shown = f"{results['parzen/log_likelihood']:.1f}".replace("-", "−")
    assert page.row("Test log-likelihood, nats")[0].startswith(f"{shown} ± ")
    assert "train.num_steps" in page.cells and "seeds 0 … 1" in page.text
    assert not list(workdir.glob("*.part"))


def test_a_figure_that_fails_is_named_and_figures_draws_the_report_anew(workdir, tmp_path):
    whole = (workdir / "report.html").read_bytes()
    there = shutil.copytree(workdir, tmp_path / workdir.name)
    os.remove(there / "figures" / "samples.png")

    def fails(state, given):
        raise ValueError("no such picture")

    broken = figures.FIGURES["samples"]._replace(draw=fails)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="samples.png"):
        patch.setitem(figures.FIGURES, "samples", broken)
        experiment.run(config(), str(there))
    page = read(there)
    assert "Not drawn: samples.png" in page.text and len(page.images) == 4
    assert page.row("Test log-likelihood, nats")  # the scores are there all the same
    experiment.run(config(), str(there), "figures")
    again = (there / "report.html").read_bytes()
    assert again.replace(str(there).encode(), str(workdir).encode()) == whole


def test_a_run_that_goes_on_has_no_report_of_before(workdir, tmp_path):
    there = shutil.copytree(workdir, tmp_path / "run")
    experiment.run(config(8), str(there), "train")
    assert not (there / "report.html").exists()


# The earlier stages of algorithms that start from another run.
PARTS = {
    "decoder_finetuning": "aae",
    "gmmn_autoencoder": "autoencoder",
    "stacked_cae": "cae",
    "dbn": "rbm",
}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", registry.ALGORITHMS)
def test_every_algorithm_has_a_report(algorithm, tmp_path):
    fields = {"train.num_steps": 2, "train.input_noise": 0.0, "algorithm": algorithm}
    if registry.resolve("algorithm", algorithm, registry.ALGORITHMS).starts_from:
        fields |= {"start_from": str(tmp_path / "part")}
        part = small_config(**{**fields, "start_from": None, "algorithm": PARTS[algorithm]})
        if algorithm == "gmmn_autoencoder":
            part.model.code_dim = 32  # of the codes that it makes
        experiment.run(part, fields["start_from"], "train")
        assert not (tmp_path / "part" / "report.html").exists()
    experiment.run(small_config(**fields), str(tmp_path / "run"))
    page = read(tmp_path / "run")
    assert f"Algorithm {algorithm} on digits" in page.text
    assert len(page.images) == len(os.listdir(tmp_path / "run" / "figures")) >= 2


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
# What a browser made of the page, written into the page that it then prints.
_PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images];
  const found = {
    images: images.length,
    decoded: images.filter(i => i.complete && i.naturalWidth > 0 && i.width > 0).length,
    loaded: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  const pre = document.createElement("pre");
  pre.id = "found";
  pre.textContent = JSON.stringify(found);
  document.body.append(pre);
});</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_it(workdir, tmp_path, width):
    """Every picture decodes, nothing else is loaded, and nothing overflows the window."""
    path = tmp_path / "probe.html"
    path.write_text((workdir / "report.html").read_text("ascii").replace("</body>", _PROBE))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={tmp_path}/profile", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(re.search('<pre id="found">(.*?)</pre>', done.stdout)[1]))
    assert found == {"images": 5, "decoded": 5, "loaded": 0, "overflow": 0}
