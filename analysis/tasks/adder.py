"""A small decoder that adds: tokenizer, shape, training with checkpoints, and accuracy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from analysis.contract import jobs
from analysis.errors import SpecError
from analysis.tasks import addition
from analysis.tasks.addition import Ints

END, UNKNOWN = "<end>", "<unk>"
VOCABULARY = (*"0123456789", "+", "=", END, UNKNOWN)
END_ID = VOCABULARY.index(END)
#: Positions of an exported model, enough for longer sums than it was trained on.
POSITIONS = 40
CHECKPOINT = "checkpoint.safetensors"
#: Held-out sums of an evaluation, and sums in one forward pass of it.
SUMS, _BATCH = 200_000, 4096


def tokenizer(
    length: int, vocabulary: Sequence[str] = VOCABULARY, *, start: str = "", end: str = END
) -> Any:
    """A Hugging Face tokenizer with a token for each character; it ignores spaces.

    Args:
        length: The most tokens of a text.
        vocabulary: The tokens in the order of their ids, ``UNKNOWN`` included.
        start: The token that each text begins with; empty for none.
        end: The token that ends a text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    words = models.WordLevel({text: place for place, text in enumerate(vocabulary)}, UNKNOWN)
    inner = Tokenizer(words)
    inner.normalizer = normalizers.Replace(Regex(r"\s"), "")
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    more = {}
    if start:
        place = vocabulary.index(start)
        inner.post_processor = TemplateProcessing(f"{start} $A", special_tokens=[(start, place)])
        more["bos_token"] = start
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner, eos_token=end, unk_token=UNKNOWN, model_max_length=length, **more
    )


def length_of(digits: int) -> int:
    """Tokens of a prompt, its answer and the end."""
    return 2 * digits + 2 + digits + 1 + 1


def config(digits: int, width: int, layers: int = 2, heads: int = 4) -> Any:
    """A small GPT-2: LayerNorm, learned positions, untied embeddings."""
    return GPT2Config(
        vocab_size=len(VOCABULARY),
        n_positions=length_of(digits),
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=END_ID,
    )


def with_more_positions(model: Any, digits: int) -> Any:
    """A copy with ``POSITIONS`` positions; the untrained ones are zero.

    Its config holds the number of digits that it adds, as ``operand_digits``.
    """
    shape = config(digits, model.config.n_embd, model.config.n_layer, model.config.n_head)
    shape.n_positions, shape.operand_digits = max(POSITIONS, length_of(digits)), digits
    longer = GPT2LMHeadModel(shape)
    weights = dict(model.state_dict())
    rows = weights["transformer.wpe.weight"]
    table = rows.new_zeros(shape.n_positions, rows.shape[1])
    table[: len(rows)] = rows
    weights["transformer.wpe.weight"] = table
    longer.load_state_dict(weights)
    return longer


