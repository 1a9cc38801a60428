from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.vision import build_eye, build_vision
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import NanoConfig, VisionConfig

VARIANTS = {"lite0": VisionConfig(variant="lite0", image_px=64, grid=2, width=24, num_classes=20),
            "lite2": VisionConfig(variant="lite2", image_px=72, grid=3, width=24, num_classes=20)}


def random_backbone(vision: VisionConfig):
    """EfficientNet-Lite whose batch norms have something to fold, and whose outputs depend on the picture."""
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.vision import EfficientNetLite

    torch.manual_seed(0)
    module = EfficientNetLite(vision.variant, vision.width, vision.num_classes).train()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.9  # so that a few passes make the statistics those of the activations
            torch.nn.init.uniform_(layer.weight, 0.5, 2.0)
            torch.nn.init.uniform_(layer.bias, -0.5, 0.5)
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(8, 3, vision.image_px, vision.image_px))
    return module.eval()


def random_resampler(config: NanoConfig):
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.resampler import Resampler

    torch.manual_seed(1)
    module = Resampler(config).eval()
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.3, 0.3)
    return module


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def setting(request, omni):
    config = replace(omni, vision=VARIANTS[request.param])
    return config, random_backbone(config.vision), random_resampler(config)


def tensors(module, prefix=""):
    return {prefix + name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def expected_of(backbone, resampler, pixels):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        features = backbone(torch.from_numpy(pixels))
        class_logits = backbone.classify(features.mean(1))
        return resampler(features, class_logits).numpy(), class_logits.numpy()


def assert_close(got, expected, bound, what):
    error = np.abs(got - expected)
    assert error.max() <= bound, f"{what}: max {error.max():.2e}, mean {error.mean():.2e}, bound {bound:.0e}"


@pytest.mark.parametrize(("bits", "bound"), [(None, 1e-4), (8, 0.1)])
def test_the_graph_is_the_modules(tmp_path, open_graph, rng, setting, bits, bound):
    config, backbone, resampler = setting
    build_vision(tensors(backbone), tensors(resampler, "resampler."), config, tmp_path / "vision.onnx", bits=bits,
                 block_size=16)
    pixels = rng.normal(size=(3, 3, config.vision.image_px, config.vision.image_px)).astype(np.float32)
    got = open_graph(tmp_path / "vision.onnx")({"pixels": pixels})
    tokens, class_logits = expected_of(backbone, resampler, pixels)
    assert got["tokens"].shape == (3, config.resampler.num_tokens, config.language.width)
    assert_close(got["class_logits"], class_logits, 1e-4, "class logits")
    assert_close(got["tokens"], tokens, bound * max(1.0, tokens.std()), f"tokens, bits {bits}")


def test_the_eye_alone_sees_what_the_module_sees(tmp_path, open_graph, rng, setting):
    torch = pytest.importorskip("torch")
    config, backbone, _ = setting
    build_eye(tensors(backbone), config.vision, tmp_path / "eye.onnx")
    pixels = rng.normal(size=(2, 3, config.vision.image_px, config.vision.image_px)).astype(np.float32)
    got = open_graph(tmp_path / "eye.onnx")({"pixels": pixels})
    with torch.no_grad():
        features = backbone(torch.from_numpy(pixels))
    assert_close(got["features"], features.numpy(), 5e-4, "features")
    assert_close(got["class_logits"], backbone.classify(features.mean(1)).detach().numpy(), 1e-4, "class logits")


def test_pictures_of_a_batch_do_not_touch(tmp_path, open_graph, rng, setting):
    config, backbone, resampler = setting
    build_vision(tensors(backbone), tensors(resampler, "resampler."), config, tmp_path / "vision.onnx")
    run = open_graph(tmp_path / "vision.onnx")
    pixels = rng.normal(size=(2, 3, config.vision.image_px, config.vision.image_px)).astype(np.float32)
    together, alone = run({"pixels": pixels})["tokens"][1], run({"pixels": pixels[1:]})["tokens"][0]
    assert_close(together, alone, 1e-5, "second picture")
    assert np.abs(together - run({"pixels": pixels[:1]})["tokens"][0]).max() > 1e-3


def test_the_grid_must_be_the_configs(tmp_path, setting):
    config, backbone, resampler = setting
    wrong = replace(config, vision=replace(config.vision, grid=5))
    with pytest.raises(CheckpointError, match="the config says 5 x 5"):
        build_vision(tensors(backbone), tensors(resampler, "resampler."), wrong, tmp_path / "vision.onnx")


def test_absent_tensors_are_named(tmp_path, setting):
    config, backbone, resampler = setting
    with pytest.raises(CheckpointError, match=r"resampler\.out_norm"):
        connector = tensors(resampler, "resampler.")
        del connector["resampler.out_norm.weight"]
        build_vision(tensors(backbone), connector, config, tmp_path / "vision.onnx")
    with pytest.raises(CheckpointError, match=r"_conv_stem\.weight|_bn0\.weight"):
        build_vision({}, tensors(resampler, "resampler."), config, tmp_path / "vision.onnx")
    assert not list(tmp_path.iterdir())
