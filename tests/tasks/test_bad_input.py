"""The faults that users meet: each ends with its exit code and one message that says what to do; nothing is lost."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from gentool.errors import GentoolError
from gentool.runs import checkpoints
from gentool.tasks.train import train
from tests.tasks.runs import TINY, Call, Ended

QUICK = (*TINY, "trainer.max_steps=6", "trainer.checkpoint_every=2", "trainer.log_every=2")


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_run, tmp_path / "run")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def recipe(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def good(data: str = "{name: digits}") -> str:
    return f"family: edm\ndata: {data}\nmodel: {{network: {{name: film-mlp, width: 32, blocks: 2}}}}\n"


# --- 1 to 5: recipes and overrides ---


def test_misspelt_keys_are_all_told_with_their_places(tmp_path: Path, call: Call) -> None:
    path = recipe(tmp_path, good() + "trainer: {max_stepz: 5}\noptimizr: {lr: 1}\n")
    done = call("train", path, "--run-dir", tmp_path / "run")
    done.refused(2, f"{path}:4:11 trainer.max_stepz: unknown key; did you mean max_steps?")
    done.refused(2, f"{path}:5:1 optimizr: unknown key; did you mean optimizer?")
    assert not (tmp_path / "run").exists()


def test_wrong_types_name_the_accepted_form(tmp_path: Path, call: Call) -> None:
    path = recipe(tmp_path, good() + "trainer: {max_steps: banana, compile: on}\n")
    call("train", path).refused(2, "r.yaml:4:22 trainer.max_steps: expected an integer above 0, got 'banana'")
    assert call("recipes", "validate", recipe(tmp_path, good() + "optimizer: {lr: 1e-3}\n")).code == 0


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvw"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (good() + "seed: 1\nseed: 2\n", ["r.yaml:5:1", "seed"]),
        (good() + "trainer:\n\tmax_steps: 1\n", ["r.yaml:5:1"]),
        (BOMB, ["r.yaml"]),
        ("#" + " " * (100 << 20), ["r.yaml"]),
    ],
    ids=["duplicate key", "tab", "alias bomb", "100 MB"],
)  # fmt: skip
def test_files_that_are_no_recipes(text: str, words: list[str], tmp_path: Path, call: Call) -> None:
    call("train", recipe(tmp_path, text)).refused(2, "r.yaml", *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_step=5", ["override 'trainer.max_step=5'", "did you mean max_steps"]),
        ("trainer.max_steps", ["expected KEY=VALUE"]),
        ("trainer.max_steps=", ["trainer.max_steps", "expected an integer"]),
        ("trainer.max_steps=1=2", ["trainer.max_steps", "got '1=2'"]),
        ("größe=3", ["größe: unknown key"]),
        ("~optimizer.lrr", ["nothing to remove"]),
    ],
)
def test_overrides_that_are_refused(override: str, words: list[str], call: Call) -> None:
    call("train", *QUICK, override).refused(2, *words)


def test_equal_signs_belong_to_the_value(call: Call) -> None:
    shown = call("recipes", "show", "quickstart", "description=a=b=c", "--json").json
    assert shown["recipe"]["description"] == "a=b=c"


def test_recipe_of_a_later_schema(tmp_path: Path, call: Call) -> None:
    call("train", recipe(tmp_path, "schema: 2\n" + good())).refused(2, "r.yaml:1:9", "upgrade gentool")


# --- 6 to 8: data ---


def pictures(folder: Path, *modes: str, size: int = 8) -> Path:
    for i, mode in enumerate(modes * 6):
        path = folder / "ab"[i % 2] / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (size, size), np.uint8)
        wide = mode == "I;16"
        (
            Image.fromarray(noise.astype(np.uint16) * 257) if wide else Image.fromarray(noise).convert(mode)
        ).save(path)
    return folder


def train_on(folder: Path, call: Call, out: Path, *overrides: str) -> Ended:
    path = recipe(out, good(f"{{name: images, path: '{folder}', batch_size: 4}}"))
    return call("train", path, "trainer.max_steps=1", *overrides, "--run-dir", out / "run")


def test_data_that_are_missing_empty_or_mixed(tmp_path: Path, call: Call) -> None:
    train_on(tmp_path / "nowhere", call, tmp_path).refused(2, "nowhere")
    (tmp_path / "empty").mkdir()
    train_on(tmp_path / "empty", call, tmp_path).refused(2, "no pictures in there")
    mixed = pictures(tmp_path / "mixed", "L")
    Image.new("L", (9, 9)).save(mixed / "a" / "odd.png")
    train_on(mixed, call, tmp_path).refused(2, "pictures of 2 sizes", "set `size`")
    call("data", "check", mixed).refused(4, "odd.png")
    assert train_on(mixed, call, tmp_path, "data.size=8").code == 0


def test_one_corrupt_picture_stops_training_before_step_0_and_is_named(tmp_path: Path, call: Call) -> None:
    folder = pictures(tmp_path / "some", "L")
    bad = folder / "a" / "0.png"
    bad.write_bytes(bad.read_bytes()[:40])
    train_on(folder, call, tmp_path).refused(4, str(bad))
    assert not (tmp_path / "run" / "model.safetensors").exists()
    call("data", "check", folder).refused(4, str(bad))


@pytest.mark.parametrize("mode", ["I;16", "CMYK", "RGBA", "LA", "P"])
def test_other_picture_modes_are_converted_by_rule_or_refused_by_name(
    mode: str, tmp_path: Path, call: Call
) -> None:
    done = train_on(pictures(tmp_path / "some", mode), call, tmp_path)
    assert "Traceback" not in done.err
    assert done.code == 0 or (done.code in (2, 4) and mode.split(";")[0] in done.err), done.err


def packed(tmp_path: Path, call: Call) -> Path:
    path = tmp_path / "packed.h5"
    done = call("data", "pack", "digits", "-o", path)
    assert done.code == 0, done.err
    return path


def test_damaged_hdf5_is_corrupt_not_a_crash(tmp_path: Path, call: Call) -> None:
    whole = packed(tmp_path, call)
    with h5py.File(whole) as file:
        place = file["samples"].id.get_chunk_info(0)
    flipped, cut = tmp_path / "flipped.h5", tmp_path / "cut.h5"
    data = bytearray(whole.read_bytes())
    cut.write_bytes(data[: len(data) // 2])
    data[place.byte_offset + place.size // 2] ^= 1
    flipped.write_bytes(data)
    for path in (flipped, cut):
        text = good(f"{{name: hdf5, path: '{path}', batch_size: 4}}")
        call("train", recipe(tmp_path, text), "--run-dir", tmp_path / "run").refused(4, path.name)


def test_hdf5_that_another_process_writes(tmp_path: Path, call: Call) -> None:
    path = packed(tmp_path, call)
    code = f"import h5py, sys; f = h5py.File({str(path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        text = good(f"{{name: hdf5, path: '{path}', batch_size: 4}}")
        done = call("train", recipe(tmp_path, text), "--run-dir", tmp_path / "run")
        assert done.code in (2, 4)
        done.refused(done.code, "packed.h5")
    finally:
        writer.communicate()


def test_archives_that_reach_out_or_explode(tmp_path: Path, call: Call) -> None:
    def archive(name: str, member: str | zipfile.ZipInfo, data: bytes) -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(member, data)
        return tmp_path / name

    link = zipfile.ZipInfo("a/link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    before = sorted(tmp_path.parent.iterdir())
    for path in (
        archive("slip.zip", "../../slipped.png", b"x"),
        archive("link.zip", link, b"/etc/passwd"),
        archive("bomb.zip", "a/bomb.png", bytes(1 << 28)),
    ):
        done = train_on(path, call, tmp_path)
        assert done.code in (2, 4)
        done.refused(done.code, path.name)
    assert sorted(tmp_path.parent.iterdir()) == before


# --- 9 to 13: files of a run ---


class Payload:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_pickles_in_the_place_of_weights_or_samples_are_never_executed(
    run: Path, tmp_path: Path, call: Call
) -> None:
    mark = tmp_path / "executed"
    (run / "model.safetensors").write_bytes(pickle.dumps(Payload(mark)))
    call("sample", run).refused(4, "model.safetensors")
    np.savez(tmp_path / "s.npz", arr_0=np.array([Payload(mark)], dtype=object))
    call("evaluate", tmp_path / "s.npz", "--reference", "digits").refused(4, "without pickle")
    assert not mark.exists()


def test_damaged_runs_say_which_file(run: Path, call: Call) -> None:
    weights = run / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    call("sample", run).refused(4, "model.safetensors")
    weights.unlink()
    call("sample", run).refused(2, "no model.safetensors yet")
    weights.write_bytes(whole)
    (run / "provenance.json").write_text('{"torn')
    call("sample", run).refused(4, "provenance.json")
    (run / "provenance.json").unlink()
    call("sample", run).refused(4, "provenance.json", "data_spec")
    call("sample", run.parent / "nosuch").refused(2, "no such run folder")
    call("sample", run / "checkpoints").refused(2, "not a run folder")


def test_weights_are_never_read_as_another_model(run: Path, call: Call) -> None:
    """The networks of both are the same: nothing else would notice."""
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    assert "sigma_max: 80.0" in text
    recipe.write_text(text.replace("sigma_max: 80.0", "sigma_max: 40.0"))
    call("sample", run, "-n", 2).refused(4, "another model", "model.process.sigma_max was 80.0, is 40.0")
    recipe.write_text(text)
    assert call("sample", run, "-n", 2).code == 0


def test_what_a_kill_left_half_written_is_swept(tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    assert call("train", *QUICK, "trainer.max_steps=4", "--run-dir", run).code == 0
    torn = run / "checkpoints" / ".step-00000006.0badcafe.tmp.ckpt"
    torn.write_bytes(b"PK")
    (run / "checkpoints" / "step-00000006.ckpt").write_bytes(b"PK")  # renamed, its manifest not yet written
    done = call("train", *QUICK, "--run-dir", run, "--resume", "auto")
    assert done.code == 0, done.err
    assert "going on from step 4 of 6" in done.err
    assert not torn.exists()
    assert checkpoints.newest(run / "checkpoints")[0]["step"] == 6  # type: ignore[index]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As a quota does, writes beyond `size` bytes of a file fail (with EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_does_not_fit_is_an_error_and_the_last_one_stays(
    tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    assert call("train", *QUICK, "--run-dir", run).code == 0
    before = bytes_of(run / "checkpoints")
    with largest_file(20_000):
        more = call("train", *QUICK, "trainer.max_steps=8", "--run-dir", run, "--resume", "auto")
    more.refused(1, "cannot write", "step-00000008.ckpt")
    assert bytes_of(run / "checkpoints") == before
    done = call("train", *QUICK, "trainer.max_steps=8", "--run-dir", run, "--resume", "auto")
    assert (done.code, "going on from step 6 of 8" in done.err) == (0, True)


def test_samples_that_do_not_fit_are_an_error_and_leave_nothing(
    run: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "out" / "s.npz"
    with largest_file(1000):
        call("sample", run, "-n", 40, "-o", out).refused(1, "cannot write", "s.npz")
    assert list(out.parent.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A file system of its own; mounting one takes the right to."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True
        ).returncode:
            pytest.skip("file systems cannot be mounted here")
        return place

    yield mount
    subprocess.run(["umount", place], capture_output=True)


def test_full_disk(small_disk: Callable[[str], Path], call: Call) -> None:
    disk = small_disk("size=2m")
    run = disk / "run"
    assert call("train", *QUICK, "--run-dir", run).code == 0
    before = bytes_of(run / "checkpoints")
    (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 30_000))
    more = (*QUICK, "trainer.max_steps=8", "--run-dir", run, "--resume", "auto")
    call("train", *more).refused(1, "cannot write", "full")
    assert bytes_of(run / "checkpoints") == before
    call("sample", run, "-n", 4000, "-o", disk / "s.npz", "--steps", 1, "--batch-size", 4000).refused(
        1, "full"
    )
    assert not (disk / "s.npz").exists()
    (disk / "ballast").unlink()
    assert call("train", *more).code == 0


def test_read_only_outputs_are_refused_before_any_work(
    small_disk: Callable[[str], Path], run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk("ro")
    monkeypatch.setattr("gentool.tasks.sampling.draw.draw_span", None)
    monkeypatch.setattr("gentool.tasks.train.fit", None)
    call("train", *QUICK, "--run-dir", disk / "run").refused(2, "read-only")
    call("sample", run, "-o", disk / "s.npz").refused(2, "read-only")


def test_a_file_in_the_place_of_a_folder(run: Path, tmp_path: Path, call: Call) -> None:
    (tmp_path / "file").write_text("")
    call("train", *QUICK, "--run-dir", tmp_path / "file" / "run").refused(2, "not a folder")
    call("sample", run, "-o", tmp_path / "file" / "s.npz").refused(2, "not a folder")


def test_what_is_refused_leaves_no_folders(
    run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call("train", "edm/mnist-small", "data.root=nowhere").refused(2, "no train-images")
    call("train", *QUICK, "trainer.accelerator=gpu", "--run-dir", "a/b").refused(2, "not on this machine")
    assert list(tmp_path.iterdir()) == [run]
    before = sorted(run.iterdir())
    call("sample", run, "--mesh").refused(2, "clouds of points")
    assert sorted(run.iterdir()) == before


def test_a_run_folder_removed_during_training_is_an_error_at_the_next_save(tmp_path: Path) -> None:
    run = tmp_path / "run"
    name, *changes = QUICK

    def remove(step: int, total: int, figures: dict[str, float]) -> None:
        if step == 3:
            shutil.rmtree(run)

    with pytest.raises(GentoolError, match=r"the folder was removed|does not exist"):
        train(name, changes, run_dir=run, on_step=remove)
    assert not (run / "model.safetensors").exists()


# --- 15 and 22 to 25: resumption, arithmetic, the machine ---


def test_resuming_on_other_data_is_refused_unless_allowed(tmp_path: Path, call: Call) -> None:
    rng = np.random.default_rng(0)
    path, run = tmp_path / "d.npz", tmp_path / "run"
    text = recipe(tmp_path, good(f"{{name: npz, path: '{path}', batch_size: 8}}"))
    line = ("train", text, "--run-dir", run, "trainer.checkpoint_every=2")
    np.savez(path, arr_0=rng.integers(0, 256, (40, 8, 8, 1), np.uint8))
    assert call(*line, "trainer.max_steps=2").code == 0
    np.savez(path, arr_0=rng.integers(0, 256, (40, 8, 8, 1), np.uint8))
    before = bytes_of(run)
    more = (*line, "trainer.max_steps=4", "--resume", "auto")
    call(*more).refused(2, "the data differ", "--allow-change")
    assert bytes_of(run) == before
    assert call(*more, "--allow-change").code == 0


def test_weights_that_overflow_under_a_finite_loss_are_not_saved(tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    assert call("train", *QUICK, "trainer.max_steps=2", "optimizer.name=sgd", "--run-dir", run).code == 0
    before = bytes_of(run / "checkpoints")
    wild = ("optimizer.name=sgd", "optimizer.lr=3e38", "optimizer.weight_decay=1000", "trainer.max_steps=3")
    done = call("train", *QUICK, *wild, "--run-dir", run, "--resume", "auto", "--allow-change")
    done.refused(1, "NaN or infinite after step 3", "the checkpoint of step 2 is good", "optimizer.lr")
    assert bytes_of(run / "checkpoints") == before


def test_judging_few_samples_warns_and_other_channels_are_refused(tmp_path: Path, call: Call) -> None:
    rng = np.random.default_rng(0)
    gray, colour, dark = (tmp_path / name for name in ("gray.npz", "colour.npz", "dark.npz"))
    np.savez(gray, arr_0=rng.integers(0, 256, (20, 8, 8, 1), np.uint8))
    np.savez(colour, arr_0=rng.integers(0, 256, (20, 8, 8, 3), np.uint8))
    np.savez(dark, arr_0=rng.integers(0, 2, (20, 8, 8, 1), np.uint8))
    how = ("--reference", "digits", "--metric", "fid", "--features", "pixels", "--json")
    few = call("evaluate", gray, *how)
    assert few.code == 0
    assert np.isfinite(few.json["metrics"]["fid"])
    assert "20 images" in few.err
    call("evaluate", colour, *how).refused(2, "RGB", "grayscale")
    call("evaluate", dark, *how).refused(2, "0..1", "255")


def test_out_of_memory_names_the_knobs(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    # 64 TB: no machine grants it, and refusing costs nothing
    huge = call("train", *QUICK, "model.network.width=4000000", "--run-dir", tmp_path / "a")
    huge.refused(1, "ran out of memory", "batch_size", "--dry-run")

    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("gentool.tasks.training.loop.Trainer.fit", exhausted)
    gpu = call("train", *QUICK, "--run-dir", tmp_path / "b")
    gpu.refused(1, "out of GPU memory", "data.batch_size", "trainer.accumulate", "bf16-mixed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_hardware_that_is_not_there(tmp_path: Path, call: Call) -> None:
    call("train", *QUICK, "trainer.accelerator=gpu", "--run-dir", tmp_path / "run").refused(
        2, "trainer.accelerator, devices or strategy"
    )


def test_a_home_that_cannot_be_written_and_a_bare_locale(
    run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ("evaluate", run, "--features", "pixels", "--metric", "fid", "-n", 20, "--json")
    at_home = call(*how).json["metrics"]
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/nowhere")
    monkeypatch.setenv("LANG", "C")
    assert call(*how).json["metrics"] == at_home
    done = call("train", *QUICK, "--run-dir", tmp_path / "größe", "-q")
    assert Path(done.out.strip()) == tmp_path / "größe"
    assert (tmp_path / "größe" / "model.safetensors").is_file()


def test_no_command_line_is_answered_with_a_traceback(call: Call) -> None:
    for words in (
        ["nosuch"],
        ["train"],
        ["train", "nosuch"],
        ["sample"],
        ["train", "\0"],
        ["sample", ""],
        ["--what"],
    ):
        call(*words).refused(2)
