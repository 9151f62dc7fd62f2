"""Speed of a training step of a vision transformer: tfssl beside timm on PyTorch.

make bench-vit ARGS="tiny:32 small:224:bfloat16 --torch_python=torch/bin/python"

Forward, backward and AdamW of a network with a classifier of 1,000 classes, on random
images that lie on the device. A case is NETWORK:SIZE[:PRECISION]: tiny, small or base;
pixels of a side, with patches of 16 (of small images 4); float32, bfloat16 or float16.
The halves run in processes of their own and take turns, block by block, so that a busy
machine slows both; each prints what `benchmarks.train_step` prints, and each case the
ratios, medians of the turns.

- `--modes`: `graph`, and on a GPU `jit` (XLA); what is timed is the step of
  `methods.Classification`.
- `--torch_python`: a Python that has torch and timm; without it tfssl is alone:
  `python3 -m venv torch; torch/bin/pip install torch timm`. Both must compute on a GPU,
  or none.
- `--peer_modes`: `eager` and, on a GPU, `compile` (`torch.compile`).
- `--limit`: seconds of a case; a half that takes longer is stopped.
"""

import gc
import os
import sys

import keras
import tensorflow as tf

from benchmarks import step_tfssl, step_timing, train_step
from tfssl import models, optimizers
from tfssl.methods import classification

_MODES = ("graph", "jit")


def make_step(case, parts, options):
    if len(parts) != 1 or parts[0] not in _MODES:
        raise ValueError(f"{'+'.join(parts)!r} received, expected one of {_MODES}")
    keras.backend.clear_session()  # Resets the policy too, so before it is set.
    gc.collect()
    keras.config.set_dtype_policy(step_tfssl.POLICIES[case.precision])
    keras.utils.set_random_seed(0)
    shape = (case.size, case.size, 3)
    encoder = models.vit(case.dim, patch=case.patch, input_shape=shape)
    names = tuple(map(str, range(step_timing.CLASSES)))
    method = classification.Classification(encoder, class_names=names)
    jit = "jit" in parts
    optimizer = optimizers.build("adamw", learning_rate=1e-4, weight_decay=0.05)
    method.compile(optimizer, jit_compile=jit)
    method.build_optimizer()
    rows = tf.range(options.batch, dtype=tf.int64)
    batch = {
        "views": {
            "view_0": tf.random.stateless_normal((options.batch, *shape), (0, 7))
        },
        "label": rows % step_timing.CLASSES,
        "index": rows,
        "position": rows,
    }
    step = tf.function(method.train_step, jit_compile=jit, autograph=False)
    loss = next(m for m in method.metrics if m.name == "loss")
    return step_timing.Step(
        run=lambda: step(batch),
        loss=lambda: float(loss.result()),
        weights=sum(int(tf.size(v.value)) for v in method.learned_variables),
    )


def _commands(options):
    """The halves by their frameworks."""
    commands = {"tfssl": f"{sys.executable} -m benchmarks.vit_step"}
    if options.torch_python:
        script = os.path.join(os.path.dirname(__file__), "vit_step_timm.py")
        commands["timm"] = f"{options.torch_python} {script}"
    return commands


def _run_case(case, options):
    """Starts the halves, times all modes in turns and prints what was found."""
    print(f"\n{case}, batch {options.batch}", flush=True)
    workers = [
        train_step.Worker(name, command, options)
        for name, command in _commands(options).items()
    ]
    try:
        hellos = {w: train_step.guarded(w.framework, w.answer) for w in workers}
        gpu = train_step.on_gpu(hellos.values())
        turns = []
        for worker, hello in hellos.items():
            if hello is None:
                continue
            print(f"  {worker.framework} on {hello['device']}")
            chosen, default = {
                "tfssl": (options.modes, _MODES),
                "timm": (options.peer_modes, ("eager", "compile")),
            }[worker.framework]
            modes = chosen or default[: 1 + gpu]
            turns += [(worker, mode) for mode in modes]
        found = train_step.measured(case, turns, options)
    finally:
        for worker in workers:
            worker.end()
    train_step.print_ratios(found)


def main():
    parser = step_timing.vit_parser(__doc__)
    train_step.add_limit(parser)
    parser.add_argument("--torch_python", default="", help="see above")
    parser.add_argument("--peer_modes", nargs="+", help="see above")
    options = parser.parse_args()
    if options.served:
        device = step_tfssl.device(split=0)
        kind = step_timing.VitCase
        step_timing.Half("tfssl", make_step, device, options, kind).main()
        return
    train_step.run_cases(options, _run_case)


if __name__ == "__main__":
    main()
