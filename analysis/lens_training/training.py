"""From a model to a learned lens: text, states, fit, evaluation, file. Each step is kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from analysis.errors import SpecError, UnknownModelError
from analysis.learned import lens_files
from analysis.learned.lens_files import read, write
from analysis.learned.library import Evaluation, LensInfo, own_folder
from analysis.learned.translators import LearnedLens, new_lens
from analysis.lens_training import fit as fit_module
from analysis.lens_training import texts
from analysis.lens_training.evaluate import evaluate
from analysis.lens_training.fit import Fit, FitSpec, cached, scales
from analysis.lens_training.texts import Text
from analysis.model import catalog, fingerprint
from analysis.model.handle import Model
from analysis.tasks.sum_table import operand_digits


def save_fit(run: Fit, path: Path, job: Any) -> None:
    """Write a checkpoint: lens, Adam's state, step and history."""
    tensors = {f"lens.{name}": value for name, value in run.lens.translators.state_dict().items()}
    for name, parameter in run.lens.translators.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    write(path, tensors, {"job": job, "step": run.step, "history": run.history}, "fit")


def resume_fit(run: Fit, path: Path, job: Any) -> None:
    """Bring a fresh fit to where a checkpoint of the same job stands.

    Raises:
        SpecError: If the checkpoint belongs to another job.
    """
    tensors, state = read(path, "fit")
    if state["job"] != job:
        raise SpecError(
            f"{path} belongs to a training with other options or another model.",
            "Give the same options, another --out, or remove its folder.",
        )
    run.step, run.history = state["step"], state["history"]
    own = {name[5:]: value for name, value in tensors.items() if name.startswith("lens.")}
    run.lens.translators.load_state_dict(own)
    for name, parameter in run.lens.translators.named_parameters():
        if f"adam.step.{name}" in tensors:
            run.optimizer.state[parameter] = {
                key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }


def save_text(text: Text, path: Path) -> None:
    """Write a text's tokens."""
    flat = [token for part in text.parts for token in part]
    tensors = {
        "ids": torch.tensor(flat),
        "lengths": torch.tensor([len(part) for part in text.parts]),
        "starts": torch.tensor(text.starts),
    }
    write(path, tensors, text.title, "text")


def load_text(path: Path) -> Text:
    """What ``save_text`` wrote."""
    tensors, title = read(path, "text")
    cut = torch.split(tensors["ids"], tensors["lengths"].tolist())
    parts = tuple(tuple(part.tolist()) for part in cut)
    return Text(title, parts, tuple(tensors["starts"].tolist()))


Say = Callable[[str], None]
#: Held-out positions that a lens is judged at, of each text.
JUDGED = 2048


@dataclass(frozen=True, slots=True)
class Session:
    """One training of one lens.

    Attributes:
        model: The model.
        spec: How the lens is fitted.
        out: The lens's file.
        source: A text file; None: the model writes the text itself.
        command: What a person typed, kept in the lens.
        judged: Held-out positions of each text.
    """

    model: Model
    spec: FitSpec
    out: Path
    source: Path | None = None
    command: str = ""
    judged: int = JUDGED

    @property
    def folder(self) -> Path:
        """Where text, states and checkpoint lie until the lens is finished."""
        return self.out.with_name(f"{self.out.stem}.training")

    def job(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be taken up, as JSON values."""
        digest = hashlib.sha256(self.source.read_bytes()).hexdigest() if self.source else ""
        return {"spec": asdict(self.spec), "model": self.model.info.fingerprint, "text": digest}


def default_file(model: Model, rank: int) -> Path:
    """Where a lens is put unless told: by the model's name, in the data folder."""
    plain = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in
                    Path(model.info.name).name)  # fmt: skip
    return own_folder() / f"{plain}-{f'rank{rank}' if rank else 'full'}.safetensors"


