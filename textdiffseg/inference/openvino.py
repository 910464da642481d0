"""`OpenVINOSegmenter`: masks with OpenVINO. A window on a CPU runs 1.3 to 1.5 times as fast as with torch.

The network is converted for each new shape of its inputs: the windows, the words, the overview. That takes 3 s.
Probabilities differ from torch's by less than 1e-3.
"""

import copy
import sys
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from plans.errors import UserError
from textdiffseg.extras import require
from textdiffseg.networks.blocks import InstanceNorm
from textdiffseg.networks.model import SegmentationNetwork
from textdiffseg.overview import Overview
from textdiffseg.queries import Queries
from textdiffseg.segmenter import Segmenter

if TYPE_CHECKING:
    from openvino import CompiledModel

Backend = Literal["torch", "openvino"]
"""What computes masks on a CPU. Diffusion samples are always computed by torch."""

WINDOWS_AT_ONCE = 1  # two take as long for each
Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class OpenVINOSegmenter(Segmenter):
    """A network whose masks are computed by OpenVINO. Several threads may use it.

    Only the last conversion is kept: texts of cases have many lengths, and each would hold a network in memory.
    """

    compiled: dict[Shapes, "CompiledModel"] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def mask(self, image: Tensor, queries: Queries) -> Tensor:
        """The masks by OpenVINO. Samples are drawn by torch."""
        inputs = (image, *_tensors(queries))
        request = self._compiled(inputs).create_infer_request()
        return torch.from_numpy(request.infer([tensor.contiguous().numpy() for tensor in inputs])[0])

    def _compiled(self, inputs: Sequence[Tensor]) -> "CompiledModel":
        """The converted network for inputs of these shapes."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        with self.lock:
            if shapes not in self.compiled:
                self.compiled.clear()
                self.compiled[shapes] = _convert(self.network, inputs)
            return self.compiled[shapes]


def require_openvino(device: str) -> None:
    """Raise `UserError` if OpenVINO is not installed, or if `device` is not the CPU."""
    if device != "cpu":
        raise UserError("--backend openvino computes on the CPU. Add --device cpu, or leave out --backend.")
    require("openvino", "--backend openvino")


class _MaskGraph(nn.Module):
    """The mask of a network as a function of tensors: the image, then `_tensors` of its queries."""

    def __init__(self, network: SegmentationNetwork):
        super().__init__()
        self.network, self.segmenter = network, Segmenter.of(network)

    def forward(self, image: Tensor, *tensors: Tensor) -> Tensor:
        labels, vectors, tokens, token_mask, *overview = tensors
        queries = Queries(labels, vectors, tokens, token_mask, Overview(*overview) if overview else None)
        return next(self.segmenter.logits(image, queries))


def _tensors(queries: Queries) -> tuple[Tensor, ...]:
    """All tensors of queries."""
    tensors = queries.labels, queries.vectors, queries.tokens, queries.token_mask
    overview = queries.overview
    return tensors if overview is None else (*tensors, overview.image, overview.offsets, overview.known)


def _convert(network: SegmentationNetwork, inputs: Sequence[Tensor]) -> "CompiledModel":
    """The network as OpenVINO runs it, with torch's number of threads and in float32. `UserError` if it cannot.

    `openvino.convert_model` would do the same, but sends usage data. So does the import of OpenVINO, where its
    telemetry can be imported: it asks nobody.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it fails
    from openvino import Core, PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # shapes become constants, as intended; the tracer is deprecated
            examples = tuple(tensor.clone() for tensor in inputs)
            graph = TorchScriptPythonDecoder(_MaskGraph(_convertible(network)), example_input=examples)
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(graph))
        model.reshape(
            {port: PartialShape(list(tensor.shape)) for port, tensor in zip(model.inputs, inputs, strict=True)}
        )
        return Core().compile_model(model, "CPU", settings)
    except Exception as error:  # its errors have no common class
        raise UserError(
            f"OpenVINO cannot run this model: {str(error).strip().splitlines()[-1]}. Leave out --backend openvino."
        ) from error


def _convertible(network: SegmentationNetwork) -> SegmentationNetwork:
    """A copy of the network with torch's instance normalisation, as it cannot be converted with groups.

    OpenVINO 2025.4 and 2026.4 end with a segmentation fault on a group normalisation before a sum.
    """
    converted = copy.deepcopy(network).eval()
    for module in list(converted.modules()):
        for name, child in module.named_children():
            if isinstance(child, InstanceNorm):
                norm = nn.InstanceNorm3d(child.num_channels, child.eps, affine=True)
                norm.load_state_dict(child.state_dict())
                setattr(module, name, norm.eval())
    return converted
