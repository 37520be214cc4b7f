"""Dynamic layouts: one gather equals the sum over all layouts, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from autoprompt.prompts.layout import (
    arrange,
    gumbel,
    positions,
    shorter,
    straight_through,
    temperature,
)

ROWS, PROMPT, LENGTH, SIZE = 3, 4, 9, 5
LAST = torch.tensor([8, 5, 3])  # of the row's real tokens; the rest is padding


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randn(PROMPT, SIZE, generator=generator, dtype=torch.float64)
    text = torch.randn(ROWS, LENGTH, SIZE, generator=generator, dtype=torch.float64)
    return prompt, text


def layout(prompt, text, first: int, last: int, moved: int, head_moves: bool) -> torch.Tensor:
    """One row's layout, written out: the definition."""
    ahead = PROMPT - moved
    front = prompt[moved:] if head_moves else prompt[:ahead]
    back = prompt[:moved] if head_moves else prompt[ahead:]
    return torch.cat([text[:first], front, text[first:last], back, text[last:]])


def kept(prompt, text, first: int, real: int, count: int) -> torch.Tensor:
    return torch.cat([text[:first], prompt[:count], text[first:real], prompt[count:], text[real:]])


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("head_moves", [False, True])
def test_every_position_is_the_layout_written_out(first, head_moves):
    prompt, text = drawn()
    tokens = torch.cat([prompt.expand(ROWS, -1, -1), text], dim=1)
    index = positions(PROMPT, LENGTH, first, LAST, head_moves=head_moves)
    assert index.shape == (ROWS, PROMPT + 1, PROMPT + LENGTH)
    for row in range(ROWS):
        for moved in range(PROMPT + 1):
            expected = layout(prompt, text[row], first, int(LAST[row]), moved, head_moves)
            assert tokens[row, index[row, moved]].equal(expected)


@pytest.mark.parametrize("first", [0, 1])
def test_every_length_is_the_layout_written_out(first):
    prompt, text = drawn()
    tokens = torch.cat([prompt.expand(ROWS, -1, -1), text], dim=1)
    index = shorter(PROMPT, LENGTH, first, LAST + 1)
    for row in range(ROWS):
        for count in range(PROMPT + 1):
            expected = kept(prompt, text[row], first, int(LAST[row]) + 1, count)
            assert tokens[row, index[row, count]].equal(expected)


@pytest.mark.parametrize("seed", range(4))
def test_it_equals_the_sum_over_all_layouts_in_value_and_gradient(seed):
    prompt, text = drawn(seed)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, PROMPT + 1, generator=generator, dtype=torch.float64)
    noise = gumbel((ROWS, PROMPT + 1), generator).double()
    pull = torch.randn(ROWS, PROMPT + LENGTH, SIZE, generator=generator, dtype=torch.float64)
    last = torch.randint(1, LENGTH, (ROWS,), generator=generator)
    index = positions(PROMPT, LENGTH, 1, last)
    found = []
    for naive in (False, True):
        leaves = [t.clone().requires_grad_(True) for t in (prompt, text, logits)]
        choice = straight_through(leaves[2], 0.7, noise)
        tokens = torch.cat([leaves[0].expand(ROWS, -1, -1), leaves[1]], dim=1)
        if naive:
            rows = [
                sum(
                    choice[row, moved]
                    * layout(leaves[0], leaves[1][row], 1, int(last[row]), moved, False)
                    for moved in range(PROMPT + 1)
                )
                for row in range(ROWS)
            ]
            made = torch.stack(rows)
        else:
            made = arrange(tokens, choice, index)
        (made * pull).sum().backward()
        found.append((made.detach(), *(leaf.grad for leaf in leaves)))
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-12)


def test_a_choice_is_exactly_one_hot():
    logits = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0))
    noise = gumbel((20_000, 6), torch.Generator().manual_seed(1))
    choice = straight_through(logits, 0.5, noise)
    assert choice.sum(dim=1).sub(1).abs().max() == 0
    assert ((choice == 0) | (choice == 1)).all()


def test_draws_follow_the_softmax_and_no_noise_is_the_likeliest():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    noise = gumbel((40_000, 3), torch.Generator().manual_seed(0))
    shares = straight_through(logits.expand(40_000, -1), 0.5, noise).mean(dim=0)
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=0.01, rtol=0)
    assert straight_through(logits, 0.5, None).argmax() == 2


def test_temperature_falls_as_in_the_reference_code():
    """Specification section 8, case 8: annealing 10."""
    assert temperature(0, 10) == 1.0
    assert temperature(100, 10) == pytest.approx(0.98496, abs=1e-5)
    assert temperature(500, 10) == pytest.approx(0.68677, abs=1e-5)
    assert temperature(679, 10) > 0.5
    assert temperature(680, 10) == 0.5
    assert temperature(215, 1) == 0.5
    assert temperature(2150, 100) == 0.5
