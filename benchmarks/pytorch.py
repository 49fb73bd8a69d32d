"""PyTorch, if it is installed, set up for comparisons."""

import sys
from types import ModuleType


def load() -> ModuleType | None:
    """The module; None, and a line that says so, where it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: its rows are left out", file=sys.stderr)
        return None
    # As XLA does; before there are other threads, which inherit it.
    torch.set_flush_denormal(True)
    return torch


def versions(torch: ModuleType | None) -> dict[str, str]:
    """PyTorch's line in the head of a report."""
    if torch is None:
        return {}
    return {"torch": f"{torch.__version__}, {torch.get_num_threads()} threads"}
