"""The cases of the contract tests: every method in a small form.

A form must not depend on chance: the encoder has no dropout, and batch norm uses
the statistics of all replicas.
"""

from tfssl import methods, models
from tfssl.methods import classification, distillation, dvae, segmentation

BATCH = 16
SIZE = 16
STEPS = 3

# Images of the data that the clustering methods know of.
IMAGES = 8 * BATCH

# Methods by the keys of CASES; those of other tasks are no key of METHODS.
KINDS = methods.METHODS | {
    "classification": classification.Classification,
    "distillation": distillation.Distillation,
    "dvae": dvae.DVAE,
    "segmentation": segmentation.Segmentation,
}

# Milder temperatures than the paper's, which would enlarge rounding.
_DINO = dict(
    num_outputs=12,
    temperature=0.2,
    teacher_temperature=0.1,
    teacher_temperature_start=0.08,
    teacher_warmup_epochs=2,
    momentum=0.9,
    total_steps=50,
    freeze_epochs=0.5,
    steps_per_epoch=2,
    projection_hidden=32,
    projection_dim=16,
    head_norm=True,
)

# Name of the case -> (key of KINDS, arguments of the method).
CASES = {
    "classification": (
        "classification",
        dict(
            class_names=("a", "b", "c"),
            label_smoothing=0.1,
            class_weights=(1.0, 2.0, 0.5),
            mixup=0.4,
            cutmix=1.0,
            averaging=0.9,
        ),
    ),
    "classification_multilabel": (
        "classification",
        dict(class_names=("a", "b", "c"), multilabel=True, label_smoothing=0.1),
    ),
    "distillation": (
        "distillation",
        dict(class_names=tuple("abcdefg"), label_weight=0.3, temperature=0.5),
    ),
    "distillation_token": (
        "distillation",
        # Soft labels: float16 has other most likely classes where two are near.
        dict(class_names=tuple("abcdefg"), label_weight=0.5),
    ),
    "dvae": (
        "dvae",
        dict(
            temperature=0.5,
            temperature_steps=50,
            kl_weight=0.5,
            kl_steps=4,
            averaging=0.9,
            seed=3,
        ),
    ),
    "segmentation": ("segmentation", dict(averaging=0.9)),
    "simclr": ("simclr", dict(temperature=0.5, projection_dim=16)),
    "simclr_memory": (
        "simclr",
        # A wide head: small gradients, which do not overflow float16 for long.
        dict(
            temperature=0.3,
            projection_hidden=128,
            projection_dim=16,
            queue_size=40,
            momentum=0.9,
        ),
    ),
    "byol": (
        "byol",
        dict(projection_hidden=32, projection_dim=16, momentum=0.9, total_steps=50),
    ),
    "cpc": (
        "cpc",
        dict(
            embedding_dim=32,
            embedding_scale=1.0,
            # TensorFlow adds up a chain of residual blocks in another order in a loop.
            context_blocks=1,
            context_hidden=16,
            # Not too much of it, for what is to be learned by heart.
            augmentation={
                "crop": 7,
                "primitives": 0,
                "histogram": 0.0,
                "jitter": 0.3,
                "gray": 0.1,
                "color_drop": 0.1,
            },
        ),
    ),
    "moco_v1": ("moco", dict(version=1, momentum=0.9, queue_size=40)),
    "moco_v2_symmetric": (
        "moco",
        dict(version=2, symmetric=True, momentum=0.9, queue_size=72),
    ),
    "moco_v3": (
        "moco",
        dict(
            version=3,
            projection_hidden=32,
            projection_dim=16,
            momentum=0.9,
            total_steps=50,
        ),
    ),
    "beit": ("beit", dict(min_patches=2, seed=5)),
    "moco_v3_vit": (
        "moco",
        dict(
            version=3,
            temperature=0.5,
            projection_layers=3,
            projection_hidden=32,
            projection_dim=16,
            predictor_last_norm=True,
            momentum=0.9,
            total_steps=50,
        ),
    ),
    "swav": (
        "swav",
        dict(
            num_prototypes=12,
            projection_hidden=32,
            projection_dim=16,
            queue_size=24,
            queue_epoch=0,
            freeze_epochs=0,
        ),
    ),
    "dino": ("dino", _DINO),
    # Of a transformer they would overflow float16.
    "dino_vit": ("dino", _DINO | dict(temperature=0.6, teacher_temperature=0.25)),
    "cmc": ("cmc", dict(temperature=0.5, projection_dim=16)),
    "cmc_core": (
        "cmc",
        dict(temperature=0.5, projection_dim=8, mode="core", core="green"),
    ),
    "cmc_nce": (
        "cmc",
        dict(
            temperature=0.5,
            projection_dim=8,
            loss="nce",
            negatives=24,
            num_images=IMAGES,
        ),
    ),
    "cmc_softmax": (
        "cmc",
        dict(
            temperature=0.5,
            projection_dim=8,
            mode="core",
            loss="softmax",
            negatives=24,
            num_images=IMAGES,
            seed=3,
        ),
    ),
    "predictive": ("predictive", dict(decoder_hidden=12)),
    "predictive_one": (
        "predictive",
        dict(targets={"L": [1, 2]}, loss="l2", decoder_hidden=12),
    ),
    "deepcluster": (
        "deepcluster",
        dict(num_images=IMAGES, num_clusters=6, pca_components=8),
    ),
    "deepcluster_v2": (
        "deepcluster_v2",
        dict(
            num_images=IMAGES,
            num_clusters=(6, 5, 4),
            projection_hidden=32,
            projection_dim=16,
        ),
    ),
    "npid_nce": (
        "npid",
        # Many negatives of many numbers, so that one draw says what another would.
        dict(
            num_images=IMAGES,
            negatives=96,
            temperature=0.1,
            proximal=0.5,
            projection_dim=64,
        ),
    ),
    "npid_softmax": (
        "npid",
        dict(
            num_images=IMAGES,
            negatives=96,
            loss="softmax",
            temperature=0.15,
            projection_dim=64,
        ),
    ),
    "npid_whole_bank": (
        "npid",
        dict(
            num_images=IMAGES,
            negatives=0,
            loss="softmax",
            temperature=0.2,
            projection_dim=16,
        ),
    ),
    "local_aggregation": (
        "local_aggregation",
        dict(
            num_images=IMAGES,
            num_clusters=(6, 5, 4),
            background=40,
            temperature=0.2,
            projection_dim=16,
            warmup_epochs=0,
        ),
    ),
    "local_aggregation_begins": (
        "local_aggregation",
        dict(
            num_images=IMAGES,
            num_clusters=(6, 5),
            background=40,
            negatives=24,
            loss="softmax",
            temperature=0.2,
            projection_dim=16,
            steps_per_epoch=2,  # Of 3 steps the last is local aggregation's.
            warmup_epochs=1,
        ),
    ),
    "pirl_jigsaw": (
        "pirl",
        dict(num_images=IMAGES, num_tiles=4, negatives=24, projection_dim=16, seed=5),
    ),
    "pirl_rotation": (
        "pirl",
        dict(num_images=IMAGES, transform="rotation", negatives=24, projection_dim=16),
    ),
    "pirl_both": (
        "pirl",
        dict(
            num_images=IMAGES,
            transform="both",
            loss="softmax",
            temperature=0.2,
            negatives=24,
            weight=0.25,
            projection_layers=2,
            projection_dim=16,
            num_tiles=4,
        ),
    ),
    "pretext_rotation": ("pretext", dict(task="rotation")),
    "pretext_jigsaw": (
        "pretext",
        dict(task="jigsaw", num_permutations=6, num_tiles=4, tile_dim=12, seed=3),
    ),
    "feature_distillation": ("feature_distillation", dict(projection_hidden=12)),
    "feature_distillation_map": (
        "feature_distillation",
        dict(teacher_layer="map", smooth_l1=0.5),
    ),
}
# Cases that set apart from another case of their method what its own tests look at.
# What is tested of all methods is a slow test of theirs.
VARIANTS = (
    "classification_multilabel",
    "cmc_core",
    "cmc_softmax",
    "dino_vit",
    "distillation_token",
    "feature_distillation_map",
    "local_aggregation_begins",
    "npid_softmax",
    "npid_whole_bank",
    "pirl_jigsaw",
    "pirl_rotation",
    "predictive_one",
    "pretext_jigsaw",
)
# What a method asks of the encoder's batch norm; the others get "global".
NORMS = {
    "moco_v1": dict(statistics="split", group_size=4),
    "moco_v2_symmetric": dict(statistics="split", group_size=4),
}


