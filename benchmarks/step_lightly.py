"""Training steps of lightly on PyTorch, the other half of `benchmarks.train_step`.

.venv-peer/bin/python benchmarks/step_lightly.py simclr:bfloat16:lars --modes compile

torchvision's ResNet with lightly's heads, losses and LARS; what lightly does not have
(loss and predictor of MoCo v3, DeepCluster's classifier) is as in the papers' code.
Runs in an environment of its own (`make peer`) and imports nothing of tfssl. Cases are
those of `step_tfssl.py`. A mode is one or several of these words with "+" between them:

- eager, compile: PyTorch as it is, or networks with `torch.compile`.
- host: views come from (pinned) host memory in each step.
- bare: the encoder alone, with what passes it in a step of the method.
- contiguous: memory laid out by channel, in place of `channels_last`.
"""

import copy
import functools
import gc

import peer_torchvision  # noqa: F401  Before torchvision.
import step_timing
import step_torch
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.lars import LARS
from torch import nn
from torch.nn import functional
from torchvision.models import resnet

_BLOCKS = {
    18: (resnet.BasicBlock, (2, 2, 2, 2)),
    34: (resnet.BasicBlock, (3, 4, 6, 3)),
    50: (resnet.Bottleneck, (3, 4, 6, 3)),
    101: (resnet.Bottleneck, (3, 4, 23, 3)),
}
_WORDS = ("eager", "compile", "host", "bare", "contiguous")
_CLUSTERS = 10_000
_KIND = step_torch.KIND


class Encoder(resnet.ResNet):
    """torchvision's ResNet with a width, perhaps the CIFAR stem, and no classifier."""

    def __init__(self, options):
        self.width = options.width
        block, layers = _BLOCKS[options.depth]
        super().__init__(block, layers)
        first = int(64 * options.width)
        if options.stem == "cifar":
            self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.fc = nn.Identity()
        self.dim = first * 8 * block.expansion

    def _make_layer(self, block, planes, *args, **kwargs):
        if planes == 64:
            self.inplanes = int(64 * self.width)
        return super()._make_layer(block, int(planes * self.width), *args, **kwargs)


def _layout(parts):
    return torch.contiguous_format if "contiguous" in parts else torch.channels_last


def _moco_v3_predictor():
    hidden = nn.BatchNorm1d(4096), nn.ReLU()
    return heads.ProjectionHead([(256, 4096, *hidden), (4096, 256, None, None, False)])


def _parts(method, dim, options):
    """`(head on the encoder, head on top of it or None, loss)`."""
    if method == "simclr":
        return heads.SimCLRProjectionHead(dim, dim, 128), None, NTXentLoss(0.1)
    if method == "byol":
        top = heads.BYOLPredictionHead(256, 4096, 256)
        return heads.BYOLProjectionHead(dim, 4096, 256), top, NegativeCosineSimilarity()
    if method == "moco_v2":
        loss = NTXentLoss(0.2, memory_bank_size=(options.queue, 128))
        return heads.MoCoProjectionHead(dim, dim, 128), None, loss
    if method == "moco_v3":
        head = heads.MoCoProjectionHead(dim, 4096, 256, batch_norm=True)
        return head, _moco_v3_predictor(), nn.CrossEntropyLoss()
    if method == "swav":
        top = heads.SwaVPrototypes(128, 3000)
        return heads.SwaVProjectionHead(dim, 2048, 128), top, SwaVLoss()
    head = nn.Sequential(nn.ReLU(), nn.Linear(dim, _CLUSTERS))
    return head, None, nn.CrossEntropyLoss()


