"""`report.html`: a finished run on one page, which needs no network and no other file."""

import base64
import html
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aae_jax.config import default_config
from aae_jax.workdir import records
from aae_jax.workdir.meanings import CAPTIONS, NUMBERS

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #eee; overflow-wrap: break-word }
.wide { overflow-x: auto }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums }
pre { background: #f5f5f5; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
figure { margin: 1.5rem 0 } img { min-width: 12rem; max-width: 100%; height: auto }
figcaption { color: #555; font-size: .9rem }
.warning { background: #fff4d6; padding: .6rem .8rem; border-left: 4px solid #e0a800 }
"""


class Run(NamedTuple):
    """The contents of a report."""

    workdir: str
    config: Mapping[str, Any]  # config.json
    default: Mapping[str, Any] | None  # experiments/default.py; None if there is none
    results: Mapping[str, Any]  # results.json; empty where nothing is scored
    pictures: Mapping[str, bytes]  # by file name, PNG or GIF
    missing: Sequence[str] = ()  # pictures that the model should have


def write(workdir: str, expected: Iterable[str]) -> None:
    """Writes `report.html` of a run by one rename, from the other files in its directory.

    Args:
        workdir: with `config.json`; `results.json` and `figures/` may be missing.
        expected: the file names of the model's figures.
    """
    directory = os.path.join(workdir, "figures")
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    pictures = {}
    for name in names:
        if name.endswith((".png", ".gif")):
            with open(os.path.join(directory, name), "rb") as file:
                pictures[name] = file.read()
    run = Run(
        workdir,
        records.read_config(workdir) or {},
        default_config(),
        records.read_json(os.path.join(workdir, "results.json")) or {},
        pictures,
        [name for name in expected if name not in pictures],
    )
    records.write_atomically(os.path.join(workdir, "report.html"), page(run))


def page(run: Run) -> str:
    """The page, in ASCII, so that any locale can write it."""
    name = os.path.basename(os.path.abspath(run.workdir))
    body = [
        f"<h1>{_text(name)}</h1>",
        f"<p>{_text(_what(run))}</p>",
        *[f'<p class="warning">{_text(said)}</p>' for said in run.results.get("warnings", ())],
        "<h2>Scores</h2>",
        _scores(run.results),
        "<h2>Pictures</h2>",
        *_pictures(run),
        "<h2>Config</h2>",
        _config(run),
        "<h2>Repeat this run</h2>",
        "<p>In the project's directory; another --workdir starts the run anew.</p>",
        f"<pre>{_text(command(run))}</pre>",
    ]
    head = f'<meta charset="utf-8"><title>{_text(name)}</title><style>{_STYLE}</style>'
    text = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n'
    text += "\n".join(body) + "\n</body></html>\n"
    return text.encode("ascii", "xmlcharrefreplace").decode("ascii")


def command(run: Run) -> str:
    """The command line that trains the same model again, or Python if there is no launcher."""
    if run.default is None:
        return (
            "import json, ml_collections\nfrom aae_jax import experiment\n\n"
            f"fields = json.load(open({os.path.join(run.workdir, 'config.json')!r}))\n"
            f"experiment.run(ml_collections.ConfigDict(fields), {run.workdir!r})"
        )
    flags = [f"--config.{field}={_value(value)}" for field, value, _ in _differences(run)]
    parts = ["--config=experiments/default.py", *flags, f"--workdir={run.workdir}"]
    return "python launch.py " + " \\\n    ".join(map(shlex.quote, parts))


def _what(run):
    """One sentence: algorithm, data, seeds, steps, time and devices."""
    config, results = run.config, run.results
    data = config.get("data", {}).get("name", "unknown data")
    first, count = config.get("seed", 0), config.get("num_seeds", 1)
    seeds = f"seed {first}" if count == 1 else f"seeds {first} … {first + count - 1}"
    said = f"Algorithm {config.get('algorithm')} on {data}, {seeds}"
    if "steps" in results:
        said += f", {results['steps']:,d} training steps"
    if isinstance(results.get("seconds"), (int, float)):
        said += f" in {results['seconds']:,.0f} s"
    if "devices" in results:
        kinds = [
            f"{results['devices'].count(kind)} × {kind}" for kind in sorted(set(results["devices"]))
        ]
        said += f", on {', '.join(kinds)}"
    return said + (f", JAX {results['jax']}." if "jax" in results else ".")


def _scores(results):
    shown = {name: number for name, number in NUMBERS.items() if name in results}
    if not shown:
        return "<p>Not scored yet: --mode=evaluate scores the run.</p>"
    by_seed, spread = results.get("by_seed", []), results.get("spread", {})
    heads = [
        "",
        "value",
        *(["std over seeds"] if by_seed else []),
        "samples of the prior",
        "what it means",
    ]
    rows = []
    for name, number in shown.items():
        value = _number(results[name], number.form)
        if number.error in results:
            value += f" ± {_number(results[number.error], number.form)}"
        std = [_std(spread.get(name), results[name])] if by_seed else []
        floor = _number(results[number.floor], number.form) if number.floor in results else ""
        rows.append([number.title, value, *std, floor, number.meaning])
    by_fold = results.get("parzen/by_fold", [])
    over = "folds" if by_fold else "test images"
    said = [_table(heads, rows, len(heads) - 2), f"<p>± is the standard error over {over}.</p>"]
    if by_seed:
        names = [name for name in shown if name in by_seed[0] and name in spread]
        said.append("<h3>By seed</h3>" + _members("seed", by_seed, names))
    if by_fold:
        folds = [
            {"fold": index + 1, **{f"parzen/{name}": value for name, value in fold.items()}}
            for index, fold in enumerate(by_fold)
        ]
        names = [name for name in NUMBERS if name in folds[0]]
        said.append("<h3>By fold</h3>" + _members("fold", folds, names))
    return "\n".join(said)


def _members(kind, members, names):
    """A table of the numbers of each seed or fold."""
    rows = [
        [str(one.get(kind)), *[_number(one.get(name), NUMBERS[name].form) for name in names]]
        for one in members
    ]
    return _table([kind, *[NUMBERS[name].title for name in names]], rows, len(names))


def _number(value, form):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "none" if value is None else str(value)
    if form.endswith("d") and not float(value).is_integer():
        form = ".4g"
    return format(int(value) if form.endswith("d") else value, form).replace("-", "−")


def _std(value, mean):
    """A standard deviation over seeds with two digits; rounding errors of equal numbers give 0."""
    if value is None:
        return ""
    return _number(0 if value < 1e-12 * abs(mean) else value, ".2g")


def _pictures(run):
    said = []
    if "by_seed" in run.results and run.pictures:
        said.append("<p>Of the first seed; the training curves are means over the seeds.</p>")
    # The training curves come first.
    for name in sorted(run.pictures, key=lambda name: (name != "training_curves.png", name)):
        stem, _, kind = name.rpartition(".")
        caption = _text(CAPTIONS.get(stem, stem.replace("_", " ")))
        data = base64.b64encode(run.pictures[name]).decode("ascii")
        said.append(
            f'<figure><img alt="{caption}" src="data:image/{kind};base64,{data}">'
            f"<figcaption><b>{_text(name)}</b>: {caption}</figcaption></figure>"
        )
    if run.missing:
        missing = f"Not drawn: {', '.join(run.missing)}. --mode=figures tries again."
        said.append(f'<p class="warning">{_text(missing)}</p>')
    return said or ["<p>Not drawn yet: --mode=figures draws them.</p>"]


def _differences(run) -> list[tuple[str, Any, Any]]:
    """(field, value, default) of the fields that differ from the default."""
    now, default = records.flatten(run.config), records.flatten(run.default or {})
    return [
        (name, value, default.get(name))
        for name, value in sorted(now.items())
        if name not in default or value != default[name]
    ]


def _config(run):
    differences = _differences(run)
    if run.default is None:
        said, heads = "Every field.", ["field", "value"]
    else:
        said = "Fields that differ from experiments/default.py." if differences else "The default."
        heads = ["field", "this run", "default"]
    rows = [[field, *map(_value, values)][: len(heads)] for field, *values in differences]
    return f"<p>{said} config.json has all of them.</p>" + (
        _table(heads, rows, numbers=0) if rows else ""
    )


def _value(value):
    """A value as a flag takes it: lists of JSON become tuples."""
    return value if isinstance(value, str) else repr(_tuples(value))


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _table(heads, rows, numbers):
    """A table; columns 1 … `numbers` hold numbers, and empty columns are left out."""
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    opening = {i: '<td class="number">' if 1 <= i <= numbers else "<td>" for i in kept}
    lines = ["".join(f"<th>{_text(heads[i])}</th>" for i in kept)]
    lines += ["".join(f"{opening[i]}{_text(row[i])}</td>" for i in kept) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n{body}\n</table></div>'


def _text(value):
    return html.escape(str(value))
