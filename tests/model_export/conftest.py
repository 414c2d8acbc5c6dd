"""Fixtures that all tests share; graphs are exported once, because that takes seconds."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
import torch

from model_export import checkpoint
from model_export.__main__ import main
from model_export.commands.export import ExportJob, Trace, export
from model_export.comparison.parity import Parity
from model_export.entry.labels import Labels
from model_export.entry.version import open_version
from model_export.graphs.trace import export_graph
from model_export.models.registry import Dimensions, build, dimensions_of
from model_export.models.served import ServedModel, served
from model_export.preprocessing import Buckets, Preprocessing
from tests.model_export.files import color_folders, noise_photo
from tests.model_export.networks import CONTRACT_MEAN, CONTRACT_STD, randomised

SIDE = 64
LABELS = ("blue", "green", "red")
PALETTE = ((128, 0, 0), (0, 128, 0), (128, 128, 0))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more threads, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Exported:
    """A served model and its graph."""

    dimensions: Dimensions
    model: ServedModel
    graph: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Callable[..., Exported]:
    """Export a randomised model at 64x64 (or dynamic) with 3 classes; each variant once."""
    cache: dict[Dimensions, Exported] = {}
    folder = tmp_path_factory.mktemp("graphs")

    def exported(name: str, **changes: object) -> Exported:
        dimensions = dimensions_of(name, classes=3, **changes)
        if dimensions not in cache:
            torch.manual_seed(0)
            network = randomised(build(dimensions))
            model = served(network, CONTRACT_MEAN, CONTRACT_STD)
            graph = folder / f"{len(cache)}.onnx"
            export_graph(model, dimensions.task, (SIDE, SIDE), graph)
            cache[dimensions] = Exported(dimensions, model, graph)
        return cache[dimensions]

    return exported


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [noise_photo(folder / f"{seed}.png", seed) for seed in range(3)]


@pytest.fixture(scope="session")
def labels_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path


@pytest.fixture(scope="session")
def colors(tmp_path_factory) -> Path:
    """Class folders of photos of one colour."""
    return color_folders(tmp_path_factory.mktemp("colors"), images=4)


@pytest.fixture(scope="session")
def half_checkpoint(tmp_path_factory) -> Path:
    """A VT-ResNet-18 as `train` writes it: float16 with its dimensions."""
    torch.manual_seed(1)
    dimensions = dimensions_of("vt_resnet18", classes=3)
    network = randomised(build(dimensions), seed=1)
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors"
    checkpoint.write(path, network, dimensions, {"seed": "1"})
    return path


@dataclass(frozen=True)
class FirstExport:
    """A model repository with `colors` 1, and the output of the command that wrote it."""

    weights: Path
    output: str


@pytest.fixture(scope="session")
def first_export(tmp_path_factory, half_checkpoint, labels_file, photos) -> FirstExport:
    """Export a checkpoint with examples; never write into the repository."""
    weights = tmp_path_factory.mktemp("classifier") / "weights"
    arguments = ["--model", "vt_resnet18", "--name", "colors", "--labels", str(labels_file)]
    arguments += ["--input-size", str(SIDE), str(SIDE), "--max-batch-size", "8"]
    arguments += ["--weights-dir", str(weights), "--examples", str(photos[0].parent)]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert main(["export", str(half_checkpoint), *arguments]) == 0
    return FirstExport(weights, output.getvalue())


@pytest.fixture(scope="session")
def classifier_weights(first_export) -> Path:
    """A model repository with `colors` 1; never write into it."""
    return first_export.weights


@pytest.fixture
def weights(classifier_weights, tmp_path) -> Path:
    """A copy of the model repository, to write into."""
    return Path(shutil.copytree(classifier_weights, tmp_path / "weights"))


@pytest.fixture(scope="session")
def quantized_weights(tmp_path_factory, classifier_weights, photos) -> Path:
    """The same model repository after `quantize`; never write into it."""
    weights = tmp_path_factory.mktemp("quantized") / "weights"
    shutil.copytree(classifier_weights, weights)
    arguments = [str(photos[0].parent), "--weights-dir", str(weights)]
    assert main(["quantize", "colors", *arguments]) == 0
    return weights


@pytest.fixture
def three_precisions(quantized_weights, tmp_path) -> Path:
    """A copy of the quantized repository, to write into."""
    return Path(shutil.copytree(quantized_weights, tmp_path / "three" / "weights"))


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit status, standard output and standard error."""

    def run(*arguments) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def ready_trace(classifier_weights) -> Trace:
    """Take the graph of `colors` instead of tracing the same network again."""
    graph = open_version(classifier_weights, "colors").graph()

    def trace(model, task, input_size, path) -> None:
        onnx.save(onnx.load(graph), path)  # with the weights inside, as traced

    return trace


@dataclass(frozen=True)
class ExportedSegmenter:
    """The outcome of an export: the job, the folder of the version, and its parity."""

    job: ExportJob
    folder: Path
    parity: Parity


@pytest.fixture
def exported_segmenter(exported, tmp_path) -> ExportedSegmenter:
    """A segmenter in a repository, without photos, from a float32 checkpoint."""
    each = exported("vt_fpn_resnet18")
    source = tmp_path / "checkpoint.safetensors"
    checkpoint.write(source, each.model.network, each.dimensions, {}, half=False)
    job = ExportJob(
        source=source,
        dimensions=each.dimensions,
        name="two.sides-1",
        labels=Labels(LABELS, PALETTE),
        preprocessing=Preprocessing(Buckets.around(32)),
        max_batch_size=2,
        weights=tmp_path / "new" / "weights",
    )

    def trace(model, task, input_size, path) -> None:
        shutil.copyfile(each.graph, path)

    return ExportedSegmenter(job, *export(job, trace))
