"""Training learns, is reproducible to the bit, and resumes after an interruption."""

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional

from model_export import checkpoint
from model_export.errors import InvalidCheckpoint
from model_export.models.registry import dimensions_of
from model_export.models.resnet import ResNet
from model_export.preprocessing import Buckets, Preprocessing, Squash
from model_export.samples import IGNORED, Sample, image_folder, image_label_pairs
from model_export.training.interruption import TrainingInterrupted
from model_export.training.loop import Trainer, train
from model_export.training.processes import Processes
from model_export.training.recipes import RECIPES
from model_export.training.run import Run, TrainingData
from tests.model_export.files import color_folders, flat_photo, rows_of, two_color_pairs
from tests.model_export.networks import randomised

CLASSIFICATION = RECIPES["classification"].changed(
    epochs=3,
    batch_size=8,
    learning_rate=0.005,
    input_sizes=((32, 32),),
    ema_decay=0.8,
    color_jitter=0.1,
)


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> TrainingData:
    root = tmp_path_factory.mktemp("data")
    train_samples, _ = image_folder(color_folders(root / "train", images=16))
    validation, _ = image_folder(color_folders(root / "val", images=4))
    return TrainingData(train_samples, validation)


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> TrainingData:
    root = tmp_path_factory.mktemp("pairs")
    pairs = [
        image_label_pairs(two_color_pairs(root / name, n)) for name, n in (("a", 16), ("b", 3))
    ]
    return TrainingData(*pairs)


def classification_run(data: TrainingData, directory: Path, **changes) -> Run:
    dimensions = dimensions_of("resnet18", classes=3)
    run = Run(
        dimensions=dimensions,
        recipe=CLASSIFICATION,
        data=data,
        preprocessing=Preprocessing(Squash(32, 32)),
        directory=directory,
        workers=0,
    )
    return dataclasses.replace(run, **changes)


def segmentation_run(data: TrainingData, directory: Path, **changes) -> Run:
    dimensions = dimensions_of("vt_fpn_resnet18", classes=2)
    recipe = RECIPES["segmentation"].changed(
        epochs=9,
        batch_size=4,
        learning_rate=0.005,
        input_sizes=((64, 64),),
        ema_decay=0.8,
        color_jitter=0.1,
    )
    run = Run(
        dimensions=dimensions,
        recipe=recipe,
        data=data,
        preprocessing=Preprocessing(Buckets.around(64)),
        directory=directory,
        workers=0,
    )
    return dataclasses.replace(run, **changes)


@pytest.fixture(scope="module")
def finished(colors, tmp_path_factory) -> Run:
    """A run without interruption."""
    run = classification_run(colors, tmp_path_factory.mktemp("finished") / "new")
    train(run)
    return run


def trainer_of(run: Run) -> Trainer:
    return Trainer(run, Processes(torch.device("cpu")))


def tensors_of(run: Run) -> dict[str, torch.Tensor]:
    return dict(checkpoint.read(run.directory / "checkpoint.safetensors").tensors)


def state_of(run: Run) -> dict:
    return torch.load(run.directory / "last.pt", weights_only=True)


