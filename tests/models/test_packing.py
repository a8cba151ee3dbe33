"""A batch without padding gives what a padded one gives: states, gradients, and whatever the head reads."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from outgrow.models import transformer
from outgrow.models.packing import _layout, can_pack, layers_of, pack, run_packed
from outgrow.models.transformer import Classifier, load_classifier, recompute_layers
from tiny_models import KINDS, make_model

ROWS = [(1, 2, 3, 4, 5, 6, 7, 8), (5,), (3, 4, 9), (9, 1, 3), (2, 2)]
POOLINGS = ["last", "first", "mean"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {kind: make_model(base / kind, kind, layers=3) for kind in KINDS}


def classifier(folder: Path, pooling: str, *, padded: bool, **options: Any) -> Classifier:
    with pytest.MonkeyPatch.context() as patch:
        if padded:
            patch.setattr(transformer, "can_pack", lambda body, padded: False)
        model = load_classifier(folder, 3, max_tokens=20, pooling=pooling, **options)
    assert model.packs is not padded
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_a_padded_batch(folders: dict[str, Path], kind: str, pooling: str) -> None:
    gradients = []
    for padded in (False, True):
        model = classifier(folders[kind], pooling, padded=padded).train()
        logits = model(ROWS)
        (logits * torch.arange(15).view(5, 3)).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | {"logits": logits.detach()})
    packed, expected = gradients
    assert packed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(packed[name], value, rtol=1e-4, atol=1e-4 * float(value.abs().max() + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_layers_give_the_same_gradient(folders: dict[str, Path], kind: str) -> None:
    grads = []
    for recompute in (False, True):
        model = classifier(folders[kind], "last", padded=False).train()
        if recompute:
            recompute_layers(model.body)
        model(ROWS).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_text_is_the_same_whatever_stands_beside_it(folders: dict[str, Path], data: st.DataObject) -> None:
    kind, pooling = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(POOLINGS))
    model = classifier(folders[kind], pooling, padded=False).train(data.draw(st.booleans()))
    rows = data.draw(st.lists(st.lists(st.integers(0, 24), min_size=1, max_size=12), min_size=1, max_size=6))
    with torch.no_grad():
        together = model([tuple(row) for row in rows])
        alone = torch.cat([model([tuple(row)]) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=8))
def test_in_training_texts_of_like_length_share_a_product(runs: list[tuple[int, int]]) -> None:
    groups, places, gaps = _layout(tuple(runs))
    lengths = [length for count, length in runs for _ in range(count)]
    assert [length for group in groups for length in group] == lengths
    assert all(2 * max(group) <= 3 * min(group) for group in groups)
    wide = torch.zeros(sum(len(group) * max(group) for group in groups))
    wide[places] = 1 + torch.arange(sum(lengths), dtype=wide.dtype)
    assert torch.equal(gaps, (wide == 0).nonzero().squeeze(1))
    start, seen = 0, []
    for group in groups:
        for length in group:
            seen += wide[start : start + length].tolist()
            start += max(group)
    assert seen == list(range(1, 1 + sum(lengths)))


def test_only_the_tokens_asked_for_go_through_the_last_feed_forward(folders: dict[str, Path]) -> None:
    for kind, part in (("bert", "intermediate"), ("llama", "mlp")):
        model = classifier(folders[kind], "last", padded=False)
        layers: Any = next(m for m in model.body.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)
        assert _tokens_seen(model, [layer.get_submodule(part) for layer in layers]) == [17, 17, 5]
    model = classifier(folders["bert"], "first", padded=False)
    last: Any = next(m for m in model.body.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3)[-1]
    inner, after = last.attention.self, last.attention.output.dense
    assert _tokens_seen(model, [inner.query, inner.key, inner.value, after]) == [5, 17, 17, 5]


def test_a_last_layer_whose_shorter_way_is_another_is_left_whole(folders: dict[str, Path]) -> None:
    """One that does more than its parts tell, here turns its output round, is computed for every token."""

    def turn(module: Any) -> None:
        module.forward = partial(lambda whole, *rest, **named: -whole(*rest, **named), module.forward)

    for kind in ("bert", "llama"):
        bodies: list[Any] = [transformer._load_body(folders[kind]) for _ in range(2)]
        for body in bodies:
            turn(layers_of(body)[-1])
        with torch.no_grad():
            expected = _padded(bodies[0], ROWS)
            assert can_pack(bodies[1], partial(_padded, bodies[1]))
            batch = pack(ROWS, "cpu")
            torch.testing.assert_close(run_packed(bodies[1], batch, batch.first()), expected[batch.first()])


def test_a_window_and_fewer_key_heads_are_kept() -> None:
    """Gemma 3: local layers, each key head for several query heads."""
    from transformers import AutoModel, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        intermediate_size=24, sliding_window=4, layer_types=["sliding_attention"] * 2 + ["full_attention"],
    )  # fmt: skip
    config.use_cache = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body: Any = AutoModel.from_config(config).eval()
    rows = [list(range(3, 15)), list(range(20, 26)), [7]]
    with torch.no_grad():
        expected = torch.cat([body(input_ids=torch.tensor([row])).last_hidden_state[0] for row in rows])
        assert can_pack(body, partial(_padded, body))
        found = run_packed(body, pack(rows, "cpu"))
        whole = run_packed(body, pack([[token for row in rows for token in row]], "cpu"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole, expected, atol=1e-3)  # so the texts did stay apart


def test_a_model_that_counts_positions_its_own_way_is_padded() -> None:
    """RoBERTa starts at padding + 1; packed with positions from 0 it would be wrong, and so it is not packed."""
    from transformers import AutoModel, MPNetConfig, RobertaConfig

    shape = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for config in (RobertaConfig(**shape, intermediate_size=24), MPNetConfig(**shape, intermediate_size=24)):
        body: Any = AutoModel.from_config(config).eval()
        before = body.config._attn_implementation
        assert not can_pack(body, partial(_padded, body))
        assert body.config._attn_implementation == before


def _tokens_seen(model: Classifier, modules: list[Any]) -> list[int]:
    seen: list[int] = []
    for module in modules:
        module.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    model(ROWS)
    return seen


def _padded(body: Any, rows: Any) -> Tensor:
    batch = transformer.pad([tuple(row) for row in rows], "cpu")
    states: Tensor = body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
    return states[batch.mask.bool()]
