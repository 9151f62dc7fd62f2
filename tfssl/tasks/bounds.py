"""The range of every number that a task takes, checked before anything is done."""

import math

from tfssl import checks, methods
from tfssl.data import image_headers
from tfssl.optimizers import schedules
from tfssl.tasks import resolve
from tfssl.training import strategy

# A square view of more pixels than the largest image that is decoded.
LARGEST_SIZE = math.isqrt(image_headers.MAX_PIXELS)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


def pretrain(given):
    """Raises `ValueError` for an argument of `tasks.pretrain` that cannot work."""
    checks.path(given, "out")
    checks.one_of(given, "method", sorted(methods.METHODS))
    checks.one_of(given, "precision", PRECISIONS)
    checks.one_of(given, "strategy", strategy.STRATEGIES)
    checks.one_of(given, "lr_scaling", schedules.RULES)
    checks.one_of(given, "lr_schedule", resolve.LR_SCHEDULES)
    checks.whole(given, "epochs", "batch_size", "steps_per_execution")
    checks.whole(given, "checkpoint_epochs", "keep", "knn_k", "online_probe_steps")
    checks.whole(given, "knn_epochs", "online_probe_epochs", least=0)
    checks.whole(given, "channels", "num_replicas", "checkpoint_steps", optional=True)
    checks.whole(given, "image_size", most=LARGEST_SIZE, optional=True)
    checks.seed(given, "seed")
    checks.not_negative(given, "learning_rate", "weight_decay", "warmup_epochs")
    checks.not_negative(given, "lr_start", "lr_final")
    checks.positive(given, "lr_drop_factor", "knn_temperature")
    checks.not_negative(given, "checkpoint_minutes", optional=True)
    checks.share(given, "max_bad_fraction")
    checks.fraction_below_one(given, "validation_fraction")
    for epoch in given["lr_drops"] or ():
        checks.not_negative({"lr_drops": epoch}, "lr_drops")


def evaluate(given):
    """Raises `ValueError` for an argument of `tasks.evaluate` that cannot work."""
    checks.path(given, "run")
    checks.one_of(given, "scaling", ("unit", "standard"))
    checks.whole(given, "draws", "knn_k", "batch_size", "stage_features")
    checks.whole(given, "probe_epochs", "probe_batch_size", "probe_draws")
    checks.whole(given, "supervised_epochs", "supervised_draws")
    checks.whole(given, "supervised_min_steps", "clusters", least=0)
    checks.positive(given, "knn_temperature")
    checks.seed(given, "seed")


def retrieve(given):
    """Raises `ValueError` for an argument of `tasks.retrieve` that cannot work."""
    checks.path(given, "data", "ground_truth")
    checks.path(given, "whiten_data", "out", optional=True)
    checks.whole(given, "longer_side", most=LARGEST_SIZE)
    checks.whole(given, "levels", most=100)
    checks.whole(given, "components", optional=True)
    checks.share(given, "max_bad_fraction")


def show_views(given):
    """Raises `ValueError` for an argument of `tasks.show_views` that cannot work."""
    checks.path(given, "out")
    checks.whole(given, "num_images")
    checks.whole(given, "image_size", most=LARGEST_SIZE, optional=True)
    checks.whole(given, "channels", optional=True)
    checks.seed(given, "seed")


def make_tfrecords(given):
    """Raises `ValueError` for an argument of `tasks.make_tfrecords` that cannot work.

    How many shards fit is known when the data is open.
    """
    checks.path(given, "out")
    checks.file_name(given, "name")
    checks.whole(given, "num_shards")
    checks.whole(given, "quality", most=100)
    checks.whole(given, "max_side", "channels", optional=True)
    checks.share(given, "max_bad_fraction")
