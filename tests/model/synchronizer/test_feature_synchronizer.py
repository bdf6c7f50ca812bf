import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.schema import SynchronizerConfig
from model.synchronizer.feature_synchronizer import FeatureSynchronizer
from tests.model import golden

CASES = json.loads((golden.DIRECTORY / "mmfs.json").read_text())["cases"]


def of_kind(kind):
    """The cases of one kind, fewest images first."""
    return sorted(
        (c for c in CASES if CASES[c]["kind"] == kind), key=lambda c: CASES[c]["n_images"]
    )


LLM, UNET = of_kind("llm"), of_kind("unet")


def build(case):
    sizes = CASES[case]["ctor"]
    config = SynchronizerConfig(
        **{k: sizes[k] for k in ("n_heads", "n_points", "ratio", "max_num_image_per_seq")}
    )
    synchronizer = FeatureSynchronizer(
        sizes["d_query"],
        sizes["d_value"],
        sizes["d_model"],
        sizes["d_out"],
        sizes["spatial_shapes"],
        sizes.get("base_spatial_shape", 16),
        config,
    )
    synchronizer.load_state_dict(golden.part(golden.tensors(f"mmfs_{case}"), "state/"))
    return synchronizer.requires_grad_(True)


def call(synchronizer, given, query, features, visible, official_decoding=False):
    reference = given["reference_points"][:, : query.shape[1], 0]
    return synchronizer(query, features, reference, visible, official_decoding)


