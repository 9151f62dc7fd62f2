"""Feature distillation: a student learns what a frozen teacher sees, without labels.

The teacher and the student get the same augmented view. A small projection of the
student's features is pulled to the teacher's, image by image, or position by position
of a feature map. What is learned is the encoder; the projection is left behind.

Put together from what is done today: the loss is that of AM-RADIO (Ranzinger et al.,
2024, https://arxiv.org/abs/2312.06709); the linear projection, its start, the single
view, the frozen teacher on that view and the resizing of the student's map to the
teacher's are those of `distillationv2` of lightly-train (lightly-ai/lightly-train),
which takes the squared error of features that are not normalized. FitNets (Romero et
al., 2014, https://arxiv.org/abs/1412.6550) began it with a layer in the middle.

Differences: one teacher, where AM-RADIO has several, and a linear projection, where it
has an MLP for each (`projection_hidden` makes one). Images are not mixed, as
lightly-train mixes them; the teacher's map is that of one layer, where lightly-train
concatenates those of the last two blocks; the filter that resizes a map widens where
the map shrinks; pooled features or the map are learned, not both at once. SEED
(https://arxiv.org/abs/2101.04731), CompRess (https://arxiv.org/abs/2010.14713) and
lightly-train's `distillationv1` and `v3` compare similarities to a queue of the
teacher's features instead of the features.
"""

import keras
import tensorflow as tf

from tfssl import checks, frozen
from tfssl.data.views import recipes
from tfssl.losses import regression
from tfssl.methods import base
from tfssl.models import feature_maps, heads

# AM-RADIO's shares of the smooth L1, by the rank of what the teacher gives.
_SHARES = {2: 0.0, 4: 0.1}
# lightly-train's start of the projection. Its biases start as PyTorch's, here at zero.
_START = {"class_name": "RandomNormal", "config": {"stddev": 0.02}}


@keras.saving.register_keras_serializable(package="tfssl")
class FeatureDistillation(base.Method):
    """The student predicts a frozen teacher's features of the same view.

    What the teacher gives decides what the student shows: for features `(batch, dim)`
    its own features, for a map `(batch, rows, columns, dim)` its own map, resized to
    the teacher's rows and columns behind the projection.

    Args:
        encoder: the student, a built Keras model, images -> `(batch, dim)`.
        teacher: `frozen.Frozen`, of any architecture and width.
        teacher_layer: name of the teacher's feature map to learn (a stage of its, or a
            layer); None is what it gives, its features.
        student_layer: name of the student's feature map that learns it; None is its
            last. Only where the teacher gives a map; nothing of the student that can
            learn may lie behind it.
        projection_hidden: int, hidden width of the projection; 0 makes it linear.
        smooth_l1: float in [0, 1], the share of the smooth L1 beside the cosine; None
            is 0 for features and 0.1 for a map. It sees the teacher's scale.
        norm_statistics: of the projection's batch norm, if it has a hidden layer:
            `"global"` (of all replicas) or `"local"`.
        name: optional name.

    Views: one or more, any sizes, float32. Each passes by itself, and the loss of an
    image is their mean: from 0 to 2 where it is the cosine alone. The default recipe,
    `recipes.FEATURE_DISTILLATION`, has one view: no pair of views keeps the student
    from collapsing, the teacher does.
    """

    logged = ("loss", "teacher_cosine")
    num_views = 1
    more_views = True
    default_recipe = recipes.FEATURE_DISTILLATION

    def __init__(
        self,
        encoder,
        teacher,
        *,
        teacher_layer=None,
        student_layer=None,
        projection_hidden=0,
        smooth_l1=None,
        norm_statistics="global",
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            teacher=teacher,
            teacher_layer=teacher_layer,
            student_layer=student_layer,
            projection_hidden=projection_hidden,
            smooth_l1=smooth_l1,
            norm_statistics=norm_statistics,
        )
        target, shape = teacher.asked_for(teacher_layer)
        _check_target(shape, student_layer)
        student = encoder
        if len(shape) == 4:
            student = _map_of(encoder, student_layer)
        # Functions, not attributes: Keras would take them for further networks.
        self._target, self._student = lambda: target, lambda: student
        self._share = _SHARES[len(shape)] if smooth_l1 is None else smooth_l1
        hidden = (projection_hidden,) if projection_hidden else ()
        self.projector = heads.mlp(
            int(student.output_shape[-1]),
            (*hidden, shape[-1]),
            kernel_initializer=_START,
            norm_statistics=norm_statistics,
            name="projector",
        )

    @classmethod
    def check_settings(cls, given):
        if not isinstance(given["teacher"], frozen.Frozen):
            raise checks.refused(
                "teacher",
                given["teacher"],
                "a tfssl.methods.Frozen: a Keras model with its preprocessing",
            )
        checks.whole(given, "projection_hidden", least=0)
        if given["smooth_l1"] is not None:
            checks.share(given, "smooth_l1")

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)

    def image_losses(self, batch, training):
        losses, cosines = [], []
        for view in self.views(batch):
            target = self._target()(view)
            predicted = self.predict_teacher(view, training)
            if target.shape.rank == 4:
                predicted = feature_maps.resized(predicted, target.shape[1:3])
            losses.append(
                regression.feature_regression(predicted, target, smooth_l1=self._share)
            )
            cosines.append(1.0 - regression.feature_regression(predicted, target))
        return {
            "loss": tf.reduce_mean(losses, axis=0),
            "teacher_cosine": tf.stop_gradient(tf.reduce_mean(cosines, axis=0)),
        }

    def predict_teacher(self, images, training=False):
        """Images -> the projection of the student's features, or of its map's."""
        shown = self._student()(images, training=training)
        if shown.shape.rank == 2:
            return self.projector(shown, training=training)
        *sides, width = shown.shape[1:]
        # A projection takes rows: every position is one.
        rows = self.projector(tf.reshape(shown, [-1, width]), training=training)
        return tf.reshape(rows, [-1, *sides, rows.shape[-1]])

    @property
    def head(self):
        """The projection of the features; that of a map follows no features: None."""
        return self.projector if self._student() is self.encoder else None

    def notes(self, global_batch, num_images):
        _, shape = self.teacher.asked_for(self.teacher_layer)
        made = self.teacher.preprocessing
        return [
            f"teacher {self.teacher.network.name}: "
            f"{self.teacher.network.count_params():,} parameters, gives "
            f"{' x '.join(map(str, shape[1:]))} for images of {made.size} px"
        ]


def _check_target(shape, student_layer):
    """Raises `ValueError` for what no student can learn."""
    if len(shape) not in _SHARES or None in shape[1:]:
        raise ValueError(
            f"The teacher gives {shape}, expected features (batch, dim) or a map "
            "(batch, rows, columns, dim) of known size; pool or reshape it, or name a "
            "teacher_layer."
        )
    if student_layer is not None and len(shape) == 2:
        raise ValueError(
            f"student_layer={student_layer!r} received, but the teacher gives features "
            f"{shape}; name a teacher_layer, whose map that of the student learns."
        )


def _map_of(encoder, layer):
    """The student up to its map, which must be all of it that learns."""
    part = feature_maps.up_to(encoder, layer)
    inside = {id(variable) for variable in part.trainable_variables}
    outside = [v for v in encoder.trainable_variables if id(v) not in inside]
    if outside:
        raise ValueError(
            f"student_layer={layer!r} leaves {len(outside)} weights of the student "
            f"untrained, {outside[0].path!r} first; name its last feature map."
        )
    return part
