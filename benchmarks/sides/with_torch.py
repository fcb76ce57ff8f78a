"""Trains in PyTorch: eager, compiled, channels-last; images on the device, as a uint8 tensor.

"torch_cuda_graphs" is compiled with mode="reduce-overhead", which replays CUDA graphs on a GPU.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.nets import IMAGE_SHAPE, NETS, Layer, output_shape
from benchmarks.sides import clock

_STEPS_A_CALL = 20
_COMPILE_MODES = {"torch_compiled": "default", "torch_cuda_graphs": "reduce-overhead"}


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Returns images per second of a plain loop, its loss compiled by `torch.compile` or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layout = torch.channels_last if way == "torch_channels_last" else torch.contiguous_format
    pixels = torch.from_numpy(clock.images()).permute(0, 3, 1, 2).to(device, memory_format=layout)
    model = _network(NETS[net]).to(device)
    nn.utils.convert_conv2d_weight_memory_format(model, layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.float() / 255
        if net != "vae":
            return torch.nn.functional.mse_loss(model(batch), batch)
        logits = model(torch.bernoulli(batch))
        kl = next(module.kl for module in model if isinstance(module, _Sample))
        nats = (torch.nn.functional.softplus(logits) - batch * logits).flatten(1).sum(1)
        return (nats + kl).mean()

    if way in _COMPILE_MODES:
        loss_of = torch.compile(loss_of, mode=_COMPILE_MODES[way])

    def steps() -> int:
        order = torch.randint(len(pixels), (_STEPS_A_CALL, batch_size), device=device)
        for positions in order:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(pixels[positions])
            loss.backward()
            optimizer.step()
        loss.item()
        return order.numel()

    return clock.rate(steps, seconds)


class _Sample(nn.Module):
    """Samples the posterior from its mean and log variance; keeps its KL divergence in `kl`."""

    kl: torch.Tensor

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        mean, log_variance = inputs.chunk(2, dim=1)
        self.kl = (mean.square() + log_variance.exp() - log_variance - 1).sum(1) / 2
        return mean + torch.exp(log_variance / 2) * torch.randn_like(mean)


_ACTIVATIONS: dict[str, list[type[nn.Module]]] = {
    "relu": [nn.ReLU],
    "tanh": [nn.Tanh],
    "sigmoid": [nn.Sigmoid],
    "linear": [],
}


_MODULES: dict[str, Callable[[int, Layer], nn.Module]] = {  # of a number of inputs and a layer
    "dense": lambda inputs, layer: nn.Linear(inputs, layer.size),
    "conv": lambda inputs, layer: nn.Conv2d(inputs, layer.size, 3, layer.stride, padding=1),
    "transposed": lambda inputs, layer: nn.ConvTranspose2d(
        inputs, layer.size, 3, layer.stride, padding=1, output_padding=1
    ),
    "pool": lambda _, layer: nn.MaxPool2d(layer.stride, ceil_mode=True),
    "up": lambda _, layer: nn.Upsample(scale_factor=layer.stride),
    "flatten": lambda *_: nn.Flatten(),
    "sample": lambda *_: _Sample(),
    "map": lambda _, layer: nn.Unflatten(1, (layer.size, 7, 7)),
}


def _network(stack: list[Layer]) -> nn.Sequential:
    modules: list[nn.Module] = []
    shape = IMAGE_SHAPE
    for layer in stack:
        modules.append(_MODULES[layer.kind](shape[-1], layer))
        modules += [activation() for activation in _ACTIVATIONS[layer.activation]]
        shape = output_shape(layer, shape)
    if len(shape) == 1:
        modules.append(nn.Unflatten(1, (1, 28, 28)))
    return nn.Sequential(*modules)
