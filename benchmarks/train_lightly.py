"""SimCLR by lightly on PyTorch, the other half of `benchmarks.train_beside_lightly`.

.venv-peer/bin/python benchmarks/train_lightly.py --split=split.json --out=out.npz \
    --epochs=3 --batch_size=512 --precision=bfloat16 --compile

Runs in an environment of its own (`make peer`) and imports nothing of tfssl. Views,
head and loss are lightly's, the ResNet is torchvision's, in `channels_last`; bfloat16
is autocast's. Weights of norms and biases do not decay. Every epoch opens its files, in
`--workers` processes; `--arrays` decodes all of them once. Prints images per second of
every epoch, and writes features of the training and of the held-out images.
"""

import lightly_folder
import lightly_views
import step_lightly
import step_torch
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import heads
from lightly.utils.lars import LARS
from torch import nn


def _optimizer(network, options):
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if options.optimizer == "lars":
        return LARS(groups, lr=options.learning_rate, momentum=0.9)
    fused = lightly_folder.KIND == "cuda"
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9, fused=fused)


def train(loader, options):
    """The encoder after the training."""
    encoder = step_lightly.Encoder(options)
    hidden = options.projection_hidden or encoder.dim
    head = heads.SimCLRProjectionHead(encoder.dim, hidden, 128)
    network = nn.Sequential(encoder, head).to(lightly_folder.KIND)
    network.to(memory_format=torch.channels_last)
    forward = torch.compile(network, dynamic=False) if options.compile else network
    loss_of = NTXentLoss(options.temperature)
    optimizer = _optimizer(network, options)
    warmup = options.warmup_epochs * len(loader)
    steps = options.epochs * len(loader)

    def step(number, epoch, views):
        rate = lightly_folder.rate(options.learning_rate, number, warmup, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with step_torch.autocast(options.precision):
            z = forward(torch.cat(views))
        loss = loss_of(*z.float().chunk(2))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss

    lightly_folder.fit(loader, options, step)
    return encoder


def main():
    parser = lightly_folder.parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--recipe", default="simclr_cifar10", help="of views, by its name in tfssl")
    add("--size", type=int, default=32, help="pixels of a view")
    add("--arrays", action="store_true", help="decode all files once")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--compile", action="store_true", help="the network, by torch.compile")
    add("--optimizer", choices=("sgd", "lars"), default="sgd")
    add("--learning_rate", type=float, default=0.12, help="after the warm-up")
    add("--weight_decay", type=float, default=5e-4)
    add("--warmup_epochs", type=float, default=0.5)
    add("--temperature", type=float, default=0.1)
    add("--projection_hidden", type=int, help="default: as many as features")
    options = parser.parse_args()
    views = lightly_views.transform_of(options.recipe, options.size)
    lightly_folder.run(views, train, options)


if __name__ == "__main__":
    main()
