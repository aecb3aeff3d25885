"""Shared invariances: equal to plain numpy in float64, one inversion per layer, and the same after a kill."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from adaptive_ft.analysis.invariance import Matrices, stir, stir_matrices
from adaptive_ft.analysis.invariance_summary import plain as as_json
from adaptive_ft.analysis.inversion import InversionConfig
from adaptive_ft.analysis.measured_images import MeasureConfig
from adaptive_ft.analysis.representations import Reader
from adaptive_ft.analysis.retention import retention
from adaptive_ft.errors import UserError
from tests.analysis.small_readers import SHAPE, counted, images, perceptron, reader_of, vit_reader

Floats = NDArray[np.float64]
CONFIG = MeasureConfig(InversionConfig(iterations=12, step=0.2), batch_size=5)


def numpy_layers(model: nn.Sequential, x: Floats) -> list[Floats]:
    """What the tanh layers of a perceptron give, in float64."""
    found = []
    for linear in model[1::2]:
        x = np.tanh(x @ linear.weight.double().numpy().T + linear.bias.double().numpy())
        found.append(x)
    return found


def numpy_inversion(model: nn.Sequential, layer: int, x: Floats, start: Floats, config: InversionConfig) -> Floats:
    """Best of all steps, one image after another, the chain rule by hand."""
    weights = [linear.weight.double().numpy() for linear in model[1::2]][: layer + 1]
    found = []
    for wanted, moving in zip(x, start, strict=True):
        target, best = numpy_layers(model, wanted)[layer], (np.inf, moving)
        for _ in range(config.iterations + 1):
            activations = numpy_layers(model, moving)[: layer + 1]
            off = activations[-1] - target
            loss = np.linalg.norm(off) / np.linalg.norm(target)
            best = min(best, (loss, moving), key=lambda one: one[0])
            gradient = off / np.linalg.norm(off) / np.linalg.norm(target)
            for weight, activation in zip(weights[::-1], activations[::-1], strict=True):
                gradient = weight.T @ (gradient * (1 - activation**2))
            moving = np.clip(moving - config.step * gradient / (np.linalg.norm(gradient) + 1e-10), 0, 1)
        found.append(best[1])
    return np.array(found)


def numpy_cka(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float(((y.T @ x) ** 2).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def test_stir_equals_plain_numpy_from_stored_starts() -> None:
    first, second, x = perceptron(1), perceptron(2), images(13)
    starts = images(13, seed=8)
    found = stir(reader_of(first), reader_of(second), ("block.1", "block.0"), x, CONFIG, starts)
    plain, start = (values.flatten(1).double().numpy() for values in (x, starts))
    of_first, of_second = numpy_layers(first, plain)[1], numpy_layers(second, plain)[0]
    on_second = numpy_inversion(second, 0, plain, start, CONFIG.inversion)
    on_first = numpy_inversion(first, 1, plain, start, CONFIG.inversion)
    assert found.m1m2 == pytest.approx(numpy_cka(of_first, numpy_layers(first, on_second)[1]), abs=2e-3)
    assert found.m2m1 == pytest.approx(numpy_cka(of_second, numpy_layers(second, on_first)[0]), abs=2e-3)
    assert found.rsm == pytest.approx(numpy_cka(of_first, of_second), abs=1e-6)
    assert abs(found.m1m2 - found.m2m1) > 0.02  # the two directions are told apart


def trained(seed: int) -> nn.Sequential:
    """A perceptron with a narrow last layer that learned which half of an image is brighter."""
    model = perceptron(seed, (32, 6)).requires_grad_()
    head, x = nn.Linear(6, 2), images(256, seed=9)
    x[:128, :, :2] *= 0.5
    x[128:, :, 2:] *= 0.5
    labels = torch.arange(256) // 128
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(model(x)), labels).backward()
        optimizer.step()
    return model.requires_grad_(False)


def test_a_model_shares_its_invariances_with_itself_and_an_untrained_judge_does_not() -> None:
    model, untrained = reader_of(trained(1)), reader_of(perceptron(5, (32, 6)))
    config = MeasureConfig(InversionConfig(iterations=300, step=0.05))
    found = stir(untrained, model, ("block.1", "block.1"), images(32), config)
    itself = stir(model, model, ("block.1", "block.1"), images(32), config)
    assert itself.m1m2 == itself.m2m1 > 0.99
    assert itself.rsm == pytest.approx(1)
    assert found.m1m2 < itself.m1m2 - 0.3


def measured(
    folder: Path | None, pretrained: Reader, judge: Reader, config: MeasureConfig = CONFIG, **options: object
) -> Matrices:
    x = images(11, pretrained.input_shape)
    return stir_matrices(pretrained, {"fine-tuned": judge}, x, config, folder, **options)  # type: ignore[arg-type]


def test_twelve_blocks_cost_thirteen_inversions_and_one_pass_of_the_judge_each() -> None:
    """Twelve blocks and the final norm; pair by pair and both ways the authors pay 2 x 13 x 13."""
    config = MeasureConfig(InversionConfig(iterations=3), batch_size=20)
    (pretrained, of_pretrained), (judge, of_judge) = counted(vit_reader(1)), counted(vit_reader(2, name="fine-tuned"))
    found = measured(None, pretrained, judge, config)
    searched = [layer for (layer,) in of_pretrained.searching]
    assert searched == [layer for layer in pretrained.layers for _ in range(3)]
    assert len(pretrained.layers) == 13
    assert of_judge.searching == []
    assert of_judge.looking == [judge.layers] * 15  # the images, the starts, then each layer's inversions
    assert found.stir["fine-tuned"].shape == found.rsm["fine-tuned"].shape == (13, 13)


def test_what_there_is_without_a_search_is_kept_beside_it() -> None:
    """The floor of every judge, and how far the starts are: equal to plain numpy; a search lies above and nearer."""
    models, x, starts = (perceptron(1), perceptron(2)), images(11), 3 * images(11, seed=8) - 1
    pretrained, judge = map(reader_of, models)
    found = stir_matrices(pretrained, {"pretrained": pretrained, "fine-tuned": judge}, x, CONFIG, starts_N=starts)
    plain, start = (values.flatten(1).double().numpy() for values in (x, starts.clamp(0, 1)))
    for name, model in zip(("pretrained", "fine-tuned"), models, strict=True):
        pairs = zip(numpy_layers(model, plain), numpy_layers(model, start), strict=True)
        assert found.unsearched.stir[name] == pytest.approx([numpy_cka(*pair) for pair in pairs], abs=1e-6)
        assert (found.unsearched.unbiased[name] < found.unsearched.stir[name] - 0.1).all()
        assert (found.unbiased[name] < found.stir[name]).all()
    pairs = zip(numpy_layers(models[0], start), numpy_layers(models[0], plain), strict=True)
    far = [np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1) for a, b in pairs]
    assert found.unsearched.residuals == pytest.approx(np.array(far), abs=1e-5)
    assert (found.residuals < found.unsearched.residuals).all()
    assert (retention(found.stir["pretrained"]) > found.unsearched.stir["pretrained"] + 0.05).all()


def test_a_matrix_holds_what_single_measurements_give() -> None:
    pretrained, judge = reader_of(perceptron(1)), reader_of(perceptron(2))
    found = measured(None, pretrained, judge)
    for i, inverted in enumerate(pretrained.layers):
        for j, layer in enumerate(judge.layers):
            single = stir(judge, pretrained, (layer, inverted), images(11), CONFIG)
            assert found.stir["fine-tuned"][i, j] == pytest.approx(single.m1m2, abs=1e-6)
            assert found.rsm["fine-tuned"][i, j] == pytest.approx(single.rsm, abs=1e-6)


@pytest.mark.parametrize("layers_at_once", [1, 2, 3])
def test_a_measurement_that_was_cut_off_goes_on_to_the_same_numbers(tmp_path: Path, layers_at_once: int) -> None:
    models = [perceptron(seed, (20, 16, 12)) for seed in (1, 2)]
    config = replace(CONFIG, layers_at_once=layers_at_once)
    pretrained, judge = map(reader_of, models)
    whole = measured(tmp_path / "whole", pretrained, judge, config)
    # Three batches of twelve steps a row: the second group is cut in its first batch.
    cut, _ = counted(pretrained, stop_after=3 * 12 + 4)
    if layers_at_once < 3:
        with pytest.raises(KeyboardInterrupt):
            measured(tmp_path / "cut", cut, judge, config)
        assert len(list((tmp_path / "cut/rows").iterdir())) == 1 + layers_at_once  # and what there is without a search
    again, passes = counted(pretrained)
    resumed = measured(tmp_path / "cut", again, judge, config)
    groups_left = {1: 2, 2: 1, 3: 1}[layers_at_once]
    assert len(passes.searching) == groups_left * 3 * 12
    assert np.array_equal(resumed.stir["fine-tuned"], whole.stir["fine-tuned"])
    assert np.array_equal(resumed.residuals, whole.residuals)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "cut")]
    assert files[0] == files[1]
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
               for name in files[0] if name.endswith((".csv", ".npz", ".json")))  # fmt: skip


def test_a_finished_measurement_costs_no_pass_and_a_torn_row_is_measured_again(tmp_path: Path) -> None:
    (pretrained, passes), (judge, of_judge) = (counted(reader_of(perceptron(seed))) for seed in (1, 2))
    told: list[tuple[int, int]] = []
    first = measured(tmp_path, pretrained, judge, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(7)]
    before = len(passes.searching), len(passes.looking), len(of_judge.looking)
    told.clear()
    measured(tmp_path, pretrained, judge, progress=lambda done, total: told.append((done, total)))
    assert (len(passes.searching), len(passes.looking), len(of_judge.looking)) == before
    assert told == [(6, 6)]
    row = tmp_path / "rows/001.npz"
    row.write_bytes(row.read_bytes()[:100])
    again = measured(tmp_path, pretrained, judge)
    assert len(passes.searching) == before[0] * 3 // 2
    assert np.array_equal(again.stir["fine-tuned"], first.stir["fine-tuned"])


def test_the_matrices_are_kept_as_npz_and_as_tables(tmp_path: Path) -> None:
    pretrained, judge = reader_of(perceptron(1)), reader_of(perceptron(2))
    found = measured(tmp_path, pretrained, judge)
    with np.load(tmp_path / "matrices.npz") as held:
        assert held["layers"].tolist() == ["block.0", "block.1"]
        assert np.array_equal(held["stir-fine-tuned"], found.stir["fine-tuned"])
        assert held["residuals"].shape == held["unsearched-residuals"].shape == (2, 11)
        assert np.array_equal(held["unsearched-fine-tuned"], found.unsearched.stir["fine-tuned"])
        assert np.array_equal(held["unsearched-unbiased-fine-tuned"], found.unsearched.unbiased["fine-tuned"])
    for kind, matrix in (
        ("stir", found.stir["fine-tuned"]),
        ("rsm", found.rsm["fine-tuned"]),
        ("unbiased", found.unbiased["fine-tuned"]),
    ):  # fmt: skip
        header, *rows = csv.reader((tmp_path / f"{kind}-fine-tuned.csv").read_text().splitlines())
        assert header == ["", "block.0", "block.1"]
        assert [row[0] for row in rows] == ["block.0", "block.1"]
        assert np.array([[float(cell) for cell in row[1:]] for row in rows]).tolist() == matrix.tolist()
    assert json.loads((tmp_path / "measurement.json").read_text())["settings"]["inversion"]["iterations"] == 12


def test_several_judges_share_the_inversions() -> None:
    """The model itself, the fine-tuned one and a control: no search more than for one of them."""
    (pretrained, passes), x = counted(reader_of(perceptron(1))), images(11)
    judges = {"pretrained": pretrained, "fine-tuned": reader_of(perceptron(2)), "random": reader_of(perceptron(3))}
    found = stir_matrices(pretrained, judges, x, CONFIG)
    assert len(passes.searching) == 2 * 3 * 12
    assert retention(found.rsm["pretrained"]) == pytest.approx([1, 1])
    assert np.array_equal(found.stir["fine-tuned"], measured(None, pretrained, judges["fine-tuned"]).stir["fine-tuned"])


@pytest.mark.parametrize("similarity", ["rbf", "minibatch"])
def test_other_similarities_measure_too(similarity: str) -> None:
    pretrained, x = reader_of(perceptron(1)), images(10)
    config = replace(CONFIG, similarity=similarity, inversion=InversionConfig(iterations=200, step=0.05))
    found = stir_matrices(pretrained, {"itself": pretrained}, x, config)
    assert (retention(found.stir["itself"]) > 0.9).all()
    assert retention(found.rsm["itself"]) == pytest.approx([1, 1])


def test_another_measurement_in_the_folder_is_refused_and_named(tmp_path: Path) -> None:
    pretrained, judge = reader_of(perceptron(1)), reader_of(perceptron(2))
    measured(tmp_path / "m", pretrained, judge)
    with pytest.raises(UserError, match=r"holds another measurement \(its settings differ\)"):
        measured(tmp_path / "m", pretrained, judge, replace(CONFIG, batch_size=4))
    with pytest.raises(UserError, match=r"\(its judge fine-tuned differ\)"):
        measured(tmp_path / "m", pretrained, reader_of(perceptron(3)))
    with pytest.raises(UserError, match=r"\(its judge control differ\)"):
        stir_matrices(pretrained, {"fine-tuned": judge, "control": judge}, images(11), CONFIG, tmp_path / "m")
    for fact in ("device", "torch"):
        facts = json.loads((tmp_path / "m/measurement.json").read_text())
        (tmp_path / "m/measurement.json").write_text(json.dumps({**facts, fact: "another"}))
        with pytest.raises(UserError, match=rf"\(its {fact} differ\)"):
            measured(tmp_path / "m", pretrained, judge)
        (tmp_path / "m/measurement.json").write_text(json.dumps(facts))
    (tmp_path / "m/measurement.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        measured(tmp_path / "m", pretrained, judge)
    both = {"fine-tuned": judge, "control": pretrained}
    first = stir_matrices(pretrained, both, images(11), CONFIG, tmp_path / "with")
    with pytest.raises(UserError, match=r"\(its judge control differ\)"):
        measured(tmp_path / "with", pretrained, judge)
    again = stir_matrices(pretrained, both, images(11), CONFIG, tmp_path / "with")
    assert np.array_equal(again.stir["control"], first.stir["control"])
    (tmp_path / "else").mkdir()
    (tmp_path / "else/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="in use by something else"):
        measured(tmp_path / "else", pretrained, judge)


def test_what_was_compared_is_told_beside_the_facts_and_another_name_is_the_same_measurement(tmp_path: Path) -> None:
    (pretrained, passes), judge = counted(reader_of(perceptron(1))), reader_of(perceptron(2))
    for name in ("runs/one", "/elsewhere/runs/one"):
        measured(tmp_path / "m", pretrained, judge, compared={"fine-tuned": {"name": name}})
        facts = json.loads((tmp_path / "m/measurement.json").read_text())
        assert facts["compared"] == {"fine-tuned": {"name": name}}
    assert len(passes.searching) == 2 * 3 * 12
    assert (facts["device"], facts["torch"]) == ("cpu", torch.__version__)


def test_a_folder_that_a_kill_left_before_its_facts_is_taken(tmp_path: Path) -> None:
    (tmp_path / f".measurement.json.{'0' * 32}.tmp").write_text("{")
    measured(tmp_path, reader_of(perceptron(1)), reader_of(perceptron(2)))
    assert (tmp_path / "matrices.npz").is_file()


def test_models_and_images_that_do_not_fit_are_told_in_one_sentence(tmp_path: Path) -> None:
    small, deep = reader_of(perceptron(1), "pretrained"), reader_of(perceptron(1, (20, 16, 12)), "fine-tuned")
    with pytest.raises(UserError, match="The pretrained model has 2 layers to compare, the fine-tuned model 3"):
        measured(tmp_path / "new", small, deep)
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match=r"has no layer 'block.2'. Did you mean 'block.[01]'\?"):
        stir(small, small, ("block.2", "block.0"), images(4), CONFIG)
    with pytest.raises(UserError, match="images are 3 x 8 x 8 but the pretrained model takes 3 x 4 x 4"):
        stir_matrices(small, {"fine-tuned": small}, images(4, (3, 8, 8)), CONFIG)
    with pytest.raises(UserError, match="give at least 4"):
        stir(small, small, ("block.0", "block.0"), images(3), CONFIG)
    with pytest.raises(UserError, match="11 images in batches of 4 leave one of 3"):
        measured(None, small, small, MeasureConfig(batch_size=4, similarity="minibatch"))
    with pytest.raises(ValueError, match=r"starts \(2, 3, 4, 4\) for inputs \(4, 3, 4, 4\)"):
        stir(small, small, ("block.0", "block.0"), images(4), CONFIG, torch.zeros(2, *SHAPE))
    for options, told in (({"batch_size": 0}, "batch_size is 0"), ({"layers_at_once": 0}, "layers_at_once is 0")):
        with pytest.raises(UserError, match=told):
            MeasureConfig(**options)


def test_a_number_that_is_none_is_null_in_json() -> None:
    assert as_json(np.array([0.5, np.nan, np.inf])) == [0.5, None, None]
