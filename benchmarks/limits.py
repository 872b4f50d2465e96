"""What the machine can do on one thread: matrix products in both dtypes, and copies of memory."""

import torch
from measure import in_turn, machine

SIZE = 1024  # of square matrices
COPIED = 2**26  # fp32 numbers, far more than a cache holds
ROUNDS = 9


def main() -> None:
    """Print the best of several rounds, in operations or bytes a second."""
    torch.set_num_threads(1)
    source, target = torch.zeros(2, COPIED)
    candidates = {"copy": lambda: target.copy_(source)}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = torch.randn(2, SIZE, SIZE).to(dtype)
        candidates[name] = lambda a=a, b=b: a @ b
    in_turn(candidates, 2)
    best = {name: min(times) for name, times in in_turn(candidates, ROUNDS).items()}
    print(f"{machine()}\n\n| limit | best of {ROUNDS} rounds |\n|---|---:|")
    for name in ("bf16", "fp32"):
        print(f"| product of {SIZE} x {SIZE} in {name} | {2 * SIZE**3 / best[name] / 1e9:,.0f} GFLOP/s |")
    print(f"| copy, read and written | {2 * 4 * COPIED / best['copy'] / 1e9:,.1f} GB/s |")


if __name__ == "__main__":
    main()
