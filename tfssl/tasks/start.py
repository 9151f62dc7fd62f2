"""Where a training starts: anew, from weights, or where it was interrupted."""

import zlib

import tensorflow as tf
from absl import logging

from tfssl import processor
from tfssl.models import copying, input_range
from tfssl.tasks import resolve
from tfssl.training import checkpoint


def start(model, folder, resume, init_from, workers, *, verbose=1):
    """Restores what there is to restore, on all workers.

    Args:
        model: a compiled `Method`.
        folder: the run's checkpoint folder.
        resume: whether a checkpoint in it is to be used.
        init_from: a checkpoint or run whose weights start a new training, or None.
        workers: `workers.Workers`.
        verbose: 0 silent.

    Returns:
        The checkpoint that training continues from, or None for a new training.

    Raises:
        ValueError: for checkpoints that do not fit or may not be used, and if the
            workers start from different states.
    """
    check_resume(folder, resume)
    resumed = checkpoint.restore_latest(folder, model, workers=workers)
    if resumed:
        told = f"Resuming at step {int(model.step.numpy())} from {resumed}"
    elif init_from:
        path = resolve.checkpoint_path(init_from)
        loaded, unmatched = checkpoint.initialize(path, model)
        if unmatched and not model.starts_in_part:
            raise ValueError(
                f"--init_from={init_from} does not fit ({unmatched[0]}"
                f"{f'; and {len(unmatched) - 1} more' if unmatched[1:] else ''}); "
                f"pass a training of the same encoder and classes, or leave it out."
            )
        told = f"Started from {len(loaded)} variables of {path}"
        for line in unmatched:
            logging.warning("--init_from: %s", line)
    else:
        told = None
    if told and verbose and workers.is_chief:
        print(told)
    _check_agreement(model, workers)
    return resumed


def check_resume(folder, resume):
    """Raises `ValueError` for a folder of checkpoints that are not to be used."""
    if not resume and checkpoint.latest(folder):
        raise ValueError(
            f"{folder} holds checkpoints and resume is off; choose another --out, "
            "or delete the folder."
        )


def _check_agreement(model, workers):
    """Raises unless all workers hold the same weights."""
    if workers.count == 1:
        return
    step, digest = float(model.step.numpy()), 0
    held = checkpoint.named_variables(model, optimizer=False, constants=True)
    for variable in held.values():
        content = tf.convert_to_tensor(variable).numpy().tobytes()
        digest = zlib.crc32(content, digest)
    mine = (step, float(digest))
    chiefs = workers.from_chief(lambda: mine, size=2)
    (differ,) = workers.any(mine != chiefs)
    if differ:
        raise ValueError(
            f"The workers start from different states (step {step:.0f} here, "
            f"{chiefs[0]:.0f} on the chief); --out, --init_from and the encoder's file "
            "must be the same on all workers, for example on a shared file system."
        )


def summary(model, plan, optimization, devices, strategy):
    """What is about to run, with the numbers that users get wrong most.

    Args:
        model: a compiled `Method`.
        plan: `trainer.Plan`.
        optimization: `groups.Optimization`.
        devices: `groups.Devices`.
        strategy: `tf.distribute.Strategy`.

    Returns:
        List of lines.
    """
    source, batch_size = plan.train, plan.batch_size
    sizes = "/".join(view.told() for view in plan.recipe)
    lines = [
        f"{type(model).__name__} on {source.name}: {source.num_images:,} images"
        f"{_pixels(source)}; {len(plan.recipe)} views of {sizes} px "
        f"({plan.recipe.name})",
        f"encoder {model.encoder.name}: {model.encoder.count_params():,} parameters, "
        f"{model.feature_dim} features, {copying.policy_of(model.encoder)}, input from "
        f"{_input_ends(model.encoder, plan.preprocessing)}",
        f"global batch {batch_size} on {strategy.num_replicas_in_sync} replica(s), "
        f"{plan.steps_per_epoch} steps per epoch, {plan.epochs} epochs",
        optimization.told(batch_size),
        _machine(model, devices),
    ]
    if source.memory is not None and not devices.data_service:
        lines.append(source.memory.told("in every epoch", "cache_gib"))
    negatives = model.num_negatives(batch_size)
    if negatives is not None:
        lines.append(f"{negatives:,} negatives per anchor, over all replicas")
    lines += model.notes(batch_size, source.num_images)
    chance = model.chance_loss(batch_size)
    if chance is not None:
        lines.append(f"chance-level loss {chance:.4f}: a healthy run falls below it")
    return lines


def _input_ends(encoder, preprocessing):
    low, high = input_range.ends(encoder, preprocessing.mean, preprocessing.std)
    return f"{low:.3g} (black) to {high:.3g} (white)"


def _machine(model, devices):
    found = processor.described()
    place = found.get("accelerators", found["processor"])
    return (
        f"on {place}; oneDNN {found['onednn']}, XLA {model.xla} "
        f"(jit_compile={devices.jit_compile}), views finished on the "
        f"{model.augment_on} (augment_on={devices.augment_on}){_held(model, devices)}"
        f"{', remat on' if devices.remat else ''}"
    )


def _held(model, devices):
    if model.images_on == "host":
        return ""
    gib = model.held_bytes / 2**30
    return f" of images that lie there (images_on={devices.images_on}, {gib:.3g} GiB)"


def _pixels(source):
    """What kind of pixels the images have, as far as it is known."""
    size = source.image_size
    of_size = f" of {size[0]}x{size[1]} px" if size else ""
    return f"{of_size}, {source.channels} channel(s) of {source.dtype}"
