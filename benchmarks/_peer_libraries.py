"""The peers' side of what ``benchmarks.peers`` measures.

The code is each library's own way to the numbers, with no more work than they need: hooks on the
compared states alone, and batches where the library has them. Each library has its own copy of the
model in float32. No norm is folded, except for TransformerLens's direct attribution, which asks for
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks._peer_work import (
    CAPTURE,
    DIRECT,
    ESTIMATE,
    GENERATE,
    LENS,
    SWEEP,
    TOP,
    Task,
    Values,
    Work,
    Works,
    begun,
    best,
    cells,
    plain,
    quiet,
)


def loaded(folder: str) -> Any:
    """The model of transformers, with attention that gives patterns."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    )
    return model.eval()


class TransformerLens:
    """Its bridge, and a bridge with folded norms for direct attribution."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.bridge = self.booted()
        layers = range(self.bridge.cfg.n_layers)
        self.before = [f"blocks.{layer}.hook_resid_pre" for layer in layers]
        self.states = [
            self.before[0],
            *(f"blocks.{layer}.hook_resid_post" for layer in layers),
        ]
        self.patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
        self.mlps = [f"blocks.{layer}.hook_mlp_out" for layer in layers]
        self.ids, self.clean, self.corrupted = (
            torch.tensor([one]) for one in (task.ids, task.clean, task.corrupted)
        )
        self._folded: Any = None

    def booted(self) -> Any:
        """A bridge as it is loaded."""
        from transformer_lens.model_bridge import TransformerBridge

        folder = self.task.folder
        return TransformerBridge.boot_transformers(
            folder, hf_model=loaded(folder), tokenizer=AutoTokenizer.from_pretrained(folder),
            device="cpu",
        )  # fmt: skip

    def works(self) -> Works:
        """Every work."""
        return {
            CAPTURE: Work(quiet(self.capture), self.captured),
            LENS: Work(
                quiet(self.lens),
                lambda found: cells(zip(found.readout.values, found.readout.top_ids, strict=True)),
            ),
            SWEEP: Work(quiet(self.sweep), lambda found: {"metric": found.numpy()}),
            ESTIMATE: Work(self.estimate, lambda found: {"effect": found.detach().numpy()}),
            DIRECT: Work(
                quiet(self.direct),
                lambda found: {"logits": found[:, 0].numpy()},
                quiet(self.folded),
            ),
            GENERATE: Work(quiet(self.generate), lambda found: begun(self.captured(found))),
        }

    def cache(self, prompt: Tensor, *names: str) -> Any:
        """The cache of a pass, with some names."""
        return self.bridge.run_with_cache(prompt, names_filter={*names}.__contains__)[1]

    def capture(self, _: Any) -> tuple[Tensor, Any, Tensor]:
        """Logits, states and patterns."""
        names = {*self.states, *self.patterns}
        logits, cache = self.bridge.run_with_cache(self.ids, names_filter=names.__contains__)
        return logits, cache, self.ids

    def captured(self, found: tuple[Tensor | None, Any, Tensor]) -> Values:
        """The arrays of a capture."""
        logits, cache, tokens = found
        return {
            "tokens": tokens[0].numpy(),
            "states": plain(cache[name] for name in self.states),
            "patterns": plain(cache[name] for name in self.patterns),
            **({} if logits is None else {"logits": plain([logits])[0]}),
        }

    def lens(self, _: Any) -> Any:
        """All states decoded."""
        cache = self.cache(self.ids, *self.before, self.states[-1])
        return cache.logit_lens(positions=None, return_type="probs", top_k=TOP)

    def sweep(self, _: Any) -> Tensor:
        """One pass for each cell."""
        from pandas import DataFrame
        from transformer_lens import patching

        size = len(self.task.clean)
        places = [(row, pos) for row in self.task.swept for pos in range(size)]
        found = patching.get_act_patch_resid_pre(
            self.bridge, self.corrupted, self.cache(self.clean, *self.before), self.metric,
            index_axis_names=None, index_df=DataFrame(places, columns=["layer", "pos"]),
        )  # fmt: skip
        cellwise: Tensor = found.reshape(-1, size)
        return cellwise

    def metric(self, logits: Tensor) -> Tensor:
        """The metric of a batch of one."""
        return self.task.metric(logits)[0]

    def estimate(self, _: Any) -> Tensor:
        """Gradients in the corrupted run times differences of states."""
        from transformer_lens.tools.analysis.attribution_patching import (
            cache_activation_and_gradient,
        )

        names = self.before
        wrong = cache_activation_and_gradient(self.bridge, self.corrupted, self.metric, names)
        with torch.no_grad():
            right = self.cache(self.clean, *names)
        grads, states = wrong.gradients, wrong.activations
        return torch.stack(
            [((right[name] - states[name]) * grads[name]).sum(-1)[0] for name in names]
        )

    def folded(self) -> Any:
        """The cache of the bridge with folded norms."""
        if self._folded is None:
            self._folded = self.booted()
            self._folded.enable_compatibility_mode()
        return self._folded.run_with_cache(self.clean)[1]

    def direct(self, cache: Any) -> Any:
        """What heads and MLPs add to the answer's lead over the foil."""
        mlps = torch.stack([cache[name][:, -1] for name in self.mlps])
        parts = torch.cat([cache.stack_head_results(pos_slice=-1), mlps])
        return cache.logit_attrs(parts, self.task.answer, self.task.foil, pos_slice=-1)

    def generate(self, _: Any) -> tuple[None, Any, Tensor]:
        """Tokens, then the cache of one pass over them."""
        names = {*self.states, *self.patterns}
        tokens, cache = self.bridge.generate(
            self.clean, self.task.new_tokens, do_sample=False, return_type="tokens", verbose=False,
            return_cache=True, names_filter=names.__contains__,
        )  # fmt: skip
        return None, cache, tokens


