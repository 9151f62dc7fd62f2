"""DINO by lightly on PyTorch, the other half of `benchmarks.dino_beside_lightly`.

Runs in an environment of its own (`make peer`) and imports nothing of tfssl. The
settings are those of `dino_cifar10_small_resnet18.flags`; network, head, loss, views
and momentum are torchvision's and lightly's. Writes the teacher's features of the
training and of the held-out images.
"""

import lightly_folder
import step_lightly
import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import DINOTransform
from lightly.utils.scheduler import cosine_schedule
from torch import nn

_KIND = lightly_folder.KIND
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


def _network(options):
    encoder = step_lightly.Encoder(options)
    head = DINOProjectionHead(
        encoder.dim, 512, 128, _OUTPUTS, batch_norm=True, freeze_last_layer=1
    )
    network = nn.ModuleDict({"encoder": encoder, "head": head}).to(_KIND)
    return network.to(memory_format=torch.channels_last)


def _outputs(network, views):
    return network["head"](network["encoder"](torch.cat(views))).chunk(len(views))


def train(loader, options):
    """The teacher's encoder after the training."""
    student = _network(options)
    teacher = _network(options)
    teacher.load_state_dict(student.state_dict())
    deactivate_requires_grad(teacher)
    loss_of = DINOLoss(_OUTPUTS, warmup_teacher_temp_epochs=1).to(_KIND)
    weights = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=_RATE, weight_decay=1e-6)
    warmup, steps = len(loader), options.epochs * len(loader)  # One epoch of warm-up.

    def step(number, epoch, views):
        rate = lightly_folder.rate(_RATE, number, warmup, steps)
        optimizer.param_groups[0]["lr"] = rate
        momentum = cosine_schedule(number, steps, _MOMENTUM, 1.0)
        update_momentum(student, teacher, momentum)
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
        return loss

    lightly_folder.fit(loader, options, step)
    return teacher["encoder"]


def main():
    parser = lightly_folder.parser(__doc__.splitlines()[0])
    parser.set_defaults(size=32, arrays=True)
    lightly_folder.run(transform(), train, parser.parse_args())


if __name__ == "__main__":
    main()
