"""Tensors from the host to a device, without the host waiting for the copy."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; to a GPU from page-locked memory, as other copies hold up what the host enqueues."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.contiguous().pin_memory()  # pinning cannot copy into a tensor that was expanded
    return tensor.to(device, non_blocking=device.type != "cpu")