def new_model(digits: int, width: int, seed: int) -> Any:
    """A model with random weights."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(config(digits, width))


def sequences(a: Ints, b: Ints, digits: int) -> torch.Tensor:
    """[n, length] token ids of prompt, answer and end."""
    plus, equals = VOCABULARY.index("+"), VOCABULARY.index("=")
    rows = len(a)
    parts = [
        addition.columns(a, digits)[:, ::-1],
        np.full((rows, 1), plus),
        addition.columns(b, digits)[:, ::-1],
        np.full((rows, 1), equals),
        addition.columns(a + b, digits + 1)[:, ::-1],
        np.full((rows, 1), END_ID),
    ]
    return torch.from_numpy(np.concatenate(parts, 1).astype(np.int64))


@torch.no_grad()
def exact(model: Any, a: Ints, b: Ints, digits: int, batch: int = 2048) -> np.ndarray[Any, Any]:
    """[n] whether greedy decoding gives the whole answer and the end.

    One forward pass suffices: greedy decoding writes the right answer if and only if each of its
    tokens is the model's top token after the right tokens before it.
    """
    right, start_of_answer = [], 2 * digits + 2
    for start in range(0, len(a), batch):
        ids = sequences(a[start : start + batch], b[start : start + batch], digits)
        chosen = model(input_ids=ids[:, :-1]).logits[:, start_of_answer - 1 :].argmax(-1)
        right.append((chosen == ids[:, start_of_answer:]).all(1).numpy())
    return np.concatenate(right)


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """The options of a training.

    Attributes:
        digits: Of each operand.
        width: d_model.
        seed: Of the weights and the data.
        steps: At most this many; the learning rate falls to a hundredth of its peak over them.
        batch: Sums in each step.
        rate: Peak learning rate.
        warm_up: Steps over which the learning rate rises.
        every: Steps between evaluations and checkpoints.
        perfect: Stop after this many evaluations in a row without a mistake; 0: never.
        validation: Sums in each evaluation.
    """

    digits: int = addition.DIGITS
    width: int = 128
    seed: int = 1
    steps: int = 12000
    batch: int = 128
    rate: float = 1.5e-3
    warm_up: int = 300
    every: int = 250
    perfect: int = 4
    validation: int = 8192


@dataclass
class Run:
    """The state of a training: model, optimizer, and history."""

    spec: TrainSpec
    model: Any
    optimizer: torch.optim.AdamW
    step: int
    history: list[dict[str, float]]

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the last evaluations were without a mistake."""
        wanted = self.spec.perfect
        last = [entry["accuracy"] == 1.0 for entry in self.history[-wanted:]] if wanted else []
        return (bool(last) and len(last) == wanted and all(last)) or self.step >= self.spec.steps


def train(spec: TrainSpec, folder: Path, report: Callable[[str], None] = print) -> Run:
    """Train, or resume from the checkpoint in ``folder``.

    Raises:
        SpecError: If the folder holds a checkpoint of another spec.
        CancelledError: If the caller's progress listener stops the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _resume(spec, folder) or _start(spec)
    while not run.finished:
        loss = _one_step(run)
        jobs.step(run.step, spec.steps, "Training on sums")
        if run.step % spec.every == 0 or run.step == spec.steps:
            run.history.append({"step": run.step, "loss": loss, "accuracy": _accuracy(run)})
            save(run, folder)
            report(
                f"step {run.step:6d}  loss {loss:.5f}  "
                f"right {100 * run.history[-1]['accuracy']:.3f} % of {spec.validation} "
                "validation sums"
            )
    return run


def rate_at(spec: TrainSpec, step: int) -> float:
    """The learning rate of a step: a linear rise, then half a cosine down to a hundredth."""
    if step < spec.warm_up:
        return spec.rate * (step + 1) / spec.warm_up
    left = (step - spec.warm_up) / max(spec.steps - spec.warm_up, 1)
    return spec.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * left)))


def _start(spec: TrainSpec) -> Run:
    model = new_model(spec.digits, spec.width, spec.seed)
    return Run(spec, model, _optimizer(model, spec), 0, [])


def _optimizer(model: Any, spec: TrainSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=spec.rate, betas=(0.9, 0.98), weight_decay=0.01)


def _one_step(run: Run) -> float:
    """Train on one batch; the loss in nats for each token, over answer and end only."""
    spec, model = run.spec, run.model
    rng = np.random.default_rng([spec.seed, run.step])
    a, b = addition.sample_part(rng, spec.batch, "train", spec.digits)
    ids, start = sequences(a, b, spec.digits), 2 * spec.digits + 2
    model.train()
    states = model.transformer(input_ids=ids[:, :-1]).last_hidden_state
    logits = model.lm_head(states[:, start - 1 :])
    loss = cross_entropy(logits.flatten(0, 1), ids[:, start:].flatten())
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = rate_at(spec, run.step)
    run.optimizer.step()
    run.step += 1
    return float(loss.detach())


def _accuracy(run: Run) -> float:
    """Share of validation sums that are exactly right; half of them have long carry chains."""
    rng = np.random.default_rng([run.spec.seed, 0, 1])
    a, b = addition.sample_part(rng, run.spec.validation, "validation", run.spec.digits)
    run.model.eval()
    return float(exact(run.model, a, b, run.spec.digits).mean())


def save(run: Run, folder: Path) -> None:
    """Write weights, optimizer state and history to one file, atomically."""
    tensors = {f"model.{name}": value for name, value in run.model.state_dict().items()}
    for name, parameter in run.model.named_parameters():
        for key, value in run.optimizer.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = value
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    state = {"spec": asdict(run.spec), "step": run.step, "history": run.history}
    partial = folder / f".{CHECKPOINT}.part"
    save_file(tensors, partial, metadata={"state": json.dumps(state)})
    partial.replace(folder / CHECKPOINT)


def _resume(spec: TrainSpec, folder: Path) -> Run | None:
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with safe_open(path, "pt") as opened:
        state = json.loads(opened.metadata()["state"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if TrainSpec(**state["spec"]) != spec:
        raise SpecError(
            f"{path} belongs to a training with other options: {state['spec']}.",
            "Use the same options, or another folder.",
        )
    run = _start(spec)
    run.step, run.history = state["step"], state["history"]
    own = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    run.model.load_state_dict(own)
    for name, parameter in run.model.named_parameters():
        run.optimizer.state[parameter] = {
            key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
        }
    return run


def export(run: Run, folder: Path) -> None:
    """Write model and tokenizer as a folder that ``analysis.load_model`` opens."""
    model = with_more_positions(run.model, run.spec.digits)
    model.eval().save_pretrained(folder)
    tokenizer(model.config.n_positions).save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Count:
    """Number of right answers among some sums."""

    right: int
    total: int

    @property
    def share(self) -> float:
        """Share of right answers, 0 to 1; NaN for no sums."""
        return self.right / self.total if self.total else float("nan")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Exact answers, every digit and the end, under greedy decoding.

    Attributes:
        every: All sums.
        uniform: Those with uniform operands.
        rich: Those with long carry chains.
        by_chain: [length] by ``addition.longest_chain``, 0 to digits.
        wrong: Up to 20 of the pairs with a wrong answer.
    """

    every: Count
    uniform: Count
    rich: Count
    by_chain: tuple[Count, ...]
    wrong: tuple[tuple[int, int], ...]