class Nnsight:
    """Traces of nnsight."""

    def __init__(self, task: Task) -> None:
        from nnsight import TransformersModel

        self.task = task
        tokenizer = AutoTokenizer.from_pretrained(task.folder)
        self.lm = TransformersModel(loaded(task.folder), tokenizer=tokenizer)
        self.ids, self.clean, self.corrupted = (
            torch.tensor([one]) for one in (task.ids, task.clean, task.corrupted)
        )

    def works(self) -> Works:
        """Every work; it has no direct attribution of its own."""
        return {
            CAPTURE: Work(quiet(self.capture), self.captured),
            LENS: Work(quiet(self.lens), cells),
            SWEEP: Work(quiet(self.sweep), lambda found: {"metric": found.numpy()}),
            ESTIMATE: Work(self.estimate, lambda found: {"effect": found.detach().numpy()}),
            GENERATE: Work(quiet(self.generate), self.generated),
        }

    def capture(self, _: Any) -> tuple[Any, Any, Any]:
        """States, patterns and logits."""
        from nnsight import save

        lm = self.lm
        with lm.trace(self.ids, use_cache=False):
            rows, patterns = save([lm.model.embed_tokens.output]), save([])
            for block in lm.model.layers:
                patterns.append(block.self_attn.output[1])
                rows.append(block.output)
            logits = save(lm.lm_head.output)
        return rows, patterns, logits

    def captured(self, found: tuple[Any, Any, Any]) -> Values:
        """The arrays of a capture."""
        return {
            "tokens": np.array(self.task.ids),
            "states": plain(found[0]),
            "patterns": plain(found[1]),
            "logits": plain([found[2]])[0],
        }

    def lens(self, _: Any) -> Any:
        """All states decoded inside the pass."""
        from nnsight import save

        lm = self.lm
        with lm.trace(self.ids, use_cache=False):
            found = save([best(lm.lm_head(lm.model.norm(lm.model.embed_tokens.output)))])
            for block in lm.model.layers:
                found.append(best(lm.lm_head(lm.model.norm(block.output))))
        return found

    def states(self, prompt: Tensor) -> Any:
        """The residual rows of a pass."""
        from nnsight import save

        lm = self.lm
        with lm.trace(prompt, use_cache=False):
            rows = save([lm.model.embed_tokens.output])
            for block in lm.model.layers:
                rows.append(block.output)
        return rows

    def sweep(self, _: Any) -> Tensor:
        """A batch for each row: each sequence is patched at another position."""
        from nnsight import save

        lm, size, found = self.lm, len(self.task.clean), []
        rows = self.states(self.clean)
        for row in self.task.swept:
            with lm.trace(self.corrupted.expand(size, -1), use_cache=False):
                for pos in range(size):
                    lm.model.layers[row - 1].output[pos, pos] = rows[row][0, pos]
                logits = save(lm.lm_head.output[:, -1:])
            found.append(self.task.metric(logits))
        return torch.stack(found)

    def estimate(self, _: Any) -> Tensor:
        """Gradients in the corrupted run times differences of states."""
        from nnsight import save

        lm = self.lm
        with torch.no_grad():
            right = self.states(self.clean)
        with lm.trace(self.corrupted, use_cache=False):
            wrong = save([lm.model.embed_tokens.output])
            wrong[0].requires_grad_(True)
            for block in lm.model.layers:
                wrong.append(block.output)
            metric = save(self.task.metric(lm.lm_head.output)[0])
        grads = torch.autograd.grad(metric, wrong[:-1])
        parts = zip(right, wrong, grads, strict=False)
        return torch.stack([((a - b) * grad).sum(-1)[0] for a, b, grad in parts])

    def generate(self, _: Any) -> tuple[Any, Any, Any]:
        """States and patterns of each step, and the tokens."""
        from nnsight import save

        lm, count = self.lm, self.task.new_tokens
        with lm.generate(self.clean, max_new_tokens=count, do_sample=False) as tracer:
            steps, patterns = save([]), save([])
            for _step in tracer.iter[:count]:
                rows = [lm.model.embed_tokens.output]
                for block in lm.model.layers:
                    patterns.append(block.self_attn.output[1])
                    rows.append(block.output)
                steps.append(rows)
            tokens = save(tracer.result)
        return steps, patterns, tokens

    def generated(self, found: tuple[Any, Any, Any]) -> Values:
        """The states of all steps: of all tokens but the last, which did not run."""
        rows = [torch.cat(parts, 1) for parts in zip(*found[0], strict=True)]
        return {"tokens": found[2][0].numpy(), "states": plain(rows)}


