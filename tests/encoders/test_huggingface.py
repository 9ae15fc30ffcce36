"""Hugging Face backbones against the library's own hidden states, their folders, and what is refused."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_models import BERT, COMMON, MODELS, VIT, WAVEFORM, make, save, transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from offramp.costs import exit_costs
from offramp.encoders import from_module
from offramp.encoders.base import StagedEncoder
from offramp.encoders.check import check_encoder
from offramp.encoders.registry import load_encoder
from offramp.encoders.storage import read_config
from offramp.errors import EncoderError


def own_states(model: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The library's hidden states behind embedding and layers, and its last, on a copy that keeps its hooks."""
    backbone: Any = copy.deepcopy(model).eval().base_model
    with torch.no_grad():
        result = backbone(x, output_hidden_states=True)
    return list(result.hidden_states), result.last_hidden_state


def final_norm(model: nn.Module) -> nn.Module:
    backbone: Any = model.base_model
    if backbone.config.model_type == "vit":
        return backbone.layernorm
    stable = getattr(backbone.config, "do_stable_layer_norm", False)
    return backbone.encoder.layer_norm if stable else nn.Identity()


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return MODELS[request.param]()


def test_it_keeps_the_contract_of_encoders(model: nn.Module) -> None:
    check_encoder(from_module(model))


def test_taps_are_the_models_own_hidden_states(model: nn.Module) -> None:
    encoder = from_module(model).eval()
    x = encoder.input.draw(4, encoder.input.example_shape(), seed=3)
    hidden, last = own_states(model, x)
    norm, cls = final_norm(model), model.config.model_type != "wav2vec2"
    names = ["embedding", "layer1", "layer2", "layer3"]
    assert [exit.name for exit in encoder.exits] == names
    with torch.no_grad():
        states, tokens, taps = encoder.states(x), encoder.taps(x, pooling="tokens"), encoder.taps(x)
        for name, expected in zip(names, hidden, strict=True):
            torch.testing.assert_close(tokens[name], norm(expected), rtol=0, atol=1e-5)
            pooled = tokens[name][:, 0] if cls and name != "embedding" else tokens[name].mean(1)
            assert torch.equal(taps[name], pooled)
        for name, expected in zip(names[:-1], hidden[:-1], strict=True):
            torch.testing.assert_close(states[name], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(tokens["layer3"], last, rtol=0, atol=1e-6)


def test_the_model_is_left_as_it_is(model: nn.Module) -> None:
    model.train()
    modules = dict(model.named_modules())
    list(modules.values())[3].eval()
    before = {name: (id(module), module.training, len(module._forward_hooks)) for name, module in modules.items()}
    tensors = {name: (id(tensor), tensor.clone(), tensor.requires_grad) for name, tensor in model.named_parameters()}
    random = torch.get_rng_state()
    encoder = from_module(model)
    check_encoder(encoder)
    encoder.eval()
    modules = dict(model.named_modules())
    assert before == {
        name: (id(module), module.training, len(module._forward_hooks)) for name, module in modules.items()
    }
    for name, tensor in model.named_parameters():
        assert tensors[name][0] == id(tensor)
        assert torch.equal(tensors[name][1], tensor)
        assert tensors[name][2] == tensor.requires_grad
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())


def test_parameters_are_shared() -> None:
    model = make("ViTModel", VIT)
    encoder = from_module(model)
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in encoder.parameters()} <= own
    x = encoder.input.draw(2, encoder.input.example_shape())
    before = encoder.eval().taps(x)["layer1"]
    with torch.no_grad():
        model.layers[0].mlp.fc1.weight.mul_(2)
    assert not torch.allclose(before, encoder.taps(x)["layer1"])


def test_training_flags_are_those_of_the_model() -> None:
    model = make("BertModel", BERT | {"hidden_dropout_prob": 0.5}).train()
    model.encoder.layer[1].eval()
    encoder = from_module(model)
    assert [stage.training for stage in encoder.stages] == [True, True, False, True]
    x = encoder.input.draw(1, (5,))
    assert not torch.equal(encoder.taps(x)["layer1"], encoder.taps(x)["layer1"])  # dropout


