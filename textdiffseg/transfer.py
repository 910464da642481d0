"""Copies of tensors from the host to a device. The host does not wait for the copy."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`. It is copied to a GPU from page-locked memory, as other copies block the host."""
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.contiguous().pin_memory()  # pinning needs a contiguous tensor
    return tensor.to(device, non_blocking=device.type != "cpu")
