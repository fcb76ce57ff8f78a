"""PyTorch: eager, compiled, channels-last; the images resident, as a tensor of bytes.

"torch_cuda_graphs" is compiled with mode="reduce-overhead", which on a GPU replays CUDA graphs.
"""

import torch
from torch import nn

from benchmarks.nets import NETS, Layer
from benchmarks.sides import clock

_STEPS_A_CALL = 20
_MODES = {"torch_compiled": "default", "torch_cuda_graphs": "reduce-overhead"}  # of torch.compile


def measure(way: str, net: str, batch_size: int, seconds: float) -> float:
    """Images per second of a plain loop, its step compiled by `torch.compile` or not."""
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

    compiled = torch.compile(loss_of, mode=_MODES[way]) if way in _MODES else loss_of

    def steps() -> None:
        order = torch.randint(len(pixels), (_STEPS_A_CALL, batch_size), device=device)
        for positions in order:
            optimizer.zero_grad(set_to_none=True)
            loss = compiled(pixels[positions])
            loss.backward()
            optimizer.step()
        loss.item()

    return clock.rate(steps, _STEPS_A_CALL * batch_size, seconds)


class _Sample(nn.Module):
    """A sample of the posterior whose mean and log variance come in; keeps its KL divergence."""

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


def _network(stack: list[Layer]) -> nn.Sequential:
    modules: list[nn.Module] = []
    size = 1  # channels, or units once flat
    flat = False
    for layer in stack:
        match layer.kind:
            case "dense":
                modules.append(nn.Linear(size, layer.size))
            case "conv":
                modules.append(nn.Conv2d(size, layer.size, 3, layer.stride, padding=1))
            case "transposed":
                modules.append(
                    nn.ConvTranspose2d(size, layer.size, 3, layer.stride, 1, output_padding=1)
                )
            case "pool":
                modules.append(nn.MaxPool2d(layer.stride, ceil_mode=True))
            case "up":
                modules.append(nn.Upsample(scale_factor=layer.stride))
            case "flatten":
                modules.append(nn.Flatten())
                flat = True
                size *= 49 if len(modules) > 1 else 784
            case "sample":
                modules.append(_Sample())
            case "map":
                modules.append(nn.Unflatten(1, (layer.size, 7, 7)))
                flat = False
        size = layer.size or size
        modules += [activation() for activation in _ACTIVATIONS[layer.activation]]
    if flat:
        modules.append(nn.Unflatten(1, (1, 28, 28)))
    return nn.Sequential(*modules)
