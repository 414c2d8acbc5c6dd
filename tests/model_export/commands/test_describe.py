"""`describe` prints the costs of a model as a table or as JSON."""

import json
import re

import pytest


def test_the_costs_are_printed_as_json(run):
    status, out, err = run("describe", "vt_resnet18", "--json")
    data = json.loads(out)
    assert (status, err) == (0, "")
    assert list(data) == ["model", "task", "dimensions", "input_size", "parameters", "macs"]
    assert data["macs"] == 1_578_950_656
    assert data["parameters"] == 11_671_592


def test_every_dimension_can_be_changed(run):
    arguments = ["--tokenizer", "pooling", "--token-relation", "graph", "--tokens", "32"]
    arguments += ["--no-projector", "--stride-in-1x1", "--heads", "2", "--classes", "10"]
    _, out, _ = run("describe", "vt_resnet50", *arguments, "--input-size", "96", "128", "--json")
    data = json.loads(out)
    assert data["input_size"] == [96, 128]
    assert data["dimensions"] == {
        "family": "vt_resnet",
        "depth": 50,
        "classes": 10,
        "stride_in_1x1": True,
        "tokenizer": "pooling",
        "token_relation": "graph",
        "tokens": 32,
        "projector": False,
        "heads": 2,
    }


def test_the_json_of_a_segmenter_has_the_costs_of_its_pyramid(run):
    _, out, _ = run("describe", "vt_fpn_resnet50", "--stride-in-1x1", "--json")
    data = json.loads(out)
    assert data["module_macs"] / 1e9 == pytest.approx(8.5, rel=0.05)
    assert data["input_size"] == [800, 1216]


def test_the_table_has_a_line_per_layer_and_the_total(run):
    status, out, _ = run("describe", "vt_resnet18")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "MACs"]
    assert lines[1].split() == ["trunk", "ResNet", "2,782,784", "1,402.52", "M"]
    (module,) = (line.split() for line in lines if line.startswith("  visual_transformers.0 "))
    assert module[1:3] == ["VisualTransformer", "512x14x14"]
    assert lines[-1] == "vt_resnet18 at 224x224: 11,671,592 parameters, 1,578.95 M MACs"


def test_the_columns_of_the_table_are_aligned(run):
    _, out, _ = run("describe", "resnet18")
    table = out.partition("\n\n")[0].splitlines()
    assert len({len(line) for line in table}) == 1
    assert len({re.match(r"\s*\S+\s+", line).end() for line in table}) == 1
