"""`gentool data`: what sets there are, get them, pack them, look at them, audit them."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Data sets: list, fetch, pack, inspect, check.", no_args_is_help=True)

Source = Annotated[
    str, typer.Argument(metavar="SET|PATH", help="A set's name, a folder, .tar, .zip, .h5 or .npz.")
]
Options = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options of the set, e.g. size=32 root=data."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
WhichSplit = Annotated[str, typer.Option("--split", metavar="train|test", help="Which part of the set.")]

CORRUPT = 4
SHOWN_CLASSES = 20


def _emit(json: bool, document: dict[str, Any], lines: list[str]) -> None:
    print(json_format.dumps(document, indent=2, ensure_ascii=False) if json else "\n".join(lines))


def _split(value: str) -> Any:
    from gentool.errors import UserError

    if value not in ("train", "test"):
        raise UserError(f"expected train or test, found {value!r}", "--split")
    return value


@app.command("list")
def list_(json: Json = False) -> None:
    """The data sets by name, and whether their files are here.

    Examples: gentool data list; GENTOOL_DATA=/data gentool data list --json
    """
    from gentool.data.config import CONFIGS

    rows = []
    for name, config in CONFIGS.items():
        needs_path = "path" in config.model_fields
        present = None if needs_path else config.model_validate({"name": name}).present()
        rows.append({"name": name, "what": config.what, "from": config.origin, "present": present})
    words: dict[object, str] = {True: "here", False: "not here", None: "needs path="}
    lines = [f"{row['name']:<14} {words[row['present']]:<12} {row['what']} [{row['from']}]" for row in rows]
    _emit(json, {"data": rows}, lines)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="SET", help="mnist, fashion-mnist or cifar10.")],
    root: Annotated[str | None, typer.Option(help="Common folder; default $GENTOOL_DATA or ./.data.")] = None,
    url: Annotated[str | None, typer.Option(help="Folder of a mirror with the same files (https).")] = None,
    json: Json = False,
) -> None:
    """Download a set; verified by pinned hashes, resumed where it was cut.

    Example: gentool data fetch mnist --root data
    """
    from gentool.data.config import SETS
    from gentool.data.fetch import fetch_set, report_to_stderr

    paths = fetch_set(name, SETS.get(name).remotes, root, url, report_to_stderr)
    _emit(json, {"name": name, "files": [str(p) for p in paths]}, [str(p) for p in paths])


@app.command()
def pack(
    source: Source,
    options: Options = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.h5", help="What to write.")] = Path(
        "data.h5"
    ),
    split: WhichSplit = "train",
    json: Json = False,
) -> None:
    """Decode a set or folder once into a checksummed .h5 that the set `hdf5` reads; nothing is held out.

    Example: gentool data pack photos.zip size=64 -o photos64.h5
    """
    from gentool.data.config import parse_source
    from gentool.data.dataset import open_whole
    from gentool.data.pack import pack as write

    dataset = open_whole(parse_source(source, options or ()), _split(split))
    path = write(dataset, output)
    document = {
        "path": str(path),
        "count": len(dataset),
        "shape": list(dataset.spec.shape),
        "bytes": path.stat().st_size,
    }
    _emit(json, document, [str(path)])


@app.command()
def inspect(source: Source, options: Options = None, split: WhichSplit = "train", json: Json = False) -> None:
    """Shape, classes, range, mean and standard deviation, fingerprint.

    Example: gentool data inspect mnist pad=32 --split test
    """
    from gentool.data.config import parse_source
    from gentool.data.dataset import open_set
    from gentool.data.summary import summarise

    config = parse_source(source, options or ())
    document = {"name": config.name, "split": split, **summarise(open_set(config, _split(split)))}
    _emit(json, document, [f"{key:<12} {_plain(value)}" for key, value in document.items()])


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        shown = [f"{k}: {v}" for k, v in list(value.items())[:SHOWN_CLASSES]]
        rest = (
            [f"... {len(value) - SHOWN_CLASSES} more (--json has all)"] if len(value) > SHOWN_CLASSES else []
        )
        return ", ".join(shown + rest) or "none"
    if isinstance(value, list):
        return " x ".join(str(v) if isinstance(v, int) else f"{v:.4f}" for v in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@app.command()
def check(source: Source, options: Options = None, json: Json = False) -> None:
    """Read every example and name every bad file, row, offset and label; exit code 4 when there are any.

    Example: gentool data check photos/ size=64
    """
    from gentool.data.config import parse_source
    from gentool.errors import CorruptError

    config = parse_source(source, options or ())
    found = []
    try:
        for fault in config.faults():
            found.append(asdict(fault))
    except CorruptError as error:  # damage that hides all the rest, such as a broken header
        found.append({"where": error.where, "message": error.message})
    document = {"name": config.name, "source": source, "faults": found}
    lines = [f"{fault['where']}: {fault['message']}" for fault in found]
    _emit(json, document, lines or [f"{source}: no faults"])
    if found:
        raise typer.Exit(CORRUPT)
