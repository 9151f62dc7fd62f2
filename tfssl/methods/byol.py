"""BYOL (Grill et al., 2020, https://arxiv.org/abs/2006.07733).

An online network predicts, from one view, the projection that a slowly moving
target network gives of the other view. There are no negatives; predictor and
target keep the networks from collapsing.

Departures from the authors' code (google-deepmind/deepmind-research, byol/): the
target starts as a copy of the online network instead of with weights of its own
(the authors see no difference); the online classifier is an evaluation here, not
part of the loss.
"""

import keras

from tfssl import ema
from tfssl.data.views import recipes
from tfssl.losses import regression
from tfssl.methods import base, batch_checks
from tfssl.models import heads


@keras.saving.register_keras_serializable(package="tfssl")
class BYOL(base.Method):
    """BYOL: predict the target network's projection of the other view.

    Args:
        encoder: a built Keras model, images -> `(batch, dim)`.
        momentum: float in [0, 1], `tau` of the target network at step 0: 0.996
            for 1000 epochs, 0.99 for 100 and 300, 0.97 for 40, at batch 4096.
        total_steps: int, the step at which the momentum has risen to 1 along half
            a cosine; None keeps it constant. `tfssl.pretrain` fills it in where it is
            not given.
        projection_hidden: int, hidden width of projector and predictor (4096).
        projection_dim: int, width of projection and prediction (256).
        norm_statistics: of the heads' batch norm, `"global"` (of all replicas, the
            paper's) or `"local"`. The encoder has its own setting.
        name: optional name.

    Views: two, any size, float32. The default recipe is `recipes.BYOL`, whose
    views differ in blur and solarisation.

    The loss of an image is the sum of two terms `2 - 2 cos`, from 0 to 8: 4 means
    that predictions and targets have nothing in common, 0 also a collapse; watch
    `embedding_std` beside it. Code that averages `-cos` over both directions (lightly,
    SimSiam's) has a quarter of this gradient: a rate of SGD from there is divided by 4
    here, and its weight decay multiplied by 4. LARS does not mind.
    """

    default_recipe = recipes.BYOL

    def __init__(
        self,
        encoder,
        *,
        momentum=0.996,
        total_steps=None,
        projection_hidden=4096,
        projection_dim=256,
        norm_statistics="global",
        name=None,
    ):
        super().__init__(
            encoder,
            name=name,
            momentum=momentum,
            total_steps=total_steps,
            projection_hidden=projection_hidden,
            projection_dim=projection_dim,
            norm_statistics=norm_statistics,
        )
        # As in the code: a bias before the batch norm, none in the last layer.
        shape = dict(
            dims=(projection_hidden, projection_dim),
            hidden_bias=True,
            last_bias=False,
            kernel_initializer="lecun_normal",
            norm_statistics=norm_statistics,
        )
        self.projector = heads.mlp(self.feature_dim, name="projector", **shape)
        self.predictor = heads.mlp(projection_dim, name="predictor", **shape)
        self.target = ema.TargetNetwork(self.encoder, self.projector)

    @classmethod
    def check_settings(cls, given):
        ema.check_momentum(given["momentum"], given["total_steps"])

    def train_step(self, batch):
        momentum = ema.momentum_at(self.step, self.momentum, self.total_steps)
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        self.target.update(momentum)

    def image_losses(self, batch, training):
        view_a, view_b = self.views(batch)
        # Each view passes by itself: batch norm sees one view at a time.
        predicted_a = self.predict_target(view_a, training)
        predicted_b = self.predict_target(view_b, training)
        target_a = self.target(view_a, training=training)
        target_b = self.target(view_b, training=training)
        losses = regression.normalized_regression(predicted_a, target_b)
        losses += regression.normalized_regression(predicted_b, target_a)
        return {"loss": losses}

    def predict_target(self, images, training=False):
        """Images -> the prediction of their target projection, not normalized."""
        z = self.projector(self.encoder(images, training=training), training=training)
        return self.predictor(z, training=training)

    @property
    def head(self):
        """The projector, without the predictor."""
        return self.projector

    def check_run(self, global_batch, source):
        why = "has batch norms, of which a single image comes out as zeros"
        batch_checks.of_several(self, global_batch, why)
