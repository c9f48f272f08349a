"""Codecs of hidden states below two bytes a channel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hf_distill.errors import CacheMismatch, DistillationError
from hf_distill.teachers.cache import codecs, rotation, rounding
from hf_distill.teachers.cache.bits import GROUP
from hf_distill.teachers.cache.quantised import Int8, Rotated
from hf_distill.teachers.cache.rotation import ERRORS, STEPS, Rotation, deal_out, nearest

WIDTH, CLASSES = 24, 40


def correlated(rows: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Rows around a mean, their covariance of a falling spectrum in oblique axes; the axes are of seed 0."""
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(0)) * 0.8 ** torch.arange(width)
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed + 1)) @ mixing.T + torch.linspace(
        -1, 1, width
    )


def weights(width: int = WIDTH) -> Tensor:
    return torch.randn(width, CLASSES, generator=torch.Generator().manual_seed(9)) / 2.0


def linear(rows: Tensor) -> Tensor:
    """A head whose logits have a bias."""
    return rows @ weights() + torch.linspace(-1.0, 1.0, CLASSES)


def capped(rows: Tensor) -> Tensor:
    """A head with soft-capped logits."""
    return 8.0 * torch.tanh(linear(rows) / 8.0)


def divergence(head: Callable[[Tensor], Tensor], rows: Tensor, read: Tensor) -> Tensor:
    log_p, log_q = head(rows).log_softmax(-1), head(read).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def fitted(bits: float, head: Callable[[Tensor], Tensor] | None = None, rows: int = 400) -> Rotated:
    codec = Rotated(bits=bits)
    codec.fit(correlated(rows), head)
    return codec


def bytes_of(parts: dict[str, Tensor]) -> int:
    return sum(part[0].numel() * part.element_size() for part in parts.values())


# ---- int8 ----


def test_int8_errs_by_half_a_step_of_row_and_channel() -> None:
    sample = correlated(300)
    codec = Int8()
    codec.fit(sample)
    rows = correlated(20, seed=5)
    read = codec.decode(codec.encode(rows))
    ranges = sample.abs().max(0).values
    half_a_step = (rows / ranges).abs().max(1, keepdim=True).values / 127 * ranges / 2
    assert ((read - rows).abs() <= half_a_step * 1.1).all()  # the scale itself is rounded to float16
    assert (read - rows).abs().max() > 0


def test_a_large_channel_does_not_take_the_range_of_the_others() -> None:
    sample = correlated(300)
    large = sample.clone()
    large[:, 3] *= 1000
    plain, other = Int8(), Int8()
    plain.fit(sample)
    other.fit(large)
    read, beside = plain.decode(plain.encode(sample)), other.decode(other.encode(large))
    others = torch.arange(WIDTH) != 3
    torch.testing.assert_close(beside[:, others], read[:, others])


def test_int8_takes_rows_that_the_sample_did_not_foresee() -> None:
    sample = correlated(50)
    sample[:, 7] = 0
    codec = Int8()
    codec.fit(sample)
    rows = torch.stack([torch.zeros(WIDTH), 30 * torch.ones(WIDTH), -300 * correlated(1)[0]])
    read = codec.decode(codec.encode(rows))
    assert (read[0] == 0).all()
    assert ((read - rows).abs() <= rows.abs().amax(1, keepdim=True) / 10).all()


def test_int8_gives_a_channel_that_the_sample_hardly_saw_some_range() -> None:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(200, 8, generator=generator)
    sample[:, 3] = 0
    sample[5, 3] = 1e-6
    codec = Int8()
    codec.fit(sample)
    rows = torch.randn(3, 8, generator=generator)
    rows[1, 3] = 9.0
    read = codec.decode(codec.encode(rows))
    others = torch.arange(8) != 3
    assert ((read - rows)[0].abs() <= 0.1).all()
    assert (read[1, others] != 0).sum() > 3
    assert read[1, 3] == pytest.approx(9.0, rel=0.01)


def test_int8_ranges_of_channels_that_are_seen_stay_those_of_the_sample() -> None:
    sample = correlated(300)
    sample[:, 2] *= 50
    codec = Int8()
    codec.fit(sample)
    ranges = sample.abs().amax(0)
    wide = ranges > 0.1 * ranges.median()
    assert torch.equal(codec.state()["ranges"][wide], ranges[wide])