class Losses:
    """The loss of a step of each method, from its views; `trained` are its weights."""

    def __init__(self, case, parts, options):
        bare = step_timing.BARE in parts
        encoder = Encoder(options)
        head, self.top, self.criterion = _parts(case.method, encoder.dim, options)
        network = encoder if bare else nn.Sequential(encoder, head)
        self.network = network.to(_KIND).to(memory_format=_layout(parts))
        self.trained = list(network.parameters())
        self.criterion.to(_KIND)
        if self.top is not None and not bare:
            self.trained += list(self.top.to(_KIND).parameters())
        # SwAV has views of two sizes: by itself the second compiles for any size.
        compiled = functools.partial(torch.compile, dynamic=False)
        ready = compiled if "compile" in parts else lambda module: module
        self.forward, self.target = ready(self.network), None
        if step_timing.PASSES[case.method][1]:
            self.target = copy.deepcopy(self.network)
            deactivate_requires_grad(self.target)
            self.follow = ready(self.target)
        self._labels = torch.arange(options.batch, device=_KIND)
        self._passes = step_timing.PASSES[case.method]
        self.of = self.bare if bare else getattr(self, case.method)
        self._precision = case.precision

    def autocast(self):
        return step_torch.autocast(self._precision)

    def bare(self, views):
        trained, followed = self._passes
        loss = 0
        with self.autocast():
            with torch.no_grad():
                for which in followed:
                    self.follow(torch.cat([views[i] for i in which]))
            for which in trained:
                features = self.forward(torch.cat([views[i] for i in which]))
                loss = loss + features.float().square().mean()
        return loss

    def simclr(self, views):
        with self.autocast():
            z = self.forward(torch.cat(views))
        return self.criterion(*z.float().chunk(2))

    def byol(self, views):
        update_momentum(self.network, self.target, 0.996)
        with self.autocast():
            p = [self.top(self.forward(view)).float() for view in views]
            with torch.no_grad():
                t = [self.follow(view).float() for view in views]
        return 0.5 * (self.criterion(p[0], t[1]) + self.criterion(p[1], t[0]))

    def moco_v2(self, views):
        update_momentum(self.network, self.target, 0.999)
        with self.autocast():
            query = self.forward(views[0])
            with torch.no_grad():
                key = self.follow(views[1])
        return self.criterion(query.float(), key.float())

    def moco_v3(self, views):
        update_momentum(self.network, self.target, 0.99)
        unit = functional.normalize
        with self.autocast():
            queries = [unit(self.top(self.forward(view)).float()) for view in views]
            with torch.no_grad():
                keys = [unit(self.follow(view).float()) for view in views]
        pairs = zip(queries, reversed(keys))
        return 2 * sum(self.criterion(q @ k.T, self._labels) for q, k in pairs)

    def swav(self, views):
        self.top.normalize()
        with self.autocast():
            outputs = [self.forward(torch.cat(v)) for v in (views[:2], views[2:])]
            scores = [self.top(functional.normalize(z, dim=1)) for z in outputs]
        high, low = (score.float() for score in scores)
        return self.criterion(list(high.chunk(2)), list(low.chunk(6)))

    def deepcluster(self, views):
        with self.autocast():
            logits = self.forward(views[0])
        return self.criterion(logits.float(), self._labels % _CLUSTERS)


def _views(case, parts, options):
    """A function that gives the views of a step, on the device."""
    large, small = step_timing.VIEWS[case.method]
    views = [
        torch.randn(options.batch, 3, side, side).to(memory_format=_layout(parts))
        for side in [options.size] * large + [options.small] * small
    ]
    if "host" not in parts:
        views = [view.to(_KIND) for view in views]
        return lambda: views
    if _KIND == "cuda":
        views = [view.pin_memory() for view in views]
    return lambda: [view.to(_KIND, non_blocking=True) for view in views]


def make_step(case, parts, options):
    for word in parts:
        if word not in _WORDS:
            raise ValueError(f"{word!r} received in a mode, expected some of {_WORDS}")
    gc.collect()
    torch._dynamo.reset()
    torch.manual_seed(0)
    losses, views = Losses(case, parts, options), _views(case, parts, options)
    if case.optimizer == "lars":
        optimizer = LARS(losses.trained, lr=0.3, momentum=0.9, weight_decay=1e-6)
    else:
        optimizer = torch.optim.SGD(
            losses.trained, lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True
        )

    def loss():
        return losses.of(views())

    return step_torch.step(loss, optimizer, losses.trained, case.precision)


def main():
    parser = step_timing.parser(__doc__)
    parser.set_defaults(modes=["eager", "compile"])
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    step_timing.Half("lightly", make_step, step_torch.device(), options).main()


if __name__ == "__main__":
    main()
