"""What the benchmark of training speed counts."""

import torch


def test_views_are_no_operators_that_cost(benchmark):
    x = torch.randn(3, 4)
    with benchmark("speed").Operators() as counted:
        (x.T.contiguous() + 1).view(3, 4)
    assert counted.count == 2, "a copy and a sum"
