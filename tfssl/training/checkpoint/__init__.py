"""Checkpoints from which training continues exactly, or not at all.

A checkpoint is a folder `checkpoint-<step>/`. It is written under another name
and renamed when complete: a folder with this name is whole, whatever happened
to the process or the disk. It holds

* `variables.*`: every variable of the method, of its optimizer and of its
  metrics, by name, with a checksum each (TensorFlow's tensor bundle);
* tensors of what stands beside the method (the online probe), which come and go
  without making the checkpoint another one;
* `state.json`: the step, the stream position, also that of each replica, and name,
  shape and dtype of each variable, so that a mismatch is told before anything is
  touched; with a checksum.

Where a checkpoint of the same step is there already, it is set aside as
`replaced-<step>/` until the new one is in place, and counts until then.
"""

from tfssl.training.checkpoint.folders import (
    CheckpointError,
    DamagedCheckpoint,
    SaveError,
    all_checkpoints,
    latest,
    read_state,
)
from tfssl.training.checkpoint.naming import named_variables
from tfssl.training.checkpoint.restoring import (
    initialize,
    read_also,
    restore,
    restore_latest,
)
from tfssl.training.checkpoint.saving import save

__all__ = [
    "CheckpointError",
    "DamagedCheckpoint",
    "SaveError",
    "all_checkpoints",
    "initialize",
    "latest",
    "named_variables",
    "read_also",
    "read_state",
    "restore",
    "restore_latest",
    "save",
]
