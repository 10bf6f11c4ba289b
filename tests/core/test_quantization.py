from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from remanent.core.nf4 import CODEBOOK
from remanent.core.quantization import QuantizationFormat, clipped, codes, movement, round_to, step_size
from remanent.errors import InputError, UnsupportedError

NAMES = [
    "int8-row",
    "int8-tensor",
    "int4-row",
    "int4-tensor",
    "int3-row",
    "int2-row",
    "int4-g32",
    "int2-g32",
    "int3-g64",
    "int4-g128",
    "int4-g7",
    "int4-row-asym",
    "int4-g32-asym",
    "int8-tensor-asym",
    "int4-row-p99.99",
    "int4-tensor-p90",
    "int4-g32-asym-p99",
    "nf4",
    "nf4-b128",
    "bf16",
    "fp16",
]
parse = QuantizationFormat.parse


def weights(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02).to(dtype)


def plain(weight: Tensor, format: QuantizationFormat) -> tuple[Tensor, Tensor]:
    """Integer formats unit by unit, straight from their definition: values and scales."""
    rows = (
        weight.reshape(weight.shape[0], -1)
        if weight.dim() > 1 and format.granularity != "tensor"
        else weight.reshape(1, -1)
    )
    values, scales = torch.empty_like(rows), torch.empty_like(rows)
    size = format.group_size or rows.shape[1]
    for row in range(rows.shape[0]):
        for start in range(0, rows.shape[1], size):
            unit = rows[row, start : start + size]
            low, high = unit.min(), unit.max()
            if format.percentile is not None:
                bound = torch.tensor(numpy.percentile(unit.abs().numpy(), format.percentile))
                low, high = torch.maximum(low, -bound), torch.minimum(high, bound)
            if format.symmetric:
                most = 2 ** (format.bits - 1) - 1
                scale = (torch.maximum(high, -low) / most).clamp(min=1e-8)
                value = scale * torch.clamp(torch.round(unit / scale), -most - 1, most)
            else:
                most = 2**format.bits - 1
                low, high = low.clamp(max=0), high.clamp(min=0)
                scale = ((high - low) / most).clamp(min=1e-8)
                zero = torch.round(-low / scale)
                value = scale * (torch.clamp(torch.round(unit / scale) + zero, 0, most) - zero)
            values[row, start : start + size], scales[row, start : start + size] = value, scale
    return values.view_as(weight), scales.view_as(weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_goes_round(name: str) -> None:
    assert str(parse(name)) == name
    assert parse(str(parse(name))) == parse(name)


def test_short_names_mean_rows() -> None:
    assert parse("int8") == parse("int8-row") == QuantizationFormat("int", 8, "row")
    assert parse("int4") == parse("int4-row")
    assert parse("nf4") == parse("nf4-b64") == QuantizationFormat("nf4", 4, "block", 64)
    assert parse("int4-g64-asym") == QuantizationFormat("int", 4, "group", 64, symmetric=False)
    assert parse("int4-row-p99.99").percentile == 99.99


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("int4-rows", "int4-row'"),
        ("int5", "int4"),
        ("nf5", "nf4"),
        ("bf15", "bf16"),
        ("int4-g0", "int4-g"),
        ("", "one of"),
        ("int4-g1", "int4-g"),
        ("nf4-b1", "nf4"),
        ("int4-row-p0", "int4-row"),
        ("int4-row-p100", "int4-row-p99.99"),
    ],
)
def test_a_wrong_name_is_an_error_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        parse(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "int", "bits": 5, "granularity": "row"},
        {"kind": "fp4", "bits": 4, "granularity": "row"},
        {"kind": "int", "bits": 4, "granularity": "block", "group_size": 64},
        {"kind": "int", "bits": 4, "granularity": "group"},
        {"kind": "int", "bits": 4, "granularity": "row", "group_size": 32},
        {"kind": "nf4", "bits": 4, "granularity": "block", "group_size": 64, "symmetric": False},
        {"kind": "nf4", "bits": 4, "granularity": "block", "group_size": 64, "percentile": 99.0},
        {"kind": "int", "bits": 4, "granularity": "row", "percentile": 0.0},
    ],
)
def test_fields_that_do_not_go_together(fields: dict[str, object]) -> None:
    with pytest.raises(InputError, match="format"):
        QuantizationFormat(**fields)  # type: ignore[arg-type]


