"""Train a learned lens: text, states, fit, evaluation, file. Each step is saved."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.contract import jobs
from analysis.errors import SpecError, UnknownModelError
from analysis.learned import translators
from analysis.learned.library import Evaluation, LensInfo, RowFigures, own_folder
from analysis.learned.translators import LearnedLens, Lens, LogitLens, new_lens, read, write
from analysis.lens_training import texts
from analysis.lens_training.fit import Fit, FitSpec, cached_states, fit, scales
from analysis.lens_training.fit import start as start_fit
from analysis.lens_training.texts import Text
from analysis.model import catalog
from analysis.model.handle import Model
from analysis.tracing.capture import trace
from analysis.tracing.vocabulary import kl


@dataclass(frozen=True)
class _Reference:
    """The model's own output at n positions."""

    log_probs: Tensor
    top: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> _Reference:
        """From the model's own logits, [pos, vocab]."""
        return cls(torch.log_softmax(logits, -1), logits.argmax(-1))

    def sums(self, logits: Tensor) -> tuple[float, int]:
        """KL in nats and agreements of the top token, both summed over positions."""
        divergence = kl(self.log_probs, torch.log_softmax(logits, -1))
        agreed = logits.argmax(-1) == self.top
        return float(divergence.sum()), int(agreed.sum())


@torch.no_grad()
def evaluate(model: Model, lens: Lens, text: Text, tokens: int) -> Evaluation:
    """Mean KL(model || lens) and top-1 agreement of both lenses at every row before the last.

    Args:
        model: The model.
        lens: The lens, restored from its stored form.
        text: Text that the lens was not trained on.
        tokens: Number of positions to evaluate; all if the text has fewer.

    Raises:
        SpecError: If the text has no positions to evaluate.
        CancelledError: If the caller's progress listener stops the work.
    """
    rows, done = model.info.layers, 0
    kl, top = np.zeros((rows, 2)), np.zeros((rows, 2))
    for ids, start in zip(text.parts, text.starts, strict=True):
        length = min(len(ids), start + tokens - done)
        if length > start:
            _add(model, lens, ids[:length], start, kl, top)
            done += length - start
            jobs.step(done, tokens, f"Evaluating on {text.title}")
    if not done:
        raise SpecError("The text is too short to evaluate a lens.", "Choose a longer text.")
    figures = tuple(
        RowFigures(row, *(float(value) for value in (*kl[row] / done, *top[row] / done)))
        for row in range(rows)
    )
    return Evaluation(text.title, done, figures)


def _add(
    model: Model, lens: Lens, ids: tuple[int, ...], start: int, kl: np.ndarray, top: np.ndarray
) -> None:
    """Add the sums of one sequence: column 0 for the logit lens, column 1 for the lens."""
    states = trace(model, ids)
    device = model.readout.device
    own = _Reference.of(torch.from_numpy(states.logits[start:]).to(device))
    for row in range(model.info.layers):
        vectors = torch.from_numpy(states.resid[row, start:]).to(device)
        for column, reader in enumerate((LogitLens(), lens)):
            apart, agreed = own.sums(reader.logits(model.readout, vectors, row))
            kl[row, column] += apart
            top[row, column] += agreed


def table(found: Evaluation) -> str:
    """The evaluation as a Markdown table, one line for each residual row."""
    lines = [
        f"{found.text}, {found.tokens} tokens: the learned lens has the smaller KL at "
        f"{found.better} of {len(found.rows)} rows",
        "",
        "| row | KL logit lens | KL learned lens | top-1 logit lens | top-1 learned lens |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.row} | {row.logit_kl:.3f} | {row.learned_kl:.3f} "
        f"| {100 * row.logit_top1:.1f} % | {100 * row.learned_top1:.1f} % |"
        for row in found.rows
    ]
    return "\n".join(lines)


def save_fit(run: Fit, path: Path, job: Any) -> None:
    """Write a checkpoint: lens, Adam's state, step and history."""
    tensors = {f"lens.{name}": value for name, value in run.lens.translators.state_dict().items()}
    for name, parameter in run.lens.translators.named_parameters():
        for key, value in run.optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    write(path, tensors, {"job": job, "step": run.step, "history": run.history}, "fit")


def resume_fit(run: Fit, path: Path, job: Any) -> None:
    """Restore a fit from a checkpoint of the same job.

    Raises:
        SpecError: If the checkpoint belongs to another job.
    """
    tensors, state = read(path, "fit")
    if state["job"] != job:
        raise SpecError(
            f"{path} belongs to a training with other options or another model.",
            "Use the same options or another --out, or remove its folder.",
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
    """Write the tokens of a text to a file."""
    flat = [token for part in text.parts for token in part]
    tensors = {
        "ids": torch.tensor(flat),
        "lengths": torch.tensor([len(part) for part in text.parts]),
        "starts": torch.tensor(text.starts),
    }
    write(path, tensors, text.title, "text")


def load_text(path: Path) -> Text:
    """Read a file of ``save_text``."""
    tensors, title = read(path, "text")
    cut = torch.split(tensors["ids"], tensors["lengths"].tolist())
    parts = tuple(tuple(part.tolist()) for part in cut)
    return Text(title, parts, tuple(tensors["starts"].tolist()))


#: Prints a line of text.
Report = Callable[[str], None]
#: Held-out positions of each text that are evaluated.
JUDGED = 2048


@dataclass(frozen=True, slots=True)
class Session:
    """One training of one lens.

    Attributes:
        model: The model.
        spec: The options of the fit.
        out: The lens file.
        source: A text file; None: the model writes the text.
        command: The command line, which is stored in the lens.
        judged: Held-out positions of each text to evaluate.
    """

    model: Model
    spec: FitSpec
    out: Path
    source: Path | None = None
    command: str = ""
    judged: int = JUDGED

    @property
    def folder(self) -> Path:
        """The folder of text, states and checkpoint until the lens is finished."""
        return self.out.with_name(f"{self.out.stem}.training")

    def job(self) -> dict[str, Any]:
        """What must be the same to resume a training, as JSON values."""
        digest = hashlib.sha256(self.source.read_bytes()).hexdigest() if self.source else ""
        return {"spec": asdict(self.spec), "model": self.model.info.fingerprint, "text": digest}


def default_file(model: Model, rank: int) -> Path:
    """The default file of a lens: in the data folder, named after the model."""
    plain = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in
                    Path(model.info.name).name)  # fmt: skip
    return own_folder() / f"{plain}-{f'rank{rank}' if rank else 'full'}.safetensors"


