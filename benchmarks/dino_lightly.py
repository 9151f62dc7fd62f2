"""DINO by lightly on PyTorch, the other half of `benchmarks.dino_beside_lightly`.

Runs in an environment of its own (`make peer`) and imports nothing of tfssl. The
settings are those of `dino_cifar10_small_resnet18.flags`; network, head, loss, views
and momentum are torchvision's and lightly's. Writes the teacher's features of the
training and of the held-out images.
"""

import argparse
import json
import math
import time

import numpy as np
import peer_torchvision  # noqa: F401  Before torchvision.
import step_lightly
import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform
from lightly.transforms.utils import IMAGENET_NORMALIZE
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import nn

_KIND = step_lightly.step_torch.KIND
_RATE, _CLIP, _MOMENTUM, _OUTPUTS = 2e-3, 3.0, 0.99, 1024


def transform():
    """Views as those of the recipe `dino_cifar10`, but for bilinear resizes."""
    return DINOTransform(
        global_crop_size=32,
        global_crop_scale=(0.3, 1.0),
        local_crop_size=16,
        local_crop_scale=(0.08, 0.3),
        n_local_views=4,
        gaussian_blur=(0.0, 0.0, 0.0),
        solarization_prob=0.2,
    )


class Images(torch.utils.data.Dataset):
    """Decoded once; views, or with `views=None` the images as networks take them."""

    def __init__(self, paths, views):
        opened = [Image.open(path).convert("RGB") for path in paths]
        self.pixels = np.stack([np.asarray(image) for image in opened])
        self.views = views

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, number):
        pixels = self.pixels[number]
        if self.views is not None:
            return self.views(Image.fromarray(pixels))
        mean, std = (np.float32(IMAGENET_NORMALIZE[name]) for name in ("mean", "std"))
        scaled = (pixels.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(scaled.transpose(2, 0, 1))


def _network(options):
    encoder = step_lightly.Encoder(options)
    head = DINOProjectionHead(
        encoder.dim, 512, 128, _OUTPUTS, batch_norm=True, freeze_last_layer=1
    )
    return nn.ModuleDict({"encoder": encoder, "head": head}).to(_KIND)


def _outputs(network, views):
    return network["head"](network["encoder"](torch.cat(views))).chunk(len(views))


def train(images, options):
    """The teacher's encoder after the training."""
    student = _network(options)
    teacher = _network(options)
    teacher.load_state_dict(student.state_dict())
    deactivate_requires_grad(teacher)
    loss_of = DINOLoss(_OUTPUTS, warmup_teacher_temp_epochs=1).to(_KIND)
    weights = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=1e-6)
    loader = torch.utils.data.DataLoader(
        images,
        options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )
    steps, step = options.epochs * len(loader), 0
    for epoch in range(options.epochs):
        begin, total = time.time(), 0.0
        for views in loader:
            views = [view.to(_KIND) for view in views]
            done = max(0, step - len(loader)) / max(1, steps - len(loader))
            risen = min(1.0, step / len(loader))  # One epoch of warm-up.
            optimizer.param_groups[0]["lr"] = (
                _RATE * risen * (1 + math.cos(math.pi * done)) / 2
            )
            update_momentum(
                student, teacher, cosine_schedule(step, steps, _MOMENTUM, 1.0)
            )
            with torch.no_grad():
                told = _outputs(teacher, views[:2])
            said = [*_outputs(student, views[:2]), *_outputs(student, views[2:])]
            loss = loss_of(list(told), said, epoch=epoch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            student["head"].cancel_last_layer_gradients(current_epoch=epoch)
            for weight in weights:  # Each by itself, as in the authors' code.
                if weight.grad is not None:
                    nn.utils.clip_grad_norm_([weight], _CLIP)
            optimizer.step()
            total, step = total + loss.item(), step + 1
        speed = len(loader) * options.batch / (time.time() - begin)
        mean = total / len(loader)
        print(f"epoch {epoch + 1}: loss {mean:.4f}, {speed:.1f} images/s", flush=True)
    return teacher["encoder"]


@torch.no_grad()
def features(encoder, paths, options):
    encoder.eval()
    loader = torch.utils.data.DataLoader(Images(paths, None), options.batch)
    return np.concatenate([encoder(batch.to(_KIND)).cpu().numpy() for batch in loader])


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--split", required=True, help="JSON file with paths of train and held_out")
    add("--out", required=True, help="where the features go, an .npz file")
    add("--epochs", type=int, required=True)
    add("--batch_size", type=int, required=True, dest="batch")
    add("--workers", type=int, default=2)
    add("--depth", type=int, default=18)
    add("--width", type=float, default=0.25)
    add("--stem", default="cifar")
    return parser.parse_args()


def main():
    options = parse()
    torch.manual_seed(0)
    with open(options.split) as file:
        split = json.load(file)
    encoder = train(Images(split["train"], transform()), options)
    found = {name: features(encoder, split[name], options) for name in split}
    np.savez(options.out, **found)


if __name__ == "__main__":
    main()
