"""Methods that compare one view of an image, by a linear head, with a bank of all."""

from tfssl.data.views import recipes
from tfssl.losses import unit_norm
from tfssl.methods import bank_contrast, base
from tfssl.models import heads


class OneViewBank(base.Method):
    """What instance discrimination and local aggregation are made of.

    A subclass writes `image_losses` from what `embedded` gives, and returns both in it,
    as `"embedding"` and `"found"`.

    Args:
        encoder: as of `Method`.
        name: optional name.
        **settings: as of `Method`, those of `bank_contrast` among them.

    Attributes:
        projector: the linear head.
        contrast: `bank_contrast.BankContrast`.
    """

    default_recipe = recipes.NPID
    num_views = 1
    logged = ("loss", "contrastive_accuracy")

    def __init__(self, encoder, *, name=None, **settings):
        super().__init__(encoder, name=name, **settings)
        self.projector = heads.mlp(
            self.feature_dim,
            (self.projection_dim,),
            kernel_initializer=heads.UNIFORM_FAN_IN,
            name="projector",
        )
        self.contrast = bank_contrast.of(self)

    @classmethod
    def check_memory(cls, given):
        bank_contrast.check_memory(given)

    def train_step(self, batch):
        with self.recording() as recorded:
            values = self.image_losses(batch, training=True)
        self.minimize(recorded, values, batch)
        self.contrast.remember(values["embedding"], values["found"])

    def embedded(self, batch, training):
        """The embeddings of this replica, and their `bank_contrast.Comparison`."""
        (view,) = self.views(batch)
        features = self.encoder(view, training=training)
        z = unit_norm.unit_rows(self.projector(features, training=training))
        return z, self.contrast.compare([z], bank_contrast.draw(self, batch["index"]))

    @property
    def head(self):
        """The projector."""
        return self.projector

    def check_run(self, global_batch, source):
        bank_contrast.check_batch(self, global_batch)