def test_int4_by_hand() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0], [-14.0, 5.0, 3.0, 13.1]])
    assert round_to(weight, parse("int4")).tolist() == [[7, -3, 0, 2], [0, 0, 0, 0], [-14, 4, 4, 14]]  # half to even
    assert codes(weight, parse("int4")).tolist() == [[7, -3, 0, 2], [0, 0, 0, 0], [-7, 2, 2, 7]]
    assert step_size(weight, parse("int4")).tolist() == [[1.0], [pytest.approx(1e-8)], [2.0]]
    assert step_size(weight, parse("int4-tensor")).tolist() == [[2.0]]
    # A tensor of one dimension has one scale.
    assert round_to(torch.tensor([7.0, 0.4, -2.6]), parse("int4")).tolist() == [7, 0, -3]
    assert step_size(torch.tensor([7.0, 0.4, -2.6]), parse("int4")).shape == (1,)


def test_asymmetric_by_hand() -> None:
    weight = torch.tensor([[-1.0, 2.0, 0.4, 0.6], [1.0, 2.0, 3.0, 3.0], [-3.0, -3.0, -3.0, -3.0]])
    format = parse("int2-row-asym")
    assert codes(weight, format).tolist() == [[0, 3, 1, 2], [1, 2, 3, 3], [0, 0, 0, 0]]
    assert round_to(weight, format).tolist() == [[-1, 2, 0, 1], [1, 2, 3, 3], [-3, -3, -3, -3]]
    assert codes(weight, format).dtype == torch.uint8


def test_a_percentile_clips_and_says_what() -> None:
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0, 100.0]])
    format = parse("int3-row-p75")  # the 75th percentile of the magnitudes is 3, so the step is 1
    assert round_to(weight, format).tolist() == [[0, 1, 2, 3, 3]]
    assert clipped(weight, format).tolist() == [[False, False, False, False, True]]
    assert round_to(-weight, format).tolist() == [[0, -1, -2, -3, -4]]


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("int")])
@pytest.mark.parametrize("shape", [(5, 100), (3, 4, 3, 3), (130,), (2, 33), (1, 1)])
def test_integer_formats_follow_their_definition(name: str, shape: tuple[int, ...]) -> None:
    weight, format = weights(*shape), parse(name)
    values, scales = plain(weight, format)
    torch.testing.assert_close(round_to(weight, format), values, rtol=1e-6, atol=0)
    torch.testing.assert_close(step_size(weight, format).expand_as(weight), scales, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["int4-tensor", "int4-row", "int4-g32", "int4-g48-asym", "nf4", "bf16"])
def test_pieces_do_not_show(name: str) -> None:
    """Weights that take several pieces in either direction round as they do in parts that take one."""
    format = parse(name)
    for weight in (weights(700, 300), weights(3, 70001)):
        whole = round_to(weight, format)
        if format.local_to_rows:
            parts = torch.cat([round_to(part, format) for part in weight.split(1)])
        elif name == "nf4":
            parts = torch.cat([round_to(part, format) for part in weight.flatten().split(64 * 50)]).view_as(weight)
        else:
            parts = plain(weight, format)[0]
        assert torch.equal(whole, parts)