class TunedLens:
    """The logit lens of tuned-lens, on the hidden states of transformers."""

    def __init__(self, task: Task) -> None:
        from tuned_lens import model_surgery
        from tuned_lens.nn.lenses import LogitLens

        # it looks for a class that TransformerLens 4 no longer has
        model_surgery._transformer_lens_available = False
        self.hf, self.ids = loaded(task.folder), torch.tensor([task.ids])
        self.lens: Any = LogitLens.from_model(self.hf)

    def works(self) -> Works:
        """The lens."""
        return {LENS: Work(quiet(self.run), cells)}

    def run(self, _: Any) -> Any:
        """All states decoded. The last hidden state is behind the norm: it has the logits."""
        output = self.hf(self.ids, output_hidden_states=True, use_cache=False)
        rows = enumerate(output.hidden_states[:-1])
        return [*(best(self.lens(state, row)) for row, state in rows), best(output.logits)]


class Pyvene:
    """Interchange interventions of pyvene."""

    def __init__(self, task: Task) -> None:
        self.task, self.hf = task, loaded(task.folder)

    def works(self) -> Works:
        """The sweep."""
        return {SWEEP: Work(quiet(self.run), lambda found: {"metric": found.numpy()})}

    def run(self, _: Any) -> Tensor:
        """A batch for each row: each sequence is patched at another position."""
        import pyvene

        size, found = len(self.task.clean), []
        clean, corrupted = (
            {"input_ids": torch.tensor([one]).expand(size, -1)}
            for one in (self.task.clean, self.task.corrupted)
        )
        places = [[[pos] for pos in range(size)]]
        for row in self.task.swept:
            parts = [{"layer": row - 1, "component": "block_output"}]
            config = pyvene.IntervenableConfig(parts, pyvene.VanillaIntervention)
            edited = pyvene.IntervenableModel(config, self.hf)
            output = edited(corrupted, [clean], {"sources->base": (places, places)})[1]
            found.append(self.task.metric(output.logits))
        return torch.stack(found)


#: Name of a peer -> its package and what makes its side.
PEERS: dict[str, tuple[str, Callable[[Task], Any]]] = {
    "TransformerLens": ("transformer_lens", TransformerLens),
    "nnsight": ("nnsight", Nnsight),
    "tuned-lens": ("tuned_lens", TunedLens),
    "pyvene": ("pyvene", Pyvene),
}