def test_int8_refuses_a_row_whose_scale_float16_does_not_hold() -> None:
    codec = Int8()
    codec.load_state({"ranges": torch.tensor([1.0, 1e-6, 1.0])})
    codec.encode(torch.tensor([[1.0, 1e-6, 1.0]]))
    for number in (9.0, float("-inf")):
        with pytest.raises(DistillationError, match=r"int8: a row of the teacher is .* bfloat16 or float32"):
            codec.encode(torch.tensor([[1.0, 1e-6, 1.0], [1.0, number, 1.0]]))


def test_int8_counts_its_bytes_and_keeps_its_ranges() -> None:
    codec = codecs.make("int8", {})
    codec.fit(correlated(50))
    parts = codec.encode(correlated(4, seed=3))
    assert codec.bytes_per_row(WIDTH) == WIDTH + 2 == bytes_of(parts)
    again = Int8()
    again.load_state(codec.state())
    torch.testing.assert_close(again.decode(parts), codec.decode(parts), rtol=0, atol=0)
    with pytest.raises(CacheMismatch, match="int8"):
        Int8().load_state({"numbers": torch.ones(3)})


# ---- levels, bits and bytes ----


@pytest.mark.parametrize("bits", range(1, 9))
def test_steps_and_errors_are_those_of_a_normal_law(bits: int) -> None:
    """By a sum over a fine grid of the density."""
    grid = torch.linspace(-9, 9, 90001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])

    def error(step: float) -> float:
        levels = (torch.arange(2**bits, dtype=torch.float64) - (2**bits - 1) / 2) * step
        middle = (levels[1:] + levels[:-1]) / 2
        return float(((levels[torch.bucketize(grid, middle)] - grid).square() * density).sum())

    found = error(STEPS[bits])
    assert found == pytest.approx(ERRORS[bits], rel=0.01)
    assert found <= min(error(0.98 * STEPS[bits]), error(1.02 * STEPS[bits])) * 1.0005


def test_the_error_of_a_uniform_law_is_a_twelfth_of_the_step_squared() -> None:
    step, most = torch.tensor(0.3), torch.tensor(15.0)
    values = (torch.rand(200_000, generator=torch.Generator().manual_seed(1)) - 0.5) * 16 * step
    errors = (nearest(values, step, most) - most / 2) * step - values
    assert errors.square().mean().item() == pytest.approx(0.3**2 / 12, rel=0.01)


def test_bytes_go_where_they_take_most_away() -> None:
    """Every other way of dealing out as many leaves more."""
    variances = torch.tensor([30.0, 4.0, 1.0, 0.2]).repeat_interleave(GROUP)
    for num_bytes in (1, 3, 6, 11, 20, 32):
        dealt = deal_out(variances, num_bytes).tolist()
        each = [30.0, 4.0, 1.0, 0.2]

        def left(bits: tuple[int, ...], each: list[float] = each) -> float:
            return sum(variance * ERRORS[number] for variance, number in zip(each, bits, strict=True))

        ways = (bits for bits in itertools.product(range(9), repeat=4) if sum(bits) == num_bytes)
        assert sum(dealt) == num_bytes
        assert left(tuple(dealt)) == pytest.approx(min(map(left, ways)))


def with_bits(bits: list[int]) -> Rotation:
    axes = GROUP * len(bits)
    unit = torch.eye(axes)
    tables = {"centre": torch.zeros(axes), "forward": unit, "backward": unit, "spreads": torch.ones(axes)}
    return Rotation({**tables, "bits": torch.tensor(bits, dtype=torch.uint8), "length": torch.ones(1)})


def test_levels_survive_their_bytes() -> None:
    bits = [8, 7, 6, 6, 5, 4, 3, 3, 3, 2, 1, 0, 0]
    made = with_bits(bits)
    most = torch.tensor([2**each - 1 for each in bits]).repeat_interleave(GROUP)
    drawn = torch.rand(50, len(most), generator=torch.Generator().manual_seed(2)) * (most + 1)
    levels = torch.minimum(drawn.floor(), most)
    packed = made.pack(levels)
    assert (packed.dtype, packed.shape) == (torch.uint8, (50, sum(bits)))
    assert torch.equal(made.unpack(packed), levels[:, : GROUP * 11])
    assert len(made.unpack(packed[:0])) == 0


def test_bytes_are_as_documented() -> None:
    """Five axes' bits are single bits, then fours."""
    levels = [21, 0, 31, 1, 16, 2, 15, 7]
    single = sum((level & 1) << place for place, level in enumerate(levels))
    fours = [(first >> 1) | (second >> 1) << 4 for first, second in zip(levels[::2], levels[1::2], strict=True)]
    assert with_bits([5]).pack(torch.tensor([levels]).float()).tolist() == [[single, *fours]]