def run(session: Session, *, resume: bool, report: Report) -> LensInfo:
    """Train a lens, and evaluate it as it is stored.

    Args:
        session: The training.
        resume: Continue an unfinished training of the same job.
        report: Gets lines of text.

    Raises:
        SpecError: If there is an unfinished training and ``resume`` is False, if it belongs to
            another job, or if the text is too short.
        CancelledError: If the caller's progress listener stops the work.
    """
    _open_folder(session, resume)
    held_out = _held_out_texts(session)
    text = _saved_text(session.folder / "text.safetensors", lambda: _training_text(session))
    report(f"Training text: {text.title}, {text.size} tokens in {len(text.parts)} pieces")
    lens = _fitted(session, text, report)
    as_stored = translators.restored(translators.stored(lens))
    found = [evaluate(session.model, as_stored, one, session.judged) for one in held_out]
    info = translators.save_lens(as_stored, _info(session, text, tuple(found)))
    shutil.rmtree(session.folder)
    return info


def _open_folder(session: Session, resume: bool) -> None:
    path, job = session.folder / "job.json", session.job()
    if path.is_file() and not resume:
        raise SpecError(
            f"There is an unfinished training in {session.folder}.",
            "Resume it with --resume, or remove the folder.",
        )
    if path.is_file() and json.loads(path.read_text("utf-8")) != job:
        raise SpecError(
            f"The training in {session.folder} has other options, text or model.",
            "Use the same ones or another --out, or remove the folder.",
        )
    session.folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(job), "utf-8")
    partial.replace(path)


def _saved_text(path: Path, make: Callable[[], Text]) -> Text:
    """The text of a file, which is made and written first if it does not exist."""
    if not path.is_file():
        save_text(make(), path)
    return load_text(path)


def _training_text(session: Session) -> Text:
    spec = session.spec
    if session.source:
        return texts.from_file(session.model, session.source, "train").first(spec.tokens)
    return texts.own_text(session.model, spec.tokens, spec.seed, "train")


def _held_out_texts(session: Session) -> list[Text]:
    """The texts that the lens is evaluated on: held-out text of the same kind, and human text."""
    model, seed, wanted = session.model, session.spec.seed, session.judged
    if session.source:
        held = texts.from_file(model, session.source, "held_out")
    else:
        path = session.folder / "held-out.safetensors"
        held = _saved_text(path, lambda: texts.own_text(model, wanted, seed, "held_out"))
    return [held, *texts.human_text(model, wanted, seed)]


def _fitted(session: Session, text: Text, report: Report) -> LearnedLens:
    states = cached_states(session.model, text.parts, session.folder / "states.npy")
    if states.shape[1] < session.spec.batch:
        raise SpecError(
            f"The text has {states.shape[1]} tokens; a batch has {session.spec.batch}.",
            "Choose a longer text, or a smaller batch.",
        )
    lens = new_lens(*scales(states), session.spec.rank, session.spec.seed)
    state = start_fit(session.spec, lens)
    path, job = session.folder / "checkpoint.safetensors", session.job()
    if path.is_file():
        resume_fit(state, path, job)
        report(f"Resuming at step {state.step}")

    def save(state: Fit) -> None:
        """Write a checkpoint, from which a killed training can resume."""
        save_fit(state, path, job)

    fit(state, session.model.readout, states, save, report)
    return state.lens


def _info(session: Session, text: Text, found: tuple[Evaluation, ...]) -> LensInfo:
    info, spec = session.model.info, session.spec
    return LensInfo(
        path=session.out, model=info.name, fingerprints=fingerprints(session.model),
        layers=info.layers, d_model=info.d_model, vocab=info.vocab, rank=spec.rank, nbytes=0,
        digest="", text=text.title, tokens=text.size, steps=spec.steps, seed=spec.seed,
        command=session.command, evaluations=found,
    )  # fmt: skip


def fingerprints(model: Model) -> tuple[str, ...]:
    """Fingerprints of a model's weights in each dtype: a lens fits them all, as states are float32.

    Only the model's own if the catalogue does not have it.
    """
    own = model.info.fingerprint
    try:
        entry = catalog.find(model.info.name)
        all_of_them = [catalog.fingerprint(entry, dtype) for dtype in catalog.DTYPES]
    except UnknownModelError:
        return (own,)
    return tuple(all_of_them) if own in all_of_them else (own,)
