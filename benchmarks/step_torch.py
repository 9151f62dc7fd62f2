"""What steps on PyTorch are timed with; imports nothing of tfssl."""

import step_timing
import torch

KIND = "cuda" if torch.cuda.is_available() else "cpu"


class Gpu:
    """The clock and the memory of the GPU, as `step_timing.Processor`."""

    gpu = True

    def __init__(self):
        self.name = torch.cuda.get_device_name()

    def synchronize(self):
        torch.cuda.synchronize()

    def forget_peak(self):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak(self):
        return torch.cuda.max_memory_allocated()


def device():
    """What steps run on; float32 products are TF32 there, as TensorFlow has them."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return Gpu() if KIND == "cuda" else step_timing.Processor()


def autocast(precision):
    """The context of a forward pass in one of `step_timing.PRECISIONS`."""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    return torch.autocast(KIND, dtype, enabled=precision != "float32")


def step(loss_of, optimizer, weights, precision):
    """The `step_timing.Step` of a loss (a function without arguments)."""
    last = torch.zeros(())
    scaler = torch.amp.GradScaler(KIND, enabled=precision == "float16")

    def run():
        nonlocal last
        loss = loss_of()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        last = loss.detach()

    return step_timing.Step(
        run=run,
        loss=lambda: last.item(),
        weights=sum(weight.numel() for weight in weights),
    )
