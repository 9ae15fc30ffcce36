"""The public checkpoints against the network written down in their own terms: torch's layers, in evaluation mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from offramp.encoders.amc_ssl import AmcSsl
from offramp.encoders.check import check_encoder
from offramp.encoders.registry import load_encoder
from offramp.errors import EncoderError
from offramp.experiment.prepare import load
from offramp.schema.suite import load_suite

CHECKPOINTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "amc-ssl"
NAMES = ("ssl_pretrain", "ssl_pretrain_high", "2016_ssl_pretrain")


class Published(nn.Module):
    """As the checkpoints' keys say it."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for inputs, outputs, kernel in ((2, 64, 9), (64, 128, 7), (128, 128, 5)):
            parts += [nn.Conv1d(inputs, outputs, kernel, 2, kernel // 2), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.conv = nn.Sequential(*parts)
        layer = nn.TransformerEncoderLayer(128, 4, 256, 0.1, "gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(128, 128), nn.ReLU())

    def taps(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        for number in range(3):
            x = self.conv[3 * number : 3 * number + 3](x)
            found[f"conv{number + 1}"] = x.mean(2)
        x = x.transpose(1, 2)
        for number, layer in enumerate(self.transformer.layers, start=1):
            x = layer(x)
            found[f"attention{number}"] = x.mean(1)
        return found | {"head": self.head(x.mean(1))}


@pytest.fixture(scope="module")
def published() -> Published:
    torch.manual_seed(0)
    network = Published().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def ours(network: nn.Module, folder: Path, **options: str) -> AmcSsl:
    torch.save(network.state_dict(), folder / "a.pt")
    encoder = load_encoder("amc-ssl", checkpoint=folder / "a.pt", **options)
    assert isinstance(encoder, AmcSsl)
    return encoder.eval()


@pytest.mark.parametrize("time", [8, 33, 128, 1024])
@torch.no_grad()
def test_every_exit_of_random_weights(published: Published, tmp_path: Path, time: int) -> None:
    x = 3 * torch.randn(4, 2, time)
    found = ours(published, tmp_path, scale="none").taps(x[:, :, None])
    for name, expected in published.taps(x).items():
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_public_checkpoints(name: str) -> None:
    if not CHECKPOINTS.exists():
        pytest.skip("the real data is not on this machine")
    path = CHECKPOINTS / f"{name}.pt"
    network = Published().eval()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    encoder = load_encoder("amc-ssl", checkpoint=path).eval()
    assert encoder.exits[-1].params == sum(p.numel() for p in network.parameters())
    for time in (128, 512, 1024):
        x = torch.randn(3, 2, time)
        unit = x / x.square().sum(1, keepdim=True).mean(2, keepdim=True).sqrt()
        found = encoder.taps(x[:, :, None])
        for exit, expected in network.taps(unit).items():
            torch.testing.assert_close(found[exit], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_antennas_are_seen_one_by_one_and_averaged(published: Published, tmp_path: Path) -> None:
    encoder = ours(published, tmp_path, scale="none")
    x = torch.randn(3, 2, 4, 64)
    found = encoder.taps(x)
    alone = [encoder.taps(x[:, :, antenna : antenna + 1]) for antenna in range(4)]
    for name, tap in found.items():
        torch.testing.assert_close(tap, torch.stack([each[name] for each in alone]).mean(0), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_receivers_gain_does_not_matter_by_default(published: Published, tmp_path: Path) -> None:
    encoder, x = ours(published, tmp_path), torch.randn(2, 2, 1, 64)
    for name, tap in encoder.taps(1e-4 * x).items():
        torch.testing.assert_close(tap, encoder.taps(x)[name], atol=1e-4, rtol=1e-4)


def test_it_is_a_proper_encoder() -> None:
    check_encoder(AmcSsl())


def test_an_unknown_scale() -> None:
    with pytest.raises(EncoderError, match="scale='db': choose unit_power or none"):
        AmcSsl(scale="db")  # type: ignore[arg-type]


@torch.no_grad()
def test_a_suite_says_how_windows_are_scaled(published: Published, tmp_path: Path) -> None:
    torch.save(published.state_dict(), tmp_path / "a.pt")
    content = {"tasks": [{"name": "t", "data": {"path": "a.h5", "target": "y"}}]}
    x = 1e-2 * torch.randn(2, 2, 1, 64)
    for scale in ("unit_power", "none"):
        encoder = {"name": "amc-ssl", "checkpoint": "a.pt", "scale": scale}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(content | {"encoder": encoder}))
        found, expected = load(load_suite(tmp_path / "suite.yaml"), "cpu"), ours(published, tmp_path, scale=scale)
        assert found.config == {"scale": scale}
        torch.testing.assert_close(found.taps(x)["head"], expected.taps(x)["head"])
