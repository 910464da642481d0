"""The counts of the benchmark of training speed."""

import torch


def test_views_do_not_count_as_operators(benchmark):
    x = torch.randn(3, 4)
    with benchmark("speed").Operators() as counted:
        (x.T.contiguous() + 1).view(3, 4)
    assert counted.count == 2, "a copy and a sum"
