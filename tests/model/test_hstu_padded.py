"""HSTU over padded histories, which can be traced, against the packed encoder."""

from __future__ import annotations

import pytest
import torch

from recbole_kd.model.hstu_encoder import HSTUEncoder, HSTUSizes
from recbole_kd.model.hstu_packing import N_BUCKETS, bucket_of
from recbole_kd.model.hstu_padded import PaddedHSTU, bucket_starts


@pytest.mark.parametrize("has_times", [True, False])
@pytest.mark.parametrize(("position_bias", "time_bias"), [(True, True), (False, True), (True, False), (False, False)])
def test_vectors_are_those_of_the_packed_encoder(position_bias: bool, time_bias: bool, has_times: bool) -> None:
    torch.manual_seed(3)
    sizes = HSTUSizes(12, 8, 2, 2, 4, 6, position_bias=position_bias, time_bias=time_bias)
    encoder = HSTUEncoder(50, sizes).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.mul_(3.0)  # so that the biases and the order of the items matter
    lengths = torch.tensor([12, 1, 5, 9, 2])
    there = torch.arange(12) < lengths.unsqueeze(1)
    items = torch.randint(1, 50, (5, 12)) * there
    times = (torch.randint(0, 10**8, (5, 12)).sort(1).values + 10**9) * there
    asked = times.amax(1) + torch.tensor([0, 60, 3600, 10**6, 10**7])
    given = (items, lengths, times, asked) if has_times else (items, lengths)
    with torch.no_grad():
        expected = encoder(*given).last()
        found = PaddedHSTU(encoder, has_times)(*given)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def test_starts_of_the_buckets_are_where_the_bucket_begins() -> None:
    starts = bucket_starts()
    assert len(starts) == N_BUCKETS + 2 and starts[0] == 1 and bool((starts.diff() > 0).all())
    inside = starts[1:-1]
    below = torch.nextafter(inside, torch.tensor(0.0))
    assert bucket_of(inside).tolist() == list(range(1, N_BUCKETS + 1))
    assert bucket_of(below).tolist() == list(range(N_BUCKETS))
