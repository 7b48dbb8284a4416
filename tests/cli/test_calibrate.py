"""`hybrid-llm calibrate` measures the device, saves the result for the next start, and calls no node by default."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text(
        "version: 1\nprediction: {folder: state}\nbackends:\n  edge: {kind: onnx}\n"
        "  cloud: {kind: grpc, target: '127.0.0.1:1', tls: {ca: ca.pem, cert: app.pem, key: app.key}}\n"
    )
    return path


def test_the_device_is_measured_and_saved_and_no_node_is_called(cli, config, tmp_path):
    result = cli("calibrate", "--config", config)
    assert result.code == 0, result.err
    assert "edge: first token" in result.out
    assert "cloud" not in result.out
    (path,) = (tmp_path / "state").iterdir()
    assert str(path) in result.out


def test_json_has_the_times_and_the_file(cli, config):
    (found,) = json.loads(cli("calibrate", "--config", config, "--backend", "edge", "--json").out)
    assert set(found["ttft_ms"]) == {"32", "128", "512"}
    assert 0.0 < found["ttft_ms"]["32"] <= found["ttft_ms"]["512"]
    assert found["saved"].endswith(".json")


def test_a_backend_that_does_not_exist_is_reported_with_the_nearest(cli, config):
    result = cli("calibrate", "--config", config, "--backend", "egde")
    assert result.code == 2
    assert "did you mean `edge`" in result.err


def test_a_folder_that_cannot_be_written_is_reported(cli, config, tmp_path):
    (tmp_path / "state").write_text("a file")
    result = cli("calibrate", "--config", config)
    assert result.code == 1
    assert "not saved" in result.out