def run(session: Session, *, resume: bool, say: Say) -> LensInfo:
    """Train a lens and judge it as it is stored.

    Args:
        session: What to do.
        resume: Go on where an unfinished training of the same job stands.
        say: Gets lines of text.

    Raises:
        SpecError: If an unfinished training is in the way, belongs to another job, or the text is
            too short.
        CancelledError: If the caller's progress listener stops the work.
    """
    _open_folder(session, resume)
    unseen = _unseen(session)
    text = _kept(session.folder / "text.safetensors", lambda: _training_text(session))
    say(f"Training text: {text.title}, {text.size} tokens in {len(text.parts)} pieces")
    lens = _fitted(session, text, say)
    as_stored = lens_files.restored(lens_files.stored(lens))
    found = [evaluate(session.model, as_stored, judged, session.judged) for judged in unseen]
    info = lens_files.save_lens(as_stored, _info(session, text, tuple(found)))
    shutil.rmtree(session.folder)
    return info


def _open_folder(session: Session, resume: bool) -> None:
    path, job = session.folder / "job.json", session.job()
    if path.is_file() and not resume:
        raise SpecError(
            f"An unfinished training lies in {session.folder}.",
            "Go on with it by --resume, or remove the folder.",
        )
    if path.is_file() and json.loads(path.read_text("utf-8")) != job:
        raise SpecError(
            f"The training in {session.folder} has other options, text or model.",
            "Give the same ones, another --out, or remove the folder.",
        )
    session.folder.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    half.write_text(json.dumps(job), "utf-8")
    half.replace(path)


def _kept(path: Path, make: Callable[[], Text]) -> Text:
    """A text out of its file, made and written first where it is not there yet."""
    if not path.is_file():
        save_text(make(), path)
    return load_text(path)


def _training_text(session: Session) -> Text:
    spec = session.spec
    if session.source:
        return texts.from_file(session.model, session.source, "train").first(spec.tokens)
    return texts.drawn(session.model, spec.tokens, spec.seed, "train")


def _unseen(session: Session) -> list[Text]:
    """What the lens is judged on: held-out text of the training's kind, and human words."""
    model, seed, wanted = session.model, session.spec.seed, session.judged
    if session.source:
        held = texts.from_file(model, session.source, "held_out")
    else:
        path = session.folder / "held-out.safetensors"
        held = _kept(path, lambda: texts.drawn(model, wanted, seed, "held_out"))
    return [held, *human_words(model, wanted, seed)]


def human_words(model: Model, tokens: int, seed: int) -> list[Text]:
    """Python's manual; nothing for a model that only adds."""
    return [] if operand_digits(model) else [texts.manual(model, tokens, seed)]


def _fitted(session: Session, text: Text, say: Say) -> LearnedLens:
    states = cached(session.model, text.parts, session.folder / "states.npy")
    if states.shape[1] < session.spec.batch:
        raise SpecError(
            f"The text has {states.shape[1]} tokens; a batch has {session.spec.batch}.",
            "Name a longer text, or take a smaller batch.",
        )
    begun = fit_module.start(session.spec, new_lens(*scales(states), session.spec.rank,
                                               session.spec.seed))  # fmt: skip
    path, job = session.folder / "checkpoint.safetensors", session.job()
    if path.is_file():
        resume_fit(begun, path, job)
        say(f"Going on at step {begun.step}")

    def keep(fit: Fit) -> None:
        """Save how far the fit has come, so that a killed training goes on from there."""
        save_fit(fit, path, job)

    fit_module.fit(begun, session.model.readout, states, keep, say)
    return begun.lens


def _info(session: Session, text: Text, found: tuple[Evaluation, ...]) -> LensInfo:
    info, spec = session.model.info, session.spec
    return LensInfo(
        path=session.out, model=info.name, fingerprints=fingerprints(session.model),
        layers=info.layers, d_model=info.d_model, vocab=info.vocab, rank=spec.rank, nbytes=0,
        digest="", text=text.title, tokens=text.size, steps=spec.steps, seed=spec.seed,
        command=session.command, evaluations=found,
    )  # fmt: skip


def fingerprints(model: Model) -> tuple[str, ...]:
    """Of a model's weights in each dtype: a lens fits them all, as its states are float32.

    Only its own where the catalogue does not know the model.
    """
    own = model.info.fingerprint
    try:
        entry = catalog.find(model.info.name)
        all_of_them = [fingerprint.fingerprint(entry, dtype) for dtype in catalog.DTYPES]
    except UnknownModelError:
        return (own,)
    return tuple(all_of_them) if own in all_of_them else (own,)
