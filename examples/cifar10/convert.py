"""A public ResNet for CIFAR-10 (akamaster/pytorch_resnet_cifar10) under the names of edgekd's own `resnet`.

    python convert.py resnet56-4bfd9763.th resnet56-cifar10.safetensors

Only tensors are read (`weights_only`): a file that holds anything else is refused, and none of it runs.
"""

import re
import sys

import torch
from safetensors.torch import save_file

OUTER = {"conv1": "stem", "bn1": "bn", "linear": "head"}


def renamed(name: str, blocks_a_stage: int) -> str:
    """`layer2.0.bn1.weight` -> `blocks.9.bn1.weight`: one row of blocks in place of three stages."""
    first, rest = name.split(".", 1)
    if found := re.fullmatch(r"layer([123])", first):
        number, rest = rest.split(".", 1)
        return f"blocks.{(int(found[1]) - 1) * blocks_a_stage + int(number)}.{rest}"
    if first not in OUTER:
        raise SystemExit(f"{name}: no such tensor in these networks; another checkpoint?")
    return f"{OUTER[first]}.{rest}"


def main(source: str, target: str) -> None:
    """Reads one, writes the other."""
    held = torch.load(source, map_location="cpu", weights_only=True)["state_dict"]
    state = {name.removeprefix("module."): tensor for name, tensor in held.items()}  # of nn.DataParallel
    blocks = len([name for name in state if re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)])
    save_file({renamed(name, blocks): tensor.contiguous() for name, tensor in state.items()}, target)
    print(f"{target}: blocks = {[blocks] * 3}, {sum(tensor.numel() for tensor in state.values()):,} numbers")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit((__doc__ or "").split("\n\n")[1].strip())
    main(*sys.argv[1:])