@pytest.mark.parametrize("case", CASES)
def test_matches_the_official_numbers(case):
    recorded = golden.tensors(f"mmfs_{case}")
    given = golden.part(recorded, "in/")
    theirs = golden.part(recorded, "out/")
    synchronizer = build(case)
    query, features, mask = given["query"], given["input_flatten"], given["attention_mask"]
    ours = {"output": call(synchronizer, given, query, features, mask)}
    if "output_decode_last" in theirs:
        last = query[:, -1:]
        ours["output_decode_last"] = call(synchronizer, given, last, features, mask, True)
        ours["output_all_masked"] = call(synchronizer, given, query, features, mask * 0)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        golden.assert_close(f"{case} {name}", tensor, theirs[name], 1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients_match_the_official_ones(case):
    recorded = golden.tensors(f"mmfs_{case}")
    given, grads = golden.part(recorded, "in/"), golden.part(recorded, "grad/")
    synchronizer = build(case)
    query = given["query"].clone().requires_grad_()
    features = given["input_flatten"].clone().requires_grad_()
    out = call(synchronizer, given, query, features, given["attention_mask"])
    (out * grads.pop("grad_out")).sum().backward()
    ours = {"query": query.grad, "input_flatten": features.grad}
    ours |= {f"param.{name}": p.grad for name, p in synchronizer.named_parameters()}
    assert {"query", "input_flatten"} <= set(grads)
    for name, theirs in grads.items():
        tolerance = 1e-5 * theirs.abs().max().item() + 1e-5
        golden.assert_close(f"{case} gradient of {name}", ours[name], theirs, tolerance)


def slowly(module, query_BLD, features_BIVD, reference_BL2, visible_BLI):
    """MMFS from its definition, in float64, query by query, head by head, sample by sample."""
    f64 = {name: p.detach().double() for name, p in module.named_parameters()}

    def linear(name, x):
        return f64[f"{name}.weight"] @ x + f64[f"{name}.bias"]

    sides, base = module.spatial_shapes, module.base_spatial_shape
    H, P, S = module.n_heads, module.n_points, len(sides)
    out_BLD = torch.zeros(*query_BLD.shape[:2], len(f64["output_proj.bias"]), dtype=torch.float64)
    for b, token in ((b, t) for b in range(len(query_BLD)) for t in range(query_BLD.shape[1])):
        seen = [i for i in range(visible_BLI.shape[-1]) if visible_BLI[b, token, i]]
        x = linear("dynamic_offset_mask", query_BLD[b, token].double())
        logits, samples = (
            [[0.0] for _ in range(H)],
            [[f64["ignore_token"].view(H, -1)[h]] for h in range(H)],
        )
        for i in seen:
            relative = len(seen) - seen.index(i)
            y = x + f64["query_relpos.weight"][relative]
            offsets = linear("sampling_offsets", y).view(H, P, 2)
            scores = linear("attention_weights", y).view(H, S, P + 1)
            values = torch.stack([linear("value_proj", v.double()) for v in features_BIVD[b, i]])
            for h, s, p in ((h, s, p) for h in range(H) for s in range(S) for p in range(P)):
                place = reference_BL2[b, token].double() + offsets[h, p] / base
                start = sum(side * side for side in sides[:s])
                table = values[start : start + sides[s] ** 2].view(sides[s], sides[s], H, -1)
                logits[h].append(scores[h, s, p].item())
                samples[h].append(bilinear(table[:, :, h], place * sides[s] - 0.5))
        weights = torch.tensor(logits, dtype=torch.float64).softmax(-1)
        heads = [weights[h] @ torch.stack(samples[h]) for h in range(H)]
        out_BLD[b, token] = linear("output_proj", torch.cat(heads))
    return out_BLD


def bilinear(table, place):
    """One sample; zero outside of the table."""
    total = torch.zeros(table.shape[-1], dtype=torch.float64)
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            share = max(0.0, 1 - abs(place[0].item() - column))
            share *= max(0.0, 1 - abs(place[1].item() - row))
            total += share * table[row, column]
    return total


@st.composite
def synchronizers(draw):
    """A synchronizer of any sizes with random weights, and inputs for any number of images."""
    sides = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3))
    heads, width = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([1, 2, 3]))
    ratio = draw(st.sampled_from([1.0, 0.5]))
    config = SynchronizerConfig(
        n_heads=heads,
        n_points=draw(st.integers(1, 3)),
        ratio=ratio,
        max_num_image_per_seq=10,
    )
    d_query, d_value, d_out = (draw(st.integers(1, 6)) for _ in range(3))
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    base = draw(st.sampled_from([1, 2, 4]))
    module = FeatureSynchronizer(
        d_query, d_value, int(heads * width / ratio), d_out, sides, base, config
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    B, L, num = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 8))
    positions = sum(side * side for side in sides)
    return (
        module,
        torch.randn(B, L, d_query, generator=generator),
        torch.randn(B, num, positions, d_value, generator=generator),
        torch.rand(B, L, 2, generator=generator),
        torch.rand(B, L, num, generator=generator) < 0.6,
    )


@settings(max_examples=12, deadline=None)
@given(synchronizers())
def test_matches_the_definition_at_any_size(case):
    module, *inputs = case
    golden.assert_close("any size", module(*inputs), slowly(module, *inputs), 1e-4)


@settings(max_examples=20, deadline=None)
@given(synchronizers(), st.integers(1, 3))
def test_padding_images_change_nothing(case, extra):
    module, query, features, reference, visible = case
    padding = torch.full((len(features), extra, *features.shape[2:]), 7.0)
    padded = module(
        query,
        torch.cat((features, padding), 1),
        reference,
        torch.nn.functional.pad(visible, (0, extra)),
    )
    golden.assert_close("padding", padded, module(query, features, reference, visible), 1e-5)


@settings(max_examples=20, deadline=None)
@given(synchronizers())
def test_a_batch_is_its_rows(case):
    module, *inputs = case
    whole = module(*inputs)
    for b in range(len(whole)):
        row = module(*(tensor[b : b + 1] for tensor in inputs))
        golden.assert_close("row", row, whole[b : b + 1], 1e-5)


@settings(max_examples=20, deadline=None)
@given(synchronizers(), st.randoms())
def test_only_order_tells_images_apart(case, random):
    # Without relative positions an image is known by its content alone: order does not matter.
    module, query, features, reference, visible = case
    order = list(range(features.shape[1]))
    random.shuffle(order)
    with torch.no_grad():
        module.query_relpos.weight.zero_()
    shuffled = module(query, features[:, order], reference, visible[..., order])
    ours = module(query, features, reference, visible)
    golden.assert_close("shuffled", shuffled, ours, 1e-4)


