"""What the choices of the lens need of a model and of each other."""

from __future__ import annotations

from analysis.contract.choices import Need, Situation


def _sequential(situation: Situation) -> bool:
    return situation.model is None or not situation.model.parallel_blocks


def _untied(situation: Situation) -> bool:
    return situation.model is None or not situation.model.tied_embeddings


def _final_norm(situation: Situation) -> bool:
    return situation.model is None or situation.model.norm != "none"


def _norm_parameters(situation: Situation) -> bool:
    return situation.model is None or not situation.model.plain_norm


def _length_matters(situation: Situation) -> bool:
    """Whether a norm without parameters changes a score: under cosine an RMSNorm does not."""
    model = situation.model
    return (
        model is None or situation.options.get("similarity") != "cosine" or model.norm != "RMSNorm"
    )


def _dot_product(situation: Situation) -> bool:
    return situation.options.get("similarity", "dot") == "dot"


SEQUENTIAL = Need(
    "sequential blocks",
    "Attention and MLP run in parallel in this model. It has no such state.",
    _sequential,
)
SEPARATE_HEADS = Need(
    "attention that splits into heads",
    "This model's attention can't be split into heads.",
    lambda _: True,
)
UNTIED = Need(
    "untied embeddings",
    "Embeddings are tied: input and output are the same matrix, so the reading is the same as with"
    " Output.",
    _untied,
)
LEARNED_LENS = Need(
    "a learned lens for the model",
    "No lens is trained for this model. Train one with 'stratascope lens train MODEL'.",
    lambda situation: situation.learned_lens,
)
BLOCK_OUTPUT = Need(
    "the component block output",
    "A learned lens is fitted to block outputs and decodes nothing else.",
    lambda situation: situation.options.get("component", "block_output") == "block_output",
)
FINAL_NORM = Need(
    "a final norm", "This model has no final norm. The state is decoded as it is.", _final_norm
)
NORM_PARAMETERS = Need(
    "a final norm with scale or bias",
    "This model's final norm has no scale and no bias: Unit is the same as Full.",
    _norm_parameters,
)
LENGTH = Need(
    "a similarity that depends on length",
    "Cosine ignores length, which is all that Unit changes here: None is the same as Unit.",
    _length_matters,
)
PROBABILITIES = Need(
    "probabilities (similarity dot product)",
    "Cosine and distance give no probabilities. The score is shown instead.",
    _dot_product,
)
DOT_PRODUCT = Need(
    "similarity dot product",
    "Cosine and distance list the nearest rows. Nothing is subtracted from the state.",
    _dot_product,
)
