"""The paged engine against the plain forward of the same weights, and its books."""

import copy
import random

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from paceline.cloud.engine.base import EngineConfig, Row
from paceline.cloud.engine.compatibility import context_limit
from paceline.cloud.engine.conformance import check_trees
from paceline.cloud.engine.extents import Run
from paceline.cloud.engine.paged import PagedEngine
from paceline.cloud.engine.ragged_attention import LayerShape
from paceline.cloud.engine.varlen import check_varlen
from paceline.cloud.engine.weights import store_for_few_rows
from paceline.common.errors import Busy, Incompatible, InternalError, InvalidRequest, TargetNumerics
from paceline.common.trees import path_to

TOLERANCE = 2e-5
SHAPE = {
    "vocab_size": 200,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def llama(**changes: object) -> PreTrainedModel:
    """A tiny Llama with the same random weights every time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})).eval()


def engine_of(model: PreTrainedModel, capacity_tokens: int = 1024, page_size: int = 16) -> PagedEngine:
    """An engine over its own copy of `model`."""
    return PagedEngine(
        copy.deepcopy(model), EngineConfig(capacity_tokens=capacity_tokens, page_size=page_size)
    )


@torch.inference_mode()
def plain(model: PreTrainedModel, token_ids: list[int]) -> np.ndarray:
    """The model's own logits [tokens, vocab] of one text."""
    return model(torch.tensor([token_ids])).logits[0].numpy()


def texts(count: int, length: int = 200) -> list[list[int]]:
    """Random texts, the same every time."""
    return np.random.default_rng(4).integers(0, 200, (count, length)).tolist()


def assert_rows(rows, expected: np.ndarray) -> None:
    """Every row of logits is within tolerance of `expected` [n, vocab], and its argmax is the same."""
    got = np.stack([rows.row(i) for i in range(len(rows))])
    assert np.abs(got - expected).max() <= TOLERANCE
    assert rows.argmax().tolist() == expected.argmax(axis=1).tolist()


@pytest.mark.parametrize("window", [None, 24])
def test_mixed_step_equals_plain_forwards(window: int | None) -> None:
    """Prefill, verification and decode of five sessions in one step give each session's plain logits."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)).eval()
    engine, text = engine_of(model), texts(5)
    expected = [plain(model, t) for t in text]
    engine.step([Row(0, 0, text[0][:130], 0), Row(1, 0, text[1][:31], 0), Row(2, 0, text[2][:64], 0)])

    results = engine.step(
        [
            Row(0, 130, text[0][130:131], 1),
            Row(3, 0, text[3][:90], 90),
            Row(1, 31, text[1][31:40], 9),
            Row(2, 50, text[2][50:67], 17),
            Row(4, 0, text[4][:1], 1),
        ]
    )

    slices = [(0, 130, 131), (3, 0, 90), (1, 31, 40), (2, 50, 67), (4, 0, 1)]
    for result, (key, begin, end) in zip(results, slices, strict=True):
        assert_rows(result, expected[key][begin:end])
    assert engine.cached_tokens() == 131 + 90 + 40 + 67 + 1
    engine.check_integrity()


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("count", [9, 48])
def test_tree_rows_equal_plain_forwards_of_their_paths(window: int | None, count: int) -> None:
    """Random trees, small and too large to fold, beside a chain: every row is the plain forward of the node's path."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)).eval()
    engine, text, dice = engine_of(model), texts(2), random.Random(count)
    parents = [*range(-1, 3), *(dice.choice([-1, 0, 1, *range(4, node)]) for node in range(4, count))]
    nodes = [dice.randrange(SHAPE["vocab_size"]) for _ in parents]
    engine.step([Row(0, 0, text[0][:60], 0), Row(1, 0, text[1][:60], 0)])

    tree = Row(0, 60, [*text[0][60:64], *nodes], count + 1, parents)
    beside, rows = engine.step([Row(1, 60, text[1][60:70], 10), tree])

    assert_rows(beside, plain(model, text[1][:70])[60:])
    paths = [[nodes[one] for one in path_to(parents, node)] for node in range(-1, count)]
    assert_rows(rows, np.stack([plain(model, [*text[0][:64], *path])[-1] for path in paths]))
    assert engine.cached_tokens() == 64 + 4 + 70
    engine.check_integrity()


@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_rollback_to_every_length(page_size: int) -> None:
    """Rolling back to any length, page boundaries included, and going on right gives the plain logits."""
    model = llama()
    engine, (text, wrong) = engine_of(model, page_size=page_size), texts(2, 70)
    expected = plain(model, text)

    for length in range(70):
        engine.step([Row(0, 0, text[:length] + wrong[length:], 0)])
        (rows,) = engine.step([Row(0, length, text[length:], 70 - length)])
        assert_rows(rows, expected[length:])
    engine.check_integrity()


def test_growing_sessions_move_and_keep_their_text() -> None:
    """Sessions that grow into one another move, compact, and still give the plain logits at full capacity."""
    model = llama()
    engine, text = engine_of(model, capacity_tokens=4 * 96, page_size=8), texts(4, 96)
    expected = [plain(model, t) for t in text]

    for at in range(0, 96, 6):
        results = engine.step(
            [Row(key, at, text[key][at : at + 6], 6) for key in (at % 4, *range(4)) if key < 4][-4:]
        )
        for key, rows in enumerate(results):
            assert_rows(rows, expected[key][at : at + 6])
        engine.check_integrity()

    assert engine.cached_tokens() == engine.capacity_tokens
    with pytest.raises(Busy):
        engine.step([Row(9, 0, [1], 1)])
    engine.release(2)
    engine.step([Row(9, 0, text[0], 1)])
    engine.check_integrity()


def test_release_frees_every_page() -> None:
    """After all sessions are released no page is in use."""
    engine = engine_of(llama())
    engine.step([Row(key, 0, [1, 2, 3] * key, 0) for key in range(1, 9)])

    for key in range(1, 9):
        engine.release(key)

    assert engine.cached_tokens() == 0
    assert engine._extents.runs == {}


def test_integrity_check_finds_planted_damage() -> None:
    """A leaked run, a lost run, overlapping runs and a run too small are each found."""
    for damage in (
        lambda e: e._extents.runs.__setitem__(7, Run(60, 1, 1)),
        lambda e: e._extents.runs.pop(1),
        lambda e: setattr(e._extents.runs[2], "start", 0),
        lambda e: setattr(e._extents.runs[2], "used", 1),
        lambda e: setattr(e._extents.runs[2], "start", 63),
    ):
        engine = engine_of(llama())
        engine.step([Row(1, 0, [1] * 40, 0), Row(2, 0, [2] * 40, 0)])
        engine.check_integrity()
        damage(engine)
        with pytest.raises(InternalError):
            engine.check_integrity()


def test_failed_forward_leaves_the_books_straight() -> None:
    """When the model raises, old sessions keep their tokens, new ones leave no pages, and the engine goes
    on."""
    model = llama()
    engine, (text,) = engine_of(model), texts(1, 40)
    expected = plain(model, text)
    engine.step([Row(0, 0, text[:30], 0)])
    healthy = engine._model

    def broken(**kwargs: object) -> None:
        raise RuntimeError("out of memory")

    engine._model = broken
    with pytest.raises(RuntimeError):
        engine.step([Row(0, 30, text[30:], 1), Row(1, 0, text, 1)])
    engine._model = healthy

    engine.check_integrity()
    assert engine.cached_tokens() == 30
    (rows,) = engine.step([Row(0, 30, text[30:], 10)])
    assert_rows(rows, expected[30:])


def test_not_a_number_is_an_error_of_its_session_alone() -> None:
    """A NaN or +inf row raises TargetNumerics when read; the other session of the step is served."""
    model = llama()
    engine = engine_of(model)
    with torch.no_grad():
        engine._model.model.embed_tokens.weight[7] = float("nan")
    good, bad = engine.step([Row(0, 0, [1, 2, 3], 3), Row(1, 0, [1, 7, 3], 3)])

    assert_rows(good, plain(model, [1, 2, 3]))
    with pytest.raises(TargetNumerics):
        bad.argmax()
    with pytest.raises(IndexError):
        good.row(3)


def test_self_check_refuses_a_model_that_ignores_positions() -> None:
    """A model whose ragged logits differ from its plain ones is refused at start."""
    model = llama()
    rotary = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: rotary(x, position_ids - position_ids[:, :1])

    with pytest.raises(Incompatible, match="other logits in a ragged step"):
        PagedEngine(model, EngineConfig(capacity_tokens=256))


def test_layer_that_hides_its_window_is_refused() -> None:
    """A configuration with sliding layers whose attention asks for no window is refused."""
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)).eval()
    model.config.layer_types = ["sliding_attention", "full_attention"]

    with pytest.raises(Incompatible, match="layer 1 is full_attention"):
        PagedEngine(model, EngineConfig(capacity_tokens=256))


