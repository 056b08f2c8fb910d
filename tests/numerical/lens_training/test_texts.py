"""Training texts of a lens: a file, text by the model, or sums."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis
from analysis.errors import SpecError
from analysis.lens_training import texts
from analysis.lens_training.fit import FitSpec
from analysis.lens_training.training import run
from analysis.model.handle import Model
from tests.support.toy_lens import SHORT, ignore, session


@pytest.fixture(scope="module")
def opened(tiny_llama_dir: Path) -> Model:
    """The tiny untied Llama as the catalogue knows it: a folder, with a fingerprint."""
    return analysis.load_model(str(tiny_llama_dir))


def test_a_file_is_split_into_training_and_held_out_windows(opened: Model, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"the capital {number}" for number in range(500)), "utf-8")
    parts = {part: texts.from_file(opened, path, part) for part in ("train", "held_out")}
    ids = opened.tokenizer(path.read_text("utf-8"))["input_ids"]
    windows = [tuple(ids[at : at + 128]) for at in range(0, len(ids) - 127, 128)]
    assert parts["held_out"].parts == tuple(windows[::10])
    assert set(parts["train"].parts) | set(parts["held_out"].parts) == set(windows)
    assert parts["train"].size + parts["held_out"].size == 128 * len(windows)
    info = run(
        session(opened, tmp_path / "lens.safetensors", SHORT, path), resume=False, report=ignore
    )
    assert info.text == "words.txt"
    assert info.evaluations[0].text == "words.txt, each tenth window"


def test_generated_text_is_repeatable_and_differs_by_part(opened: Model) -> None:
    one = texts.generated(opened, 300, 1, "train")
    assert one == texts.generated(opened, 300, 1, "train")
    assert one.parts != texts.generated(opened, 300, 2, "train").parts
    held = texts.generated(opened, 300, 1, "held_out")
    assert not set(one.parts) & set(held.parts)
    assert all(0 < start <= len(part) for start, part in zip(held.starts, held.parts, strict=True))


def test_unusable_texts_are_refused(opened: Model, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the capital")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    for name, why in (("short.txt", "a lens needs"), ("bytes.txt", "UTF-8"), ("none", "UTF-8")):
        with pytest.raises(SpecError, match=why):
            texts.from_file(opened, tmp_path / name, "train")


@pytest.mark.parametrize("options", [{"steps": 0}, {"rank": -1}, {"rate": 0.0}, {"batch": 0}])
def test_invalid_options_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(SpecError):
        FitSpec(**options)  # type: ignore[arg-type]


def test_a_model_that_adds_is_trained_on_sums(tmp_path: Path) -> None:
    model = analysis.load_model("addition-5digit")
    spec = FitSpec(rank=32, tokens=2000, steps=200, batch=64, rows=2, rate=1e-2)
    info = run(session(model, tmp_path / "adder.safetensors", spec), resume=False, report=ignore)
    (found,) = info.evaluations
    assert (info.text, found.text) == ("sums of 5 digits", "sums of 5 digits it never saw")
    assert found.better == len(found.rows) == 2
    seen, unseen = (texts.sums(5, 2000, 1, part) for part in ("train", "held_out"))
    assert not set(seen.parts) & set(unseen.parts)