@pytest.mark.parametrize("name", NAMES)
def test_rows_round_alone_exactly_where_the_format_says_so(name: str) -> None:
    weight, format = weights(6, 100), parse(name)
    alone = torch.cat([round_to(weight[:1], format), round_to(weight[1:4], format), round_to(weight[4:], format)])
    assert torch.equal(alone, round_to(weight, format)) == format.local_to_rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_result_has_the_weights_dtype_and_float32_arithmetic(name: str, dtype: torch.dtype) -> None:
    weight, format = weights(5, 100, dtype=dtype), parse(name)
    rounded = round_to(weight, format)
    assert rounded.dtype == dtype
    assert torch.equal(rounded, round_to(weight.float(), format).to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_out_in_place_and_untouched_input(name: str) -> None:
    weight, format = weights(9, 150), parse(name)
    kept, expected = weight.clone(), round_to(weight, format)
    assert torch.equal(weight, kept)
    transposed = torch.empty(150, 9).T
    assert round_to(weight, format, out=transposed) is transposed
    assert torch.equal(transposed, expected)
    strided = kept.T.contiguous().T
    assert torch.equal(round_to(strided, format, out=strided), expected)
    parameter = torch.nn.Parameter(weight)
    assert round_to(parameter, format, out=parameter) is parameter
    assert torch.equal(parameter, expected)
    assert parameter.requires_grad
    assert not round_to(parameter, format).requires_grad


def test_out_must_fit() -> None:
    for out in (torch.empty(4, 3), torch.empty(3, 4, dtype=torch.float64)):
        with pytest.raises(InputError, match="out"):
            round_to(weights(3, 4), parse("int4"), out=out)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_and_nothing_is_written(name: str, bad: float) -> None:
    weight = weights(300, 300)
    weight[299, 7] = bad
    kept = weight.clone()
    for function in (round_to, codes, step_size, clipped):
        with pytest.raises(InputError, match="weight"):
            function(weight, parse(name))
    with pytest.raises(InputError, match="weight"):
        round_to(weight, parse(name), out=weight)
    assert torch.equal(weight.nan_to_num(5.0), kept.nan_to_num(5.0))
    with pytest.raises(InputError, match="after"):
        movement(weights(300, 300), weight, parse(name))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_other_dtypes_are_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedError, match=str(dtype)):
        round_to(torch.zeros(2, 2).to(dtype), parse("int4"))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_round(name: str) -> None:
    for shape in ((0, 4), (4, 0), (0,)):
        weight, format = torch.empty(shape), parse(name)
        assert round_to(weight, format).shape == codes(weight, format).shape == clipped(weight, format).shape == shape
        assert step_size(weight, format).expand(shape).shape == shape
        assert movement(weight, weight, format) == {"mean_steps": 0, "moved_half_step": 0, "code_changed": 0}
    scalar = torch.tensor(0.3)
    assert round_to(scalar, parse(name)).shape == step_size(scalar, parse(name)).expand(()).shape == ()


@pytest.mark.parametrize("name", [name for name in NAMES if "-p" not in name])
def test_no_value_moves_by_more_than_half_a_step(name: str) -> None:
    weight, format = weights(8, 200), parse(name)
    moved = (round_to(weight, format) - weight).abs()
    slack = 1e-5 * weight.abs().max()
    if format.kind == "nf4":
        assert (moved <= 0.16 * weight.abs().max()).all()  # half of the widest gap of the codebook
    else:
        assert (moved <= step_size(weight, format) / 2 + slack).all()
    if format.symmetric:
        assert not clipped(weight, format).any()


@pytest.mark.parametrize("name", NAMES)
def test_codes_say_which_values_are_equal(name: str) -> None:
    weight, format = weights(1, 7), parse(name)  # one unit, whatever the format
    pairs = dict(
        zip(codes(weight, format).flatten().tolist(), round_to(weight, format).flatten().tolist(), strict=True)
    )
    assert len(set(pairs.values())) == len(pairs)
    for code, value in zip(codes(weight, format).flatten(), round_to(weight, format).flatten(), strict=True):
        assert pairs[code.item()] == value.item()


floats = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 3), columns=st.integers(1, 70), data=st.data())
def test_rounding_twice_is_rounding_once(rows: int, columns: int, data: st.DataObject) -> None:
    """Exact where the largest magnitude stays: NF4, casts, and symmetric integers of 16-bit weights. In float32,
    7 * (max / 7) may be the neighbour of max, and so the second scale that of the first: codes stay, values to an ulp.
    (A percentile moves with the values that it clipped, and a zero point may round off the largest value.)"""
    weight = torch.tensor(data.draw(st.lists(floats, min_size=rows * columns, max_size=rows * columns)))
    weight = weight.view(rows, columns)
    weight[weight.abs() < 1e-3] = 0  # below, the smallest scale and the spacing of float16 take over
    for name in ("nf4", "bf16", "fp16"):
        once = round_to(weight, parse(name))
        assert torch.equal(round_to(once, parse(name)), once)
    for name in ("int8-row", "int4-row", "int4-tensor", "int4-g32", "int2-g32"):
        format = parse(name)
        once = round_to(weight, format)
        assert torch.equal(codes(once, format), codes(weight, format))
        torch.testing.assert_close(round_to(once, format), once, rtol=2.5e-7, atol=0)
        half = round_to(weight.bfloat16(), format)
        assert torch.equal(round_to(half, format), half)


def test_nf4_by_hand() -> None:
    weight = torch.tensor([4.0, -4.0, 0.3, 0.1, 2.0, 0.0])
    expected = [4.0, -4.0, 4 * CODEBOOK[8], 0.0, 4 * CODEBOOK[12], 0.0]
    assert round_to(weight, parse("nf4")).tolist() == expected
    assert codes(weight, parse("nf4")).tolist() == [15, 0, 8, 7, 12, 7]
    steps = step_size(weight, parse("nf4"))
    assert steps[0].item() == pytest.approx(4 * (1 - CODEBOOK[14]))
    assert steps[3].item() == pytest.approx(4 * (CODEBOOK[8] - CODEBOOK[6]) / 2)