def test_longrope_is_served_up_to_the_original_length() -> None:
    """The context of a longrope model ends where its rotation would begin to depend on the length."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 64,
    }
    assert context_limit(LlamaConfig(**SHAPE, rope_parameters=rope)) == 64
    assert context_limit(LlamaConfig(**SHAPE)) == 256


def test_capacity_is_found_from_free_memory() -> None:
    """Without a capacity the engine takes a share of the free memory, in whole pages."""
    engine = PagedEngine(llama(), EngineConfig(memory_fraction=0.001))

    assert engine.capacity_tokens >= 256
    assert engine.capacity_tokens % engine.page_size == 0
    assert engine.bytes_per_token == 2 * 2 * 16 * 4 * 2


@pytest.mark.parametrize(
    "wrong", [{"page_size": 0}, {"memory_fraction": 0.0}, {"capacity_tokens": 0}, {"max_context": 0}]
)
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    """A configuration out of range names its field."""
    with pytest.raises(InvalidRequest) as caught:
        EngineConfig(**wrong)
    assert caught.value.field == next(iter(wrong))


def test_weights_change_place_not_value() -> None:
    """Storing weights for few rows changes no name, shape or value, and ties stay tied."""
    model, before = llama(tie_word_embeddings=True), llama(tie_word_embeddings=True).state_dict()

    changed = store_for_few_rows(model)

    assert changed == 2 * 2 + 1, "gate and up of two layers, and the head"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    for name, weights in model.state_dict().items():
        assert torch.equal(weights, before[name]), name


def documented_varlen_attn(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    scale,
    window_size,
    enable_gqa,
    seqused_k,
    block_table,
    num_splits,
):
    """What the documentation of `varlen_attn` says it computes, written plainly."""
    assert cu_seq_k is None
    assert num_splits == 1
    assert max_q == int((cu_seq_q[1:] - cu_seq_q[:-1]).max())
    assert max_k == int(seqused_k.max())
    out = []
    for i, count in enumerate(seqused_k.tolist()):
        mine = query[cu_seq_q[i] : cu_seq_q[i + 1]].transpose(0, 1)
        keys, values = (pages[block_table[i]].flatten(0, 1)[:count].transpose(0, 1) for pages in (key, value))
        at = torch.arange(count - mine.shape[1], count)[:, None]
        distance = at - torch.arange(count)[None, :]
        seen = (distance >= 0) & ((window_size[0] < 0) | (distance <= window_size[0]))
        out.append(
            torch.nn.functional.scaled_dot_product_attention(
                mine, keys, values, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
            ).transpose(0, 1)
        )
    return torch.cat(out)


@pytest.mark.parametrize("window", [None, 24])
def test_varlen_wiring_equals_plain_forwards(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel replaced by what its documentation says, a mixed step gives the plain logits."""
    monkeypatch.setattr("paceline.cloud.engine.varlen.varlen_attn", documented_varlen_attn)
    monkeypatch.setattr("paceline.cloud.engine.paged.check_varlen", lambda *_: None)
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=window)).eval()
    config = EngineConfig(capacity_tokens=1024, page_size=16, attention="varlen")
    engine, text = PagedEngine(copy.deepcopy(model), config), texts(3)
    expected = [plain(model, t) for t in text]
    engine.step([Row(0, 0, text[0][:70], 0), Row(1, 0, text[1][:31], 0)])

    rows = [Row(1, 20, text[1][20:29], 9), Row(2, 0, text[2][:40], 40), Row(0, 70, text[0][70:71], 1)]
    results = engine.step(rows)

    for row, result in zip(rows, results, strict=True):
        assert_rows(result, expected[row.key][row.past_length : row.past_length + row.num_logits])
    assert not engine.takes_trees
    check_trees(lambda _: engine, 0.0)


