import nets
import numpy as np
import pytest

from edgekd.quantize import qat

MAKES = {"resnet": nets.tiny_resnet, "mobilenet": nets.tiny_mobilenet, "gated": nets.tiny_gated}


@pytest.fixture(scope="session")
def prepared():
    """kind -> (float network, the same with calibrated quantizers)."""
    found = {}
    for kind, make in MAKES.items():
        net = make()
        found[kind] = net, qat.prepare(net, np.asarray(nets.inputs(48)), nets.policy())
    return found
