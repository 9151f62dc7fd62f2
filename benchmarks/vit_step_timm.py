"""Training steps of timm's transformers, the other half of `benchmarks.vit_step`.

torch/bin/python benchmarks/vit_step_timm.py tiny:32 --modes eager compile

Runs in an environment of its own and imports nothing of tfssl. A mode is `eager` or
`compile` (`torch.compile`); bfloat16 and float16 are autocast's.
"""

import gc

import peer_torchvision  # noqa: F401  Before timm, which imports torchvision.
import step_timing
import step_torch
import timm
import torch
from torch.nn import functional

_MODES = ("eager", "compile")
_KIND = step_torch.KIND


def make_step(case, parts, options):
    if len(parts) != 1 or parts[0] not in _MODES:
        raise ValueError(f"{'+'.join(parts)!r} received, expected one of {_MODES}")
    gc.collect()
    torch.manual_seed(0)
    network = timm.create_model(
        f"vit_{case.network}_patch16_224",
        img_size=case.size,
        patch_size=case.patch,
        num_classes=step_timing.CLASSES,
    ).to(_KIND)
    network.train()
    forward = network
    if "compile" in parts:
        torch._dynamo.reset()
        forward = torch.compile(network)
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.05, fused=True)
    images = torch.randn(options.batch, 3, case.size, case.size, device=_KIND)
    labels = torch.arange(options.batch, device=_KIND) % step_timing.CLASSES

    def loss():
        with step_torch.autocast(case.precision):
            logits = forward(images)
        return functional.cross_entropy(logits.float(), labels)

    return step_torch.step(loss, optimizer, weights, case.precision)


def main():
    parser = step_timing.vit_parser(__doc__)
    parser.set_defaults(modes=["eager"])
    options = parser.parse_args()
    device, kind = step_torch.device(), step_timing.VitCase
    step_timing.Half("timm", make_step, device, options, kind).main()


if __name__ == "__main__":
    main()