def assert_same_bits(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_a_classifier_learns_three_colours(finished):
    rows = rows_of(finished.directory)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == ["epoch", "train_loss", "train_seconds", "top1", "top5"]
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"])
    assert float(rows[-1]["top1"]) > 0.9


def test_the_learning_curve_is_drawn(finished):
    with Image.open(finished.directory / "learning_curve.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_the_finished_checkpoint_holds_the_averaged_weights_and_how_they_were_made(finished):
    stored = checkpoint.read(finished.directory / "checkpoint.safetensors")
    assert stored.dimensions == finished.dimensions
    assert {"recipe", "metrics", "seed", "seconds", "device"} <= stored.metadata.keys()
    averaged = state_of(finished)["averaged"]
    for key, value in stored.tensors.items():
        expected = averaged[f"module.{key}"]
        assert torch.equal(value, expected.half() if value.is_floating_point() else expected)
    raw = state_of(finished)["network"]["fc.weight"]
    assert not torch.equal(raw, averaged["module.fc.weight"])


def assert_equal_runs(one: Run, other: Run) -> None:
    assert_same_bits(tensors_of(one), tensors_of(other))
    assert_same_bits(state_of(one)["network"], state_of(other)["network"])
    for row, expected in zip(rows_of(one.directory), rows_of(other.directory), strict=True):
        assert row | {"train_seconds": ""} == expected | {"train_seconds": ""}


def test_a_training_resumed_after_a_signal_equals_an_uninterrupted_one_to_the_bit(
    finished, tmp_path, monkeypatch
):
    run = dataclasses.replace(finished, directory=tmp_path)
    step, steps = Trainer.step, []

    def signalled(trainer, forward, parts):
        steps.append(len(parts))
        if len(steps) == 8:  # in the middle of the second epoch of 6 updates
            signal.raise_signal(signal.SIGTERM)
        return step(trainer, forward, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", signalled)
        with pytest.raises(TrainingInterrupted):
            train(run)
    assert (state_of(run)["epoch"], state_of(run)["update"]) == (1, 2)
    assert [row["epoch"] for row in rows_of(run.directory)] == ["1"]
    assert not (tmp_path / "checkpoint.safetensors").exists()

    torch.manual_seed(999)  # the random state of a new process
    train(run)
    assert_equal_runs(run, finished)


def test_a_training_that_was_killed_resumes_where_it_last_saved(finished, tmp_path, monkeypatch):
    run = dataclasses.replace(finished, directory=tmp_path, save_minutes=0.0)
    step, steps = Trainer.step, []

    def killed(trainer, forward, parts):
        steps.append(len(parts))
        if len(steps) == 4:
            raise MemoryError
        return step(trainer, forward, parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", killed)
        with pytest.raises(MemoryError):
            train(run)
    assert (state_of(run)["epoch"], state_of(run)["update"]) == (0, 3)
    train(dataclasses.replace(run, save_minutes=9.0))
    assert_equal_runs(run, finished)


def test_a_finished_run_is_not_trained_again(finished, monkeypatch):
    before = tensors_of(finished)
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained again"))
    assert train(finished)["epoch"] == 3
    assert_same_bits(tensors_of(finished), before)


def test_another_seed_gives_another_network(finished):
    first, second = (_fresh(dataclasses.replace(finished, seed=seed)) for seed in (0, 1))
    assert not torch.equal(first["conv1.weight"], second["conv1.weight"])


def _fresh(run: Run) -> dict[str, torch.Tensor]:
    torch.manual_seed(run.seed)
    return dict(trainer_of(run).network.state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": RECIPES["classification"]},
        {"recipe": CLASSIFICATION.changed(betas=(0.9, 0.999))},
        {"seed": 1},
        {"dimensions": dimensions_of("resnet18", classes=4)},
    ],
    ids=["recipe", "betas", "seed", "dimensions"],
)
def test_a_different_run_in_the_same_folder_is_refused(finished, changes):
    before = (finished.directory / "last.pt").read_bytes()
    with pytest.raises(InvalidCheckpoint, match="belongs to a run with a different"):
        train(dataclasses.replace(finished, **changes))
    assert (finished.directory / "last.pt").read_bytes() == before


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(5)
    weights = randomised(ResNet(18, classes=10)).state_dict()
    path = tmp_path_factory.mktemp("backbone") / "resnet18.pth"
    torch.save(weights, path)
    return path, weights


def test_a_run_from_scratch_is_not_resumed_with_a_backbone(finished, backbone):
    with pytest.raises(InvalidCheckpoint, match="different model, backbone, recipe"):
        train(dataclasses.replace(finished, backbone=backbone[0]))


@pytest.mark.parametrize(
    ("model", "trunk"),
    [("resnet18", ""), ("vt_resnet18", "trunk"), ("vt_fpn_resnet18", "backbone")],
)
def test_a_training_from_a_backbone_starts_with_its_weights_at_their_own_rate(
    request, tmp_path, backbone, model, trunk
):
    path, weights = backbone
    segments = model == "vt_fpn_resnet18"
    make, data = (segmentation_run, "sides") if segments else (classification_run, "colors")
    run = make(
        request.getfixturevalue(data),
        tmp_path,
        dimensions=dimensions_of(model, classes=3),
        backbone=path,
    )
    trainer = trainer_of(run)
    network = trainer.network.get_submodule(trunk)
    own = {key: value for key, value in network.state_dict().items() if key[:3] != "fc."}
    assert_same_bits(own, {key: weights[key] for key in own})
    slow = {
        id(p) for g in trainer.optimizer.param_groups if g["factor"] == 0.5 for p in g["params"]
    }
    assert slow == {id(p) for name, p in network.named_parameters() if name[:3] != "fc."}


def test_fine_tuning_starts_with_all_weights_of_the_models_own_checkpoint(finished, tmp_path):
    source = finished.directory / "checkpoint.safetensors"
    run = dataclasses.replace(finished, directory=tmp_path, initial_checkpoint=source)
    trainer = trainer_of(run)
    weights = checkpoint.read(source).tensors
    own = {key: value.to(weights[key].dtype) for key, value in trainer.network.state_dict().items()}
    assert_same_bits(own, dict(weights))
    assert {group["factor"] for group in trainer.optimizer.param_groups} == {1.0}


def test_fine_tuning_does_not_resume_a_run_from_scratch(finished):
    source = finished.directory / "checkpoint.safetensors"
    with pytest.raises(InvalidCheckpoint, match="belongs to a run with a different"):
        train(dataclasses.replace(finished, initial_checkpoint=source))


def test_a_foreign_backbone_is_refused_before_anything_is_written(colors, tmp_path):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    run = classification_run(colors, tmp_path / "run", backbone=tmp_path / "foreign.pth")
    with pytest.raises(InvalidCheckpoint, match=r"wrong shape: conv1\.weight"):
        train(run)
    assert not (tmp_path / "run").exists()


def test_norms_and_biases_are_not_decayed(colors, tmp_path):
    trainer = trainer_of(classification_run(colors, tmp_path))
    parameters = dict(trainer.network.named_parameters())
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (parameter.dim() > 1)
    counted = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert counted == len(parameters)


def test_a_segmenter_learns_two_colours_and_void_pixels_do_not_count(sides, tmp_path):
    """Every label map has a void line, which would otherwise be class 255."""
    run = segmentation_run(sides, tmp_path)
    train(run)
    rows = rows_of(run.directory)
    assert list(rows[0]) == ["epoch", "train_loss", "train_seconds", "miou", "pixel_accuracy"]
    assert float(rows[-1]["train_loss"]) < 0.8 * float(rows[0]["train_loss"])
    assert float(rows[-1]["miou"]) > 0.85


@pytest.fixture(scope="module")
def segmenter(sides, tmp_path_factory):
    run = segmentation_run(sides, tmp_path_factory.mktemp("segmenter"))
    torch.manual_seed(0)
    return trainer_of(run)


def test_the_loss_is_that_of_the_labelled_pixels_alone(segmenter):
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 64, 64, 3), generator=chance).to(torch.uint8)
    targets = torch.randint(0, 2, (2, 64, 64), generator=chance)
    targets[:, :, 20:] = IGNORED
    objective = segmenter.objective
    with torch.no_grad():
        logits = segmenter.network.train()(objective.normalisation(images))
    expected = functional.cross_entropy(
        logits[..., :20], targets[..., :20], weight=objective.class_weights
    )
    given = segmenter.step(segmenter.network, [[images, targets]])
    assert given == pytest.approx(float(expected), rel=0.02)  # bfloat16 on some machines


def test_a_batch_without_any_labelled_pixel_changes_nothing(segmenter):
    before = {k: v.clone() for k, v in segmenter.network.state_dict().items()}
    images = torch.full((2, 64, 64, 3), 9, dtype=torch.uint8)
    nothing = torch.full((2, 64, 64), IGNORED)
    assert segmenter.step(segmenter.network, [[images, nothing]]) == 0.0
    assert_same_bits(segmenter.network.state_dict(), before)


def test_a_class_with_a_quarter_of_the_pixels_weighs_more(tmp_path):
    """1 / ln(1.02 + 3/4) and 1 / ln(1.02 + 1/4), divided by their mean."""
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = 1
    Image.fromarray(labels).save(tmp_path / "labels.png")
    photo = flat_photo(tmp_path / "photo.png", (9, 9, 9), (64, 64))
    pair = [Sample(photo, tmp_path / "labels.png")]
    run = segmentation_run(TrainingData(pair, pair), tmp_path / "run")
    weights = trainer_of(run).objective.class_weights
    assert weights.tolist() == pytest.approx([0.5902, 1.4098], abs=1e-4)


def test_a_run_that_diverges_stops_with_a_sentence(colors, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "step", lambda *_: float("nan"))
    with pytest.raises(InvalidCheckpoint, match="training diverged: the loss is not finite"):
        train(classification_run(colors, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def teacher(finished) -> Path:
    return finished.directory / "checkpoint.safetensors"


def test_a_teacher_changes_what_is_learned(finished, teacher, tmp_path):
    """With a weight of 1 the labels do not matter: wrong ones teach the same."""
    first = finished.recipe.changed(epochs=1, distillation=1.0)
    right = dataclasses.replace(finished, recipe=first, teacher=teacher)
    samples = [Sample(each.image, 0) for each in finished.data.train]
    wrong = TrainingData(samples, finished.data.validation)
    losses = []
    for index, data in enumerate((finished.data, wrong)):
        run = dataclasses.replace(right, data=data, directory=tmp_path / str(index))
        train(run)
        losses.append(rows_of(run.directory)[0]["train_loss"])
    assert losses[0] == losses[1]


def test_a_teacher_of_other_classes_is_refused(finished, teacher, tmp_path):
    four = dimensions_of("resnet18", classes=4)
    run = dataclasses.replace(finished, dimensions=four, directory=tmp_path / "run")
    with pytest.raises(InvalidCheckpoint, match="has 3 classes for classification, but the model"):
        train(dataclasses.replace(run, teacher=teacher))
    assert not (tmp_path / "run").exists()


def test_a_strong_recipe_with_accumulated_gradients_trains_and_is_evaluated_at_scales(
    colors, tmp_path
):
    recipe = RECIPES["classification-strong"].changed(
        epochs=1, batch_size=8, input_sizes=((32, 32),)
    )
    run = classification_run(
        colors, tmp_path, recipe=recipe, accumulate=2, amp="off", evaluation_scales=(1.0,)
    )
    row = train(run)
    assert row["train_loss"] > 0
    assert {"top1", "top1_multi_scale", "top5_multi_scale"} <= row.keys()


def test_accumulated_parts_have_the_gradients_of_their_batch(colors, tmp_path):
    """Without BatchNorm's dependence on the part, which evaluation mode removes."""
    gradients = []
    for parts in (1, 2):
        run = classification_run(colors, tmp_path, amp="off", accumulate=parts)
        torch.manual_seed(0)
        trainer = trainer_of(run)
        trainer.network.eval()
        chance = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (4, 32, 32, 3), generator=chance, dtype=torch.uint8)
        targets = torch.tensor([0, 1, 2, 0])
        batch = [[images[i::parts], targets[i::parts]] for i in range(parts)]
        trainer.step(trainer.network, batch)
        gradients.append(trainer.network.fc.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_tensorboard_gets_the_curves(colors, tmp_path):
    recipe = CLASSIFICATION.changed(epochs=1)
    train(classification_run(colors, tmp_path, recipe=recipe, tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/learning_rate", "val/top1"} <= set(events.Tags()["scalars"])
    assert [each.step for each in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