# ---- axes ----


def test_without_a_head_axes_are_the_principal_ones() -> None:
    sample = correlated(500)
    made = Rotation.fitted(sample, None, 12)
    identity = torch.eye(WIDTH)
    torch.testing.assert_close(made.forward.T @ made.forward, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(made.forward @ made.backward, identity, atol=1e-5, rtol=0)
    axes = (sample - sample.mean(0)) @ made.forward
    assert torch.linalg.svdvals(axes)[0] ** 2 / 500 == pytest.approx(float(made.spreads[0] ** 2), rel=0.01)
    assert (made.spreads[1:] <= made.spreads[:-1]).all()


def test_the_mean_sensitivity_of_the_axes_is_the_identity() -> None:
    """The sensitivity is the Hessian of the divergence, which autograd gives."""
    sample = correlated(60)
    made = Rotation.fitted(sample, linear, 12)
    hessians = []
    for row in sample.double():
        bias = torch.linspace(-1.0, 1.0, CLASSES, dtype=torch.float64)
        law = (row @ weights().double() + bias).log_softmax(-1)

        def lost(error: Tensor, row: Tensor = row, law: Tensor = law, bias: Tensor = bias) -> Tensor:
            return (law.exp() * (law - ((row + error) @ weights().double() + bias).log_softmax(-1))).sum()

        hessians.append(torch.autograd.functional.hessian(lost, torch.zeros_like(row)))
    back = made.backward.double()
    seen = back @ torch.stack(hessians).mean(0) @ back.T
    torch.testing.assert_close(seen, torch.eye(WIDTH, dtype=torch.float64), atol=2e-3, rtol=0)
    axes = (sample - sample.mean(0)) @ made.forward
    covariance = axes.T @ axes / 60
    torch.testing.assert_close(covariance, made.spreads.square().diag(), atol=1e-5, rtol=1e-3)


def test_slopes_are_the_weights_of_a_head_with_a_bias() -> None:
    slopes = rotation.head_slopes(linear, correlated(1)[0], torch.full((1,), 30.0))
    torch.testing.assert_close(slopes, weights(), atol=1e-5, rtol=0)


# ---- rounding ----


def in_turn(axes: Tensor, metric: Tensor, steps: Tensor, most: Tensor) -> list[float]:
    """Axis by axis from the last, every level is tried with the axes before it free: the dearest way to the same."""
    levels: list[float] = []
    errors = torch.zeros(0, dtype=torch.float64)
    for axis in range(len(axes) - 1, -1, -1):
        costs = []
        for level in range(int(most[axis]) + 1):
            fixed = torch.cat([((level - most[axis] / 2) * steps[axis] - axes[axis]).reshape(1), errors])
            cross, own = metric[axis:, :axis], metric[axis:, axis:]
            free = -torch.linalg.solve(metric[:axis, :axis], cross.T @ fixed)
            costs.append(float(fixed @ own @ fixed + 2 * fixed @ cross @ free + free @ metric[:axis, :axis] @ free))
        best = min(range(len(costs)), key=costs.__getitem__)
        levels.insert(0, float(best))
        errors = torch.cat([((best - most[axis] / 2) * steps[axis] - axes[axis]).reshape(1), errors])
    return levels


def test_rounding_in_turn_finds_the_level_that_leaves_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "BLOCK", 5)
    generator = torch.Generator().manual_seed(4)
    axes = torch.randn(3, 17, generator=generator)
    factor = torch.randn(3, 17, 6, generator=generator)
    steps = 0.2 + torch.rand(17, generator=generator)
    most = torch.tensor([7.0] * 6 + [3.0] * 6 + [1.0] * 3 + [0.0] * 2)
    found = rounding._round(axes, factor, steps, most)
    for row in range(3):
        metric = torch.eye(17, dtype=torch.float64) + factor[row].double() @ factor[row].double().T
        assert found[row].tolist() == in_turn(axes[row].double(), metric, steps.double(), most.double())


@pytest.mark.parametrize(("head", "part"), [(linear, 0.75), (capped, 0.92)])
@pytest.mark.parametrize("bits", [1.5, 3.0, 5.0])
def test_rounding_for_the_head_loses_less(head: Callable[[Tensor], Tensor], part: float, bits: float) -> None:
    rows = correlated(200, seed=7)
    codec = fitted(bits, head)
    guided = divergence(head, rows, codec.decode(codec.encode(rows))).mean()
    blind = Rotated(bits=bits)
    blind.load_state(codec.state())
    plain = divergence(head, rows, blind.decode(blind.encode(rows))).mean()
    assert guided < part * plain