def nf4_cases() -> dict[str, Tensor]:
    values = torch.tensor(CODEBOOK)
    borders = (values[:-1] + values[1:]) / 2
    near = [borders, values]
    for _ in range(3):
        near += [torch.nextafter(near[-2], torch.tensor(2.0)), torch.nextafter(near[-1], torch.tensor(-2.0))]
    ties = torch.cat([torch.cat([torch.ones(1), edge, torch.zeros(63 - len(edge))]) for edge in near])
    return {
        "normal": weights(64, 128),
        "wide": weights(32, 96) * torch.logspace(-20, 20, 96),
        "odd": weights(7, 33),
        "odd length": weights(129),
        "short": weights(3, 5),
        "one": torch.tensor([0.3]),
        "ties": ties,
        "scaled ties": ties * 0.037,
        "zeros": torch.zeros(3, 70),
        "zero block": torch.cat([torch.zeros(64), weights(64), torch.zeros(10)]),
        "huge": weights(4, 64) * 1e38 * 40,
        "huge tail": weights(70) * 1e38 * 40,
        "subnormal": weights(4, 70) * 1e-38,
        "large": weights(300, 1000),
    }


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("case", nf4_cases())
def test_nf4_is_that_of_bitsandbytes(case: str, block: int) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight, format = nf4_cases()[case], parse(f"nf4-b{block}")
    packed, state = functional.quantize_4bit(weight, blocksize=block, quant_type="nf4")
    unpacked = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[: weight.numel()].view_as(weight)
    assert torch.equal(codes(weight, format), unpacked)
    scales = state.absmax.repeat_interleave(block)[: weight.numel()].view_as(weight)
    assert torch.equal(round_to(weight, format), torch.tensor(CODEBOOK)[unpacked.long()] * scales)
    # Where the CPU has bfloat16 instructions, bitsandbytes takes blocks that begin within a row for others.
    if weight.shape[-1] % block == 0 or not functional.has_avx512bf16():
        theirs = functional.dequantize_4bit(packed, state).reshape(weight.shape)
        assert torch.equal(round_to(weight, format), theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_nf4_of_half_precision_is_that_of_bitsandbytes(dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = weights(64, 128, dtype=dtype)
    theirs = functional.dequantize_4bit(*functional.quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    assert torch.equal(round_to(weight, parse("nf4")), theirs)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_cast_is_a_cast(name: str, dtype: torch.dtype) -> None:
    weight = torch.tensor([0.1, -3.14159, 70000.0, 0.0, 1.0, 1e-7])
    assert torch.equal(round_to(weight, parse(name)), weight.to(dtype).float())
    assert clipped(weight, parse(name)).tolist() == [False, False, name == "fp16", False, False, False]
    steps = step_size(weight, parse(name))
    assert steps[4].item() == torch.finfo(dtype).eps
    assert steps[0].item() == torch.finfo(dtype).eps / 16  # 0.1 lies between 1/16 and 1/8


def test_movement_by_hand() -> None:
    before = torch.tensor([[7.0, 0.4, 2.0, -3.0]])  # a step of 1
    after = torch.tensor([[7.0, 0.6, 2.4, -5.0]])  # moved by 0, 0.2 (another code), 0.4 (the same) and 2 steps
    result = movement(before, after, parse("int4"))
    assert result["mean_steps"] == pytest.approx(2.6 / 4)
    assert result["moved_half_step"] == 0.25
    assert result["code_changed"] == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_movement_of_pieces_is_movement_of_the_whole(name: str) -> None:
    format, before = parse(name), weights(400, 300)
    after = before + weights(400, 300, seed=1) * 0.2
    result = movement(before, after, format)
    moved = (after - before).abs().double() / step_size(before, format)
    assert result["mean_steps"] == pytest.approx(moved.mean().item())
    assert result["moved_half_step"] == pytest.approx((moved > 0.5).double().mean().item())
    assert movement(before, before, format) == {"mean_steps": 0, "moved_half_step": 0, "code_changed": 0}
    # Every value stays its code where it moves to the value that its code stands for.
    if format.kind != "nf4":
        assert movement(before, round_to(before, format), format)["code_changed"] == 0
    with pytest.raises(InputError, match="after"):
        movement(before, after[1:], format)
