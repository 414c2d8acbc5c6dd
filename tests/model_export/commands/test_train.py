"""`train` reads a data set and writes a checkpoint that `export` accepts."""

import json

from tests.model_export.files import color_folders, two_color_pairs


def test_export_accepts_the_checkpoint_of_a_training_run(run, tmp_path, labels_file):
    color_folders(tmp_path / "data/train", images=4)
    color_folders(tmp_path / "data/val", images=1)
    status, out, _ = run(
        *("train", tmp_path / "data", "--model", "vt_resnet18", "--output", tmp_path / "run"),
        *("--epochs", 1, "--batch-size", 6, "--crop-sizes", 32, "--input-size", 32, 32),
        *("--workers", 0),
    )
    assert status == 0
    assert json.loads(out.splitlines()[-1])["epoch"] == 1
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"last.pt", "metrics.csv", "learning_curve.png", "checkpoint.safetensors"}
    status, _, err = run(
        *("export", tmp_path / "run/checkpoint.safetensors", "--model", "vt_resnet18"),
        *("--name", "colors", "--labels", labels_file, "--input-size", 32, 32),
        *("--max-batch-size", 2, "--weights-dir", tmp_path / "weights"),
    )
    assert (status, err) == (0, "")
    assert (tmp_path / "weights/colors/1/model.onnx").is_file()


def test_splits_with_different_class_folders_are_refused(run, tmp_path):
    color_folders(tmp_path / "train", images=1)
    color_folders(tmp_path / "val", images=1, prefix="dark ")
    status, _, err = run("train", tmp_path, "--model", "resnet18", "--output", tmp_path / "run")
    assert status == 2
    assert "has different class folders in train/ and val/" in err


def test_training_a_segmenter_needs_the_number_of_classes(run, tmp_path):
    for name in ("train", "val"):
        two_color_pairs(tmp_path / name, images=1)
    status, _, err = run("train", tmp_path, "--model", "fpn_resnet18", "--output", tmp_path / "run")
    assert status == 2
    assert "training on label maps needs --classes" in err