def test_varlen_is_refused_where_it_cannot_run() -> None:
    """The one-kernel attention names what it lacks: a CUDA device, whole pages, half precision, equal
    widths."""
    cuda, half = torch.device("cuda"), torch.bfloat16
    good = {0: LayerShape(2, 64, 64, half, None)}
    check_varlen(good, 256, cuda)
    for shapes, page_size, device, reason in (
        (good, 256, torch.device("cpu"), "needs CUDA"),
        (good, 16, cuda, "not a multiple of 256"),
        ({0: LayerShape(2, 64, 64, torch.float32, None)}, 256, cuda, "float16 or bfloat16"),
        ({0: LayerShape(2, 64, 32, half, None)}, 256, cuda, "one width"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            check_varlen(shapes, page_size, device)
    with pytest.raises(InvalidRequest, match="needs CUDA"):
        PagedEngine(llama(), EngineConfig(capacity_tokens=256, attention="varlen"))


@pytest.mark.slow
def test_long_context_and_many_sessions() -> None:
    """Sixteen sessions of up to 1,500 tokens, prefilled in chunks, give the plain argmax."""
    model = llama(max_position_embeddings=2048)
    engine = engine_of(model, capacity_tokens=16 * 1600)
    text = np.random.default_rng(5).integers(0, 200, (16, 1500)).tolist()
    lengths = [1500 - 90 * i for i in range(16)]
    done = [0] * 16
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        keys = [k for k in range(16) if done[k] < lengths[k]]
        engine.step([Row(k, done[k], text[k][done[k] : min(done[k] + 256, lengths[k])], 0) for k in keys])
        done = [min(d + 256, n) for d, n in zip(done, lengths, strict=True)]

    results = engine.step([Row(k, n - 9, text[k][n - 9 : n], 9) for k, n in enumerate(lengths)])

    for key, (rows, length) in enumerate(zip(results, lengths, strict=True)):
        assert_rows(rows, plain(model, text[key][:length])[-9:])