@settings(max_examples=20, deadline=None)
@given(synchronizers())
def test_hidden_images_do_not_count_for_relative_positions(case):
    module, query, features, reference, visible = case
    visible = visible[:, :1].expand_as(visible)
    for b in range(len(query)):
        kept = visible[b, 0].nonzero().flatten()
        only = module(
            query[b : b + 1],
            features[b : b + 1, kept],
            reference[b : b + 1],
            torch.ones(1, query.shape[1], len(kept)),
        )
        ours = module(query, features, reference, visible)[b : b + 1]
        golden.assert_close("kept", only, ours, 1e-5)


@settings(max_examples=20, deadline=None)
@given(synchronizers())
def test_nothing_visible_yields_the_ignore_token(case):
    module, query, features, reference, visible = case
    ours = module(query, features, reference, torch.zeros_like(visible))
    ignored = module.output_proj(module.ignore_token.flatten())
    golden.assert_close("ignore token", ours, ignored.expand_as(ours), 1e-5)


@settings(max_examples=20, deadline=None)
@given(synchronizers())
def test_masks_of_two_ranks_and_the_decoding_rule(case):
    module, query, features, reference, visible = case
    alike = visible[:, -1]
    by_image = module(query, features, reference, alike)
    by_token = module(query, features, reference, alike[:, None].expand_as(visible))
    golden.assert_close("[B, I]", by_image, by_token, 1e-6)
    longer = torch.cat((visible, visible.flip(1), alike[:, None]), 1)
    by_last = module(query, features, reference, longer, official_decoding=True)
    golden.assert_close("last row", by_last, by_image, 1e-6)
    with pytest.raises(ValueError, match="rows of visibility"):
        module(query, features, reference, longer)


def test_values_are_projected_once_and_reused():
    given = golden.part(golden.tensors(f"mmfs_{LLM[-1]}"), "in/")
    synchronizer = build(LLM[-1]).requires_grad_(False)
    values = synchronizer.project(given["input_flatten"])
    whole = call(
        synchronizer, given, given["query"], given["input_flatten"], given["attention_mask"]
    )
    for token in range(given["query"].shape[1]):
        one = slice(token, token + 1)
        step = synchronizer.attend(
            given["query"][:, one],
            values,
            given["reference_points"][:, one, 0],
            given["attention_mask"][:, one],
        )
        golden.assert_close("one token", step, whole[:, one], 1e-5)


@pytest.mark.parametrize("case", [LLM[-1], UNET[-1]])
def test_exports_without_data_dependent_branches(case):
    given = golden.part(golden.tensors(f"mmfs_{case}"), "in/")
    synchronizer = build(case).requires_grad_(False)
    inputs = (
        given["query"],
        given["input_flatten"],
        given["reference_points"][:, :, 0],
        given["attention_mask"],
    )
    program = torch.export.export(synchronizer, inputs)
    golden.assert_close("exported", program.module()(*inputs), synchronizer(*inputs), 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_stays_close(dtype):
    case = LLM[len(LLM) // 2]
    given = golden.part(golden.tensors(f"mmfs_{case}"), "in/")
    theirs = golden.tensors(f"mmfs_{case}")["out/output"]
    synchronizer = build(case).requires_grad_(False).to(dtype)
    ours = call(
        synchronizer,
        given,
        given["query"].to(dtype),
        given["input_flatten"].to(dtype),
        given["attention_mask"],
    )
    assert ours.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    golden.assert_close(str(dtype), ours, theirs, tolerance * theirs.abs().max().item())


def test_heads_must_share_the_channels():
    with pytest.raises(ValueError, match="16 heads can't share 24 channels"):
        FeatureSynchronizer(8, 8, 24, 8, [4], 4, SynchronizerConfig())
