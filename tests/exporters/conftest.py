import nets
import pytest
import torch

from edgekd import exporters
from edgekd.quantize import qat, schemes


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(format, scheme, signedness) -> (torch module that was exported, its file); each made once."""
    folder = tmp_path_factory.mktemp("exported")
    source, made = nets.tiny_resnet(), {}
    example = torch.from_numpy(nets.inputs(1))

    def export(format, scheme, activations="signed"):
        key = format, scheme, activations
        if key not in made:
            if scheme == "static_wi8_ai8":
                if "net" not in made:
                    made["net"] = qat.prepare(source, nets.inputs(48), nets.policy())
                module = schemes.lower(made["net"], example, activations)
            else:
                module = schemes.fold_batch_norm(source)
            path = folder / ("-".join(key) + exporters.SUFFIXES[format])
            nets.write(module, path, format, scheme)
            made[key] = module, path
        return made[key]

    return export