def test_pooling_may_be_chosen() -> None:
    encoder = from_module(make("ViTModel", VIT), pooling="mean").eval()
    check_encoder(encoder)
    x = encoder.input.draw(2, encoder.input.example_shape())
    assert torch.equal(encoder.taps(x)["layer2"], encoder.taps(x, pooling="tokens")["layer2"].mean(1))
    with pytest.raises(EncoderError, match="pooling='cls': wav2vec2 has mean"):
        from_module(MODELS["wav2vec2"](), pooling="cls")
    with pytest.raises(EncoderError, match="pooling='max': bert has cls, mean"):
        from_module(MODELS["bert"](), pooling="max")  # type: ignore[arg-type]


def test_macs_of_a_vit_by_hand() -> None:
    encoder = from_module(make("ViTModel", VIT))
    width, hidden, patch = COMMON["hidden_size"], COMMON["intermediate_size"], 4
    patches = (8 // patch) * (12 // patch)
    embedding = patches * width * (2 * patch * patch)
    tokens = patches + 1
    projections = 4 * tokens * width * width  # query, key, value, output
    attention = 2 * tokens * tokens * width  # scores, and their mix of the values
    mlp = 2 * tokens * width * hidden
    costs = exit_costs(encoder, (2, 8, 12), measure=False)
    layer = projections + attention + mlp
    assert [cost.macs for cost in costs.values()] == [embedding + k * layer for k in range(4)]


def test_macs_of_wav2vec2_by_hand() -> None:
    time, width, hidden = 100, COMMON["hidden_size"], COMMON["intermediate_size"]
    frames = [(time - 10) // 5 + 1]
    frames.append((frames[0] - 3) // 2 + 1)
    convolutions = frames[0] * 6 * 10 + frames[1] * 8 * 6 * 3
    positions = frames[1] + 1  # an even kernel with half of it as padding gives one more, which is cut off
    embedding = convolutions + frames[1] * 8 * width + positions * width * (width // 2) * 8
    n = frames[1]
    layer = 4 * n * width * width + 2 * n * n * width + 2 * n * width * hidden
    costs = exit_costs(from_module(MODELS["wav2vec2"]()), (time,), measure=False)
    assert [cost.macs for cost in costs.values()] == [embedding + k * layer for k in range(4)]


class TestFolders:
    def test_a_saved_encoder_comes_back(self, model: nn.Module, tmp_path: Path) -> None:
        encoder = from_module(model)
        encoder.save(tmp_path / "e", {"data": "none"})
        again = load_encoder(tmp_path / "e")
        assert type(again) is type(encoder)
        assert again.fingerprint() == encoder.fingerprint()
        assert (again.exits, again.input, again.config) == (encoder.exits, encoder.input, encoder.config)
        assert set(encoder.config) == {"model_type", "config", "pooling"}
        assert read_config(tmp_path / "e")["provenance"] == {"data": "none"}

    def test_the_librarys_own_folder_is_read(self, model: nn.Module, tmp_path: Path) -> None:
        assert load_encoder(save(model, tmp_path)).fingerprint() == from_module(model).fingerprint()

    def test_older_names_of_weights_are_known(self, tmp_path: Path) -> None:
        names = load_file(save(make("ViTModel", VIT), tmp_path) / "model.safetensors")
        assert "encoder.layer.0.attention.attention.query.weight" in names  # not what the modules are called by now

    def test_what_old_checkpoints_hold_is_known(self, tmp_path: Path) -> None:
        bert, waveform = MODELS["bert with a head"](), MODELS["wav2vec2"]()
        path = save(bert, tmp_path / "bert") / "model.safetensors"
        tensors = load_file(path)
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        }
        save_file(renamed | {"bert.embeddings.position_ids": torch.arange(20)[None]}, path, {"format": "pt"})
        assert load_encoder(tmp_path / "bert").fingerprint() == from_module(bert).fingerprint()
        path = save(waveform, tmp_path / "waveform") / "model.safetensors"
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        renamed = {}
        for name, tensor in load_file(path).items():
            for new, old in names.items():
                name = name.replace(new, old)
            renamed[name] = tensor
        save_file(renamed, path, {"format": "pt"})
        assert any(name.endswith("weight_g") for name in renamed)
        assert load_encoder(tmp_path / "waveform").fingerprint() == from_module(waveform).fingerprint()

    def test_random_weights_need_the_configuration_alone(self, tmp_path: Path) -> None:
        folder = save(MODELS["bert with a head"](), tmp_path)
        (folder / "model.safetensors").unlink()
        encoder = load_encoder(folder, weights="random", seed=4)
        assert encoder.fingerprint() == load_encoder(folder, weights="random", seed=4).fingerprint()
        assert encoder.fingerprint() != load_encoder(folder, weights="random", seed=5).fingerprint()
        check_encoder(encoder)

    def test_what_a_configuration_may_name_beside_sizes_is_left_alone(self, tmp_path: Path) -> None:
        model = MODELS["vit"]()
        plain = from_module(model).fingerprint()
        folder = save(
            model,
            tmp_path,
            auto_map={"AutoModel": "code.Model", "AutoConfig": "code.Config"},
            attn_implementation="somebody/kernel",
            _attn_implementation="somebody/kernel",
            quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
            dtype="float16",
            output_hidden_states=True,
        )
        (folder / "code.py").write_text("raise SystemExit('code of the folder was run')")
        assert load_encoder(folder).fingerprint() == plain

    def test_half_precision_weights_become_float32(self, tmp_path: Path) -> None:
        folder = save(MODELS["vit"]().half(), tmp_path)
        assert {p.dtype for p in load_encoder(folder).parameters()} == {torch.float32}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_hidden_layers": 2}, r"layers\.2\.attention\.k_proj\.bias is unknown; .* and \d+ more"),
            ({"num_hidden_layers": 4}, r"layers\.3\.attention\.q_proj\.weight is missing; .* and \d+ more"),
            ({"intermediate_size": 99}, r"layers\.0\.mlp\.fc1\.weight is \(24, 16\) instead of \(99, 16\); "),
            ({"model_type": "bert"}, "does not fit bert of its config.json: .* is missing"),
            ({"hidden_size": 15}, "cannot be built|does not fit"),
            ({"hidden_size": "wide"}, "vit cannot be built: .*hidden_size"),
            ({"hidden_act": "no such activation"}, "cannot be built"),
            ({"num_hidden_layers": 0}, "this vit has no layers"),
            ({"model_type": "resnet"}, "type 'resnet' is not cut as a whole, only vit, bert, wav2vec2 are"),
            ({"model_type": "no-such-model"}, "type 'no-such-model' is not cut as a whole"),
        ],
    )
    def test_weights_that_do_not_fit_are_one_line(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        folder = save(MODELS["vit with a head"](), tmp_path, **changes)
        assert re.search(message, refused(folder))

    def test_weights_of_another_model_name_the_first_three(self, tmp_path: Path) -> None:
        folder = save(MODELS["vit"](), tmp_path)
        save_file({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(2)}, folder / "model.safetensors")
        message = refused(folder)
        assert message.count("is missing") == 3
        assert "embeddings.cls_token is missing" in message
        assert "more" in message

    def test_a_missing_file_of_weights_says_how_to_correct_it(self, tmp_path: Path) -> None:
        folder = save(MODELS["vit"](), tmp_path)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        assert "has no model.safetensors" in refused(folder)
        assert "save_pretrained" in refused(folder)

    @pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
    def test_a_truncated_file_is_one_line(self, tmp_path: Path, kept: float) -> None:
        path = save(MODELS["vit"](), tmp_path) / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        refused(tmp_path)

    def test_a_configuration_of_timm_says_what_to_do(self, tmp_path: Path) -> None:
        described = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": {}}
        (tmp_path / "config.json").write_text(json.dumps(described))
        assert "belongs to timm: build the model with timm.create_model" in refused(tmp_path)

    def test_loading_is_silent(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        folder = save(MODELS["bert with a head"](), tmp_path)
        capfd.readouterr()
        load_encoder(folder)
        assert capfd.readouterr() == ("", "")


def refused(folder: Path) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestRandomTwins:
    def test_they_are_functions_of_the_seed(self, model: nn.Module) -> None:
        encoder = from_module(model)
        before = torch.get_rng_state()
        first, again, other = (encoder.reinitialised(seed) for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert first.fingerprint() == again.fingerprint() != other.fingerprint()
        assert first.config == encoder.config
        assert not {id(p) for p in first.parameters()} & {id(p) for p in encoder.parameters()}

    def test_weights_are_drawn_as_the_library_draws_them(self) -> None:
        twin = from_module(make("BertModel", BERT | {"initializer_range": 0.05, "hidden_size": 64})).reinitialised(0)
        weights = [p for name, p in twin.named_parameters() if name.endswith("dense.weight")]
        assert all(abs(p.detach().std().item() / 0.05 - 1) < 0.1 for p in weights)
        assert all(not p.detach().any() for name, p in twin.named_parameters() if name.endswith("dense.bias"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (
                lambda: make("Wav2Vec2Model", WAVEFORM | {"add_adapter": True}),
                "wav2vec2 is more than its layers one after another: at layer3",
            ),
            (lambda: make("ViTModel", VIT).half(), r"is torch\.float16: convert the model with model\.float\(\)"),
            (
                lambda: make("ResNetModel", {"hidden_sizes": [8], "depths": [1], "embedding_size": 8}),
                r"type 'resnet' is not cut as a whole.*stages=\[\.\.\.\]",
            ),
        ],
    )
    def test_a_model_that_cannot_be_cut(self, model: Any, message: str) -> None:
        with pytest.raises(EncoderError, match=message) as caught:
            from_module(model())
        assert "\n" not in str(caught.value)

    def test_an_input_beside_the_models_own(self) -> None:
        with pytest.raises(EncoderError, match="says its input and layout itself"):
            from_module(MODELS["vit"](), input=torch.zeros(1, 2, 8, 12))

    @pytest.mark.parametrize("folder", [False, True])
    def test_the_library_is_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: bool) -> None:
        path = save(MODELS["vit"](), tmp_path)
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(EncoderError, match=r"need the package transformers: pip install offramp\[hub\]"):
            load_encoder(path) if folder else load_encoder("huggingface", weights="random", model_type="vit", config={})

    def test_weights_without_their_configuration(self, tmp_path: Path) -> None:
        folder = save(MODELS["vit"](), tmp_path)
        with pytest.raises(EncoderError, match=r"give the folder that holds config\.json and model\.safetensors"):
            load_encoder("huggingface", checkpoint=folder / "model.safetensors")

    def test_the_name_alone(self) -> None:
        with pytest.raises(EncoderError, match="huggingface is many models: name a folder"):
            load_encoder("huggingface", weights="random")

    def test_a_configuration_with_an_unknown_key(self) -> None:
        with pytest.raises(EncoderError, match=r"'hiden_size' is no argument of vit: known are .*hidden_size"):
            load_encoder("huggingface", weights="random", model_type="vit", config={"hiden_size": 3})

    def test_token_numbers_that_do_not_exist(self) -> None:
        encoder = from_module(MODELS["bert"]())
        with pytest.raises(EncoderError, match="input holds 0 to 30: this encoder takes 0 to 29"):
            encoder.taps(torch.tensor([[0, 30]]))
        with pytest.raises(
            EncoderError, match=r"\(N, 21\) does not fit: .* tokens >= 1 and <= 20\) torch.int64 below 30"
        ):
            encoder.taps(torch.zeros(1, 21, dtype=torch.int64))


def test_the_shortest_waveform_gives_one_frame() -> None:
    encoder: StagedEncoder = from_module(MODELS["wav2vec2"]()).eval()
    least = encoder.input.minimum[0]
    assert least == 10 + 2 * 5
    assert encoder.taps(torch.randn(1, least), ["layer1"], "tokens")["layer1"].shape == (1, 1, 16)
    with pytest.raises(EncoderError, match=f"time >= {least}"):
        encoder.taps(torch.randn(1, least - 1))


def test_the_models_are_those_of_the_library() -> None:
    assert all(isinstance(make_model(), transformers.PreTrainedModel) for make_model in MODELS.values())