def test_a_head_that_outweighs_all_is_rounded_for_as_well() -> None:
    """Sensitivities beyond what float32 tells from the identity, or of nothing."""

    def sharp(rows: Tensor) -> Tensor:
        return 1e4 * linear(rows)

    def flat(rows: Tensor) -> Tensor:
        return rows.new_zeros(len(rows), CLASSES)

    rows = correlated(100, seed=7)
    for head in (sharp, flat):
        codec = fitted(3.0, head, rows=60)
        assert codec.decode(codec.encode(rows)).isfinite().all()


# ---- the codec ----


@pytest.mark.parametrize("width", [24, 30, 7])
@pytest.mark.parametrize("bits", [0.25, 1.0, 2.7, 8.0])
def test_rotated_counts_its_bytes(width: int, bits: float) -> None:
    codec = Rotated(bits=bits)
    codec.fit(correlated(100, width))
    parts = codec.encode(correlated(9, width, seed=3))
    assert bytes_of(parts) == codec.bytes_per_row(width) == math.ceil(bits * width / 8) + 2
    assert codec.decode(parts).shape == (9, width)
    assert len(codec.decode(codec.encode(correlated(9, width)[:0]))) == 0


def test_more_bits_lose_less() -> None:
    rows = correlated(300, seed=7)
    lost = []
    for bits in (1.0, 2.0, 3.0, 4.0):
        codec = fitted(bits, linear)
        lost.append(float(divergence(linear, rows, codec.decode(codec.encode(rows))).mean()))
    assert all(after < before / 2 for before, after in itertools.pairwise(lost))
    assert lost[-1] < 1e-3


def test_a_row_is_written_alone() -> None:
    codec = fitted(4.0)
    rows = correlated(30, seed=7)
    together = codec.encode(rows)
    for row in (0, 11, 29):
        alone = codec.encode(rows[row : row + 1])
        torch.testing.assert_close(codec.decode(alone)[0], codec.decode(together)[row], rtol=1e-3, atol=1e-3)


def test_a_later_run_writes_the_same() -> None:
    codec = fitted(3.0, linear)
    rows = correlated(40, seed=7)
    again = Rotated(**codec.settings())
    again.load_state({name: table.clone() for name, table in codec.state().items()})
    again.place(torch.device("cpu"))
    again.guide(linear)
    before, after = codec.encode(rows), again.encode(rows)
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(again.decode(after), codec.decode(before), rtol=0, atol=0)


def test_reading_does_not_follow_the_students_precision() -> None:
    codec = fitted(8.0)
    parts = codec.encode(correlated(40, seed=7))
    with torch.autocast("cpu", torch.bfloat16):
        under = codec.decode(parts)
    torch.testing.assert_close(under, codec.decode(parts), rtol=0, atol=0)


def test_rows_far_outside_the_sample_come_back_in_their_direction() -> None:
    codec = fitted(6.0)
    rows = correlated(20, seed=7)
    far = rows.mean(0) + 50 * (rows - rows.mean(0))
    read = codec.decode(codec.encode(far))
    cosines = torch.cosine_similarity(read - rows.mean(0), far - rows.mean(0))
    assert cosines.min() > 0.8


@pytest.mark.parametrize("bits", [0, 8.5, float("nan"), "4", True])
def test_bits_out_of_range_are_refused(bits: object) -> None:
    with pytest.raises(DistillationError, match="bits is"):
        codecs.make("rotated", {"bits": bits})


def test_a_sample_too_small_for_axes_is_refused() -> None:
    with pytest.raises(DistillationError, match="47 rows, and states are 24 wide: axes need 48"):
        Rotated().fit(correlated(47), linear)


def test_rows_before_tables_are_refused() -> None:
    with pytest.raises(DistillationError, match="before fit"):
        Rotated().encode(correlated(2))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("bits", lambda table: table.flip(0) + torch.arange(len(table), dtype=torch.uint8)),
        ("bits", lambda table: table + 9),
        ("bits", lambda table: table[:-1]),
        ("forward", lambda table: table[:, :-1]),
        ("spreads", lambda table: table[:-1]),
        ("centre", lambda table: table[:-1]),
        ("length", None),
    ],
)
def test_damaged_tables_are_refused(name: str, damage: Callable[[Tensor], Tensor] | None) -> None:
    tables = fitted(3.0).state()
    if damage is None:
        del tables[name]
    else:
        tables[name] = damage(tables[name])
    with pytest.raises(CacheMismatch, match="rotated"):
        Rotated().load_state(tables)