# The views of an encoder of branches: what stands in front, and groups of channels.
_LAB = {"L": (0,), "ab": (1, 2)}
BRANCHES = {
    "cmc": ([models.Lab], _LAB),
    "cmc_core": ([], {"red": (0,), "green": (1,), "blue": (2,)}),
    "cmc_nce": ([models.Lab], _LAB),
    "cmc_softmax": ([], {"red": (0,), "green": (1,), "blue": (2,)}),
    "predictive": ([models.Lab], _LAB),
    "predictive_one": ([models.Lab], {"L": (0,)}),
}

# The cases whose encoder is a tiny vision transformer, and what it is made of beyond.
# Without class token: a norm multiplies the rounding of one of 1e-6 a thousand times.
TRANSFORMERS = {
    "beit": dict(
        positions="none",
        relative="shared",
        layer_scale=0.5,
        init="beit",
        pooling="mean",
    ),
    "dino_vit": dict(class_token=False, pooling="mean"),
    "distillation_token": dict(distillation_token=True),
    "moco_v3_vit": dict(
        positions="sincos",
        init="xavier",
        freeze_patches=True,
        class_token=False,
        pooling="mean",
    ),
    "segmentation": dict(class_token=False, pooling="mean"),
}

# Sizes of the views, where they are not two of SIZE.
VIEWS = {
    "swav": (SIZE, SIZE, SIZE // 2, SIZE // 2),
    "beit": (SIZE,),
    "dino": (SIZE, SIZE, SIZE // 2, SIZE // 2),
    "dino_vit": (SIZE, SIZE, SIZE // 2, SIZE // 2),
    "classification": (SIZE,),
    "classification_multilabel": (SIZE,),
    "cpc": (SIZE,),
    "distillation": (SIZE,),
    "distillation_token": (SIZE,),
    "dvae": (SIZE,),
    "deepcluster": (SIZE,),
    "deepcluster_v2": (SIZE, SIZE, SIZE // 2),
    "npid_nce": (SIZE,),
    "npid_softmax": (SIZE,),
    "npid_whole_bank": (SIZE,),
    "local_aggregation": (SIZE,),
    "local_aggregation_begins": (SIZE,),
    "segmentation": (SIZE,),
    "pretext_rotation": (SIZE,),
    "pretext_jigsaw": (SIZE,),
    **dict.fromkeys(BRANCHES, (SIZE,)),
    "feature_distillation": (SIZE, SIZE // 2),
    "feature_distillation_map": (SIZE,),
}

# Views that come in tiles: (number of the view, tiles in a row).
TILED = {"pretext_jigsaw": (0, 2), "pirl_jigsaw": (1, 2), "pirl_both": (1, 2)}

# True classes of so many images, for the methods that learn from them.
LABELS = {
    "classification": lambda rng, count: rng.integers(0, 3, count),
    "classification_multilabel": lambda rng, count: rng.integers(-1, 2, (count, 3)),
    "distillation": lambda rng, count: rng.integers(-1, 7, count),
    "distillation_token": lambda rng, count: rng.integers(-1, 7, count),
}

# Views with a map of so many classes behind their colours.
MAPPED = {"segmentation": 3}
