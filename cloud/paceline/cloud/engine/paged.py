"""A Hugging Face causal language model as a target engine: one ragged forward for all sessions of a step."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from paceline.cloud.engine.base import EngineConfig, Row, check_rows
from paceline.cloud.engine.compatibility import check_layers, check_model, context_limit, vocabulary_size
from paceline.cloud.engine.extents import Extents
from paceline.cloud.engine.logit_rows import StepLogits, TorchLogitRows
from paceline.cloud.engine.memory import fitting_tokens
from paceline.cloud.engine.ragged_attention import (
    NAME,
    KVStore,
    LayerShape,
    Plan,
    Segment,
    ragged_attention,
)
from paceline.cloud.engine.varlen import block_table, check_varlen
from paceline.cloud.engine.weights import store_for_few_rows
from paceline.common.errors import Incompatible, InternalError

SELF_CHECK_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference from the plain forward that passes at start, relative to the largest logit."""

AttentionInterface.register(NAME, ragged_attention)


class PagedEngine:
    """Runs `model` over the cached tokens of many sessions (`paceline.cloud.engine.base.TargetEngine`).

    The model belongs to the engine from now on: its attention implementation is switched, so its own
    `generate` no longer works."""

    def __init__(self, model: PreTrainedModel, config: EngineConfig | None = None) -> None:
        """Check that the model can be run raggedly, size the cache, and compare one short run with the plain
        forward.

        Raises:
            Incompatible: the architecture is refused, with the reason.
        """
        config = config or EngineConfig()
        check_model(model)
        self._model: Any = model
        self._model.train(False)
        self._device = model.device
        self.vocab_size = vocabulary_size(model)
        self.max_context = min(context_limit(model.config), config.max_context or 2**62)
        self.page_size = config.page_size
        store_for_few_rows(model)
        expected = self._plain_logits() if config.self_check else None
        model.set_attn_implementation(NAME)
        self.layer_shapes = self._learn_shapes()
        self.bytes_per_token = sum(shape.bytes_per_token for shape in self.layer_shapes.values())
        capacity = config.capacity_tokens or fitting_tokens(
            self.bytes_per_token, self._device, config.memory_fraction
        )
        self._extents = Extents(max(1, capacity // self.page_size))
        self.capacity_tokens = self._extents.num_pages * self.page_size
        if config.attention == "varlen":
            check_varlen(self.layer_shapes, self.page_size, self._device)
        self._uses_varlen = config.attention == "varlen"
        self.takes_trees = not self._uses_varlen
        self._store = KVStore(self.layer_shapes, self.capacity_tokens, self._device)
        self._lengths: dict[int, int] = {}
        if expected is not None:
            self._check_against(expected)

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[TorchLogitRows]:
        """One forward over all rows; see `TargetEngine.step`."""
        if not rows:
            return []
        check_rows(
            rows,
            self._lengths,
            vocab_size=self.vocab_size,
            max_context=self.max_context,
            takes_trees=self.takes_trees,
        )
        self._make_room(rows)
        try:
            logits = self._forward(self._plan(rows), rows)
            for row in rows:
                self._lengths[row.key] = row.past_length + row.num_kept
        finally:
            for row in rows:
                if self._lengths[row.key] == 0:
                    self.release(row.key)
        return _share_out(logits, rows)

    def release(self, key: int) -> None:
        """Forget a session; an unknown key is no error."""
        self._lengths.pop(key, None)
        self._extents.release(key)

    def cached_tokens(self) -> int:
        """Tokens cached now, over all sessions."""
        return sum(self._lengths.values())

    def check_integrity(self) -> None:
        """Raise `InternalError` if pages and sessions do not match."""
        self._extents.check_integrity()
        if self._extents.runs.keys() != self._lengths.keys():
            odd = sorted(self._extents.runs.keys() ^ self._lengths.keys())
            raise InternalError(f"sessions {odd} have pages but no tokens, or tokens but no pages")
        for key, length in self._lengths.items():
            if self._pages(length) > self._extents.runs[key].used:
                raise InternalError(f"session {key} has {length} tokens in {self._extents.runs[key]}")

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def _make_room(self, rows: Sequence[Row]) -> None:
        """Reserve pages for every row, or raise `Busy` with nothing changed."""
        wanted = {row.key: self._pages(row.past_length + len(row.token_ids)) for row in rows}
        self._extents.check_fits(wanted)
        for row in rows:
            self._store.move(self._extents.resize(row.key, wanted[row.key]), self.page_size)
            self._lengths[row.key] = row.past_length

    def _plan(self, rows: Sequence[Row]) -> Plan:
        """Where each row's tokens go."""
        segments: list[Segment] = []
        slots: list[int] = []
        for row in rows:
            start = self._extents.runs[row.key].start * self.page_size
            segments.append(Segment(start, row.past_length, len(row.token_ids), row.parents))
            slots.extend(range(start + row.past_length, start + row.past_length + len(row.token_ids)))
        table = block_table(segments, self.page_size, self._device) if self._uses_varlen else None
        return Plan(segments, self._store, torch.tensor(slots, device=self._device), table)

    def _forward(self, plan: Plan, rows: Sequence[Row]) -> torch.Tensor:
        """Logits [sum of num_logits, vocab] of the rows' last tokens."""
        token_ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        for row in rows:
            token_ids.extend(row.token_ids)
            positions.extend(row.positions)
            wanted.extend(range(len(token_ids) - row.num_logits, len(token_ids)))
        output = self._model(
            input_ids=torch.tensor([token_ids], device=self._device),
            position_ids=torch.tensor([positions], device=self._device),
            use_cache=False,
            logits_to_keep=torch.tensor(wanted, dtype=torch.int64, device=self._device),
            paceline_plan=plan,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    @torch.inference_mode()
    def _learn_shapes(self) -> dict[int, LayerShape]:
        """What every layer stores, from one forward of one token."""
        plan = Plan([Segment(0, 0, 1)], None, torch.zeros(1, dtype=torch.int64, device=self._device))
        self._forward(plan, [Row(0, 0, (0,), 1)])
        check_layers(self._model, {layer: shape.sliding_window for layer, shape in plan.shapes.items()})
        return dict(sorted(plan.shapes.items()))

    def _probe(self) -> list[int]:
        """Eleven token ids spread over the vocabulary."""
        return [(7 + 13 * i * i) % self.vocab_size for i in range(min(11, self.max_context))]

    @torch.inference_mode()
    def _plain_logits(self) -> torch.Tensor:
        """The model's own logits of the probe, float32 [tokens, vocab]."""
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([self._probe()], device=self._device), use_cache=False
        ).logits[0]
        return logits.float()

    def _check_against(self, expected: torch.Tensor) -> None:
        """Run the probe in ragged pieces beside a second session and compare with the plain forward."""
        probe = self._probe()
        cut = len(probe) // 2
        pieces = [
            self.step([Row(0, 0, probe[:cut], cut), Row(1, 0, probe[::-1], 0)])[0],
            self.step([Row(1, cut, probe[:1], 1), Row(0, cut, probe[cut:], len(probe) - cut)])[1],
        ]
        got = torch.stack([torch.from_numpy(p.row(i)) for p in pieces for i in range(len(p))])
        self.release(0)
        self.release(1)
        error = float((got - expected.cpu()).abs().max())
        if not error <= SELF_CHECK_TOLERANCE[self._model.dtype] * float(expected.abs().max()):
            raise Incompatible(
                f"{type(self._model).__name__} gives other logits in a ragged step than in a plain forward "
                f"(largest difference {error:.3g})",
                cure="this architecture is not supported; see docs/supported-models.md",
            )


def _share_out(logits: torch.Tensor, rows: Sequence[Row]) -> list[TorchLogitRows]:
    """Each row's own slice of the step's logits."""
    step, begin, shares = StepLogits(logits), 0, []
    for row in rows:
        shares.append(TorchLogitRows(step, begin, begin + row.num_logits))
        begin += row.num_logits
    return shares