def evaluate(
    model: Any, count: int = SUMS, seed: int = 0, operand_digits: int = addition.DIGITS
) -> Accuracy:
    """Accuracy on held-out sums, the second half of them with long carry chains.

    Args:
        model: The transformers model.
        count: Number of sums.
        seed: The seed of the sums.
        operand_digits: Digits of each operand.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    half = count // 2
    plain = addition.sample_part(
        np.random.default_rng([seed, 1]), half, "test", operand_digits, 0.0
    )
    rich = addition.sample_part(
        np.random.default_rng([seed, 2]), count - half, "test", operand_digits, 1
    )
    a, b = (np.concatenate(pair) for pair in zip(plain, rich, strict=True))
    right = []
    for start in range(0, count, _BATCH):
        stop = min(start + _BATCH, count)
        right.append(exact(model, a[start:stop], b[start:stop], operand_digits))
        jobs.step(stop, count, "Adding held-out sums")
    return _accuracies(np.concatenate(right), a, b, half, operand_digits)


def _accuracies(right: Any, a: Any, b: Any, half: int, operand_digits: int) -> Accuracy:
    chain = addition.longest_chain(a, b, operand_digits)
    groups = [right[chain == length] for length in range(operand_digits + 1)]
    wrong = np.flatnonzero(~right)[:20]
    return Accuracy(
        _count(right),
        _count(right[:half]),
        _count(right[half:]),
        tuple(_count(group) for group in groups),
        tuple((int(a[place]), int(b[place])) for place in wrong),
    )


def _count(right: Any) -> Count:
    return Count(int(right.sum()), len(right))


def table(found: Accuracy) -> str:
    """The accuracies as a Markdown table."""
    rows = [
        ("all", found.every),
        ("uniform operands", found.uniform),
        ("rich in carry chains", found.rich),
        *((f"longest chain {length}", count) for length, count in enumerate(found.by_chain)),
    ]
    lines = ["| sums | number | wrong | right |", "|---|---:|---:|---:|"]
    for name, count in rows:
        share = f"{100 * count.share:.4f} %" if count.total else "-"
        lines.append(f"| {name} | {count.total:,} | {count.total - count.right} | {share} |")
    return "\n".join(lines)
