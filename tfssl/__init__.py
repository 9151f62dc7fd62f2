"""tfssl: self-supervised visual representation learning on TensorFlow and Keras 3.

run = tfssl.pretrain("photos/", "runs/photos", epochs=100)
encoder = tfssl.load("runs/photos")
features = tfssl.embed(encoder, "photos/", "embeddings.npz")
"""

import os

from tfssl import startup

_onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
_first = startup.prepare()

with startup.uncollected():
    import keras

    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise ImportError(
            "TF_USE_LEGACY_KERAS is set, but tfssl needs Keras 3; unset it before "
            "importing tfssl."
        )
    if int(keras.__version__.split(".")[0]) < 3:
        raise ImportError(
            f"Keras {keras.__version__} is installed, but tfssl needs Keras 3; run "
            "pip install 'keras>=3.15'."
        )
    from tfssl import formats, models
    from tfssl.version import __version__

    if keras.config.backend() == "tensorflow":
        from tfssl import (
            data,
            evaluation,
            losses,
            methods,
            optimizers,
            processor,
        )
        from tfssl.tasks.distill import distill
        from tfssl.tasks.embed import embed
        from tfssl.tasks.evaluate import evaluate
        from tfssl.tasks.export import export
        from tfssl.tasks.finetune import finetune
        from tfssl.tasks.make_tfrecords import make_tfrecords
        from tfssl.tasks.pair_frames import pair_frames
        from tfssl.tasks.predict import predict
        from tfssl.tasks.pretrain import pretrain
        from tfssl.tasks.retrieve import retrieve
        from tfssl.tasks.runs import (
            load,
            load_classifier,
            load_segmenter,
            load_tokenizer,
        )
        from tfssl.tasks.show_views import show_views
        from tfssl.tasks.train_segmenter import train_segmenter
        from tfssl.tasks.train_tokenizer import train_tokenizer

        if _first:
            startup.look_for_devices(processor.accelerators)
        processor.warn_if_slow(_onednn)


def __getattr__(name):
    # On JAX and PyTorch `.keras` files load and run; nothing else does.
    if name in __all__:
        raise ImportError(
            f"tfssl.{name} needs TensorFlow, but Keras runs on "
            f"{keras.config.backend()!r}; set KERAS_BACKEND=tensorflow before "
            "importing keras."
        )
    raise AttributeError(f"module 'tfssl' has no attribute {name!r}")


__all__ = [
    "__version__",
    "data",
    "distill",
    "embed",
    "evaluate",
    "evaluation",
    "export",
    "finetune",
    "formats",
    "load",
    "load_classifier",
    "load_segmenter",
    "load_tokenizer",
    "losses",
    "make_tfrecords",
    "methods",
    "models",
    "optimizers",
    "pair_frames",
    "predict",
    "pretrain",
    "retrieve",
    "show_views",
    "train_segmenter",
    "train_tokenizer",
]
