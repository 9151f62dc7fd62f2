"""What steps on PyTorch are timed with; imports nothing of tfssl."""

import torch


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
