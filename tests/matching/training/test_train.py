import contextlib
import csv
import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from matching.checkpoint import read_checkpoint as read_weights
from matching.errors import InputError
from matching.network.small import SmallNetwork
from matching.options import build_options, read_options_file
from matching.training import train as train_module
from matching.training.batch import PairBatch
from matching.training.checkpoints import (
    Checkpoint,
    find_checkpoints,
    read_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from matching.training.options import (
    NetworkOptions,
    PhaseOptions,
    TrainOptions,
    ValidationOptions,
)
from matching.training.samples import project
from matching.training.train import TrainResult, train
from matching.training.trainer import PairStream, Processes, Trainer, TrainingModule
from matching.training.validate import (
    PosedPhoto,
    _world_errors,
    epipolar_errors,
    read_posed_photos,
    validate_worlds,
)
from tests.matching.training.planes import TINY, plane_pairs

CONFIGS = Path(__file__).parents[3] / "configs"

OPTIONS = TrainOptions(
    network=TINY,
    phases=(
        PhaseOptions(
            steps=3, image_size=(48, 32), pairs=2, correspondences=64, difficulty=(0.5, 1)
        ),
        PhaseOptions(steps=3, image_size=(64, 48), pairs=1, correspondences=64, portrait=0.5),
    ),
    validation=ValidationOptions(every_steps=6, pairs=2, image_size=(48, 32), max_matches=50),
    warmup_steps=2,
    decay_steps=2,
    log_every_steps=2,
    checkpoint_every_steps=2,
)


class InterruptedRunError(Exception):
    pass


def interrupted_at(calls: int) -> PairStream:
    """A stream that dies at a call, as a power cut would."""
    left = [calls]

    def stream(
        seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float
    ) -> PairBatch:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedRunError
        return plane_pairs(seed, pairs=pairs, image_size=image_size, difficulty=difficulty)

    return stream


def run(
    out: Path, options: TrainOptions = OPTIONS, stream: PairStream = plane_pairs
) -> TrainResult:
    return train(options, out, stream=stream, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are too small for more, and threads that wait for each other spin."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(
    one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainResult]:
    out = tmp_path_factory.mktemp("run")
    return out, run(out)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_weights_checkpoints_and_logs(finished: tuple[Path, TrainResult]) -> None:
    out, result = finished
    assert result.status == "finished" and result.step == 6
    assert [path.name for path in find_checkpoints(out)] == [
        "checkpoint-00000004",
        "checkpoint-00000006",
    ]
    assert result.weights is not None
    weights = read_weights(result.weights)
    assert weights.config == OPTIONS.network.config()
    assert {tensor.dtype for tensor in weights.state.values()} == {torch.float16}
    averaged = read_checkpoint(find_checkpoints(out)[-1]).tensors
    for name, tensor in weights.state.items():
        torch.testing.assert_close(tensor, averaged[f"ema.{name}"].half())
    log = rows(out / "train.csv")
    assert [int(row["step"]) for row in log] == [2, 4, 6]
    assert float(log[-1]["learning_rate"]) < float(log[1]["learning_rate"])
    assert [row["width"] for row in log] == ["48", "64", "64"]
    assert [int(row["step"]) for row in rows(out / "validation.csv")] == [6]


def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, finished: tuple[Path, TrainResult]
) -> None:
    with pytest.raises(InterruptedRunError):
        run(tmp_path, stream=interrupted_at(5))  # dies in step 5, behind the checkpoint of step 4
    assert find_checkpoints(tmp_path)[-1].name == "checkpoint-00000004"
    result = run(tmp_path)
    assert result.status == "finished" and result.step == 6
    whole, again = (
        read_checkpoint(find_checkpoints(out)[-1]).tensors for out in (finished[0], tmp_path)
    )
    assert whole.keys() == again.keys()
    for name in whole:
        assert torch.equal(whole[name], again[name]), name  # bit for bit
    logs = [rows(out / "train.csv") for out in (finished[0], tmp_path)]
    for row, other in zip(*logs, strict=True):
        for changing in ("elapsed_s", "pairs_per_second"):
            del row[changing], other[changing]
        assert row == other


def test_time_limit_stops_with_a_checkpoint(
    tmp_path: Path, finished: tuple[Path, TrainResult]
) -> None:
    first = run(tmp_path, dataclasses.replace(OPTIONS, max_seconds=1e-6))
    assert first.status == "out of time" and first.step == 2
    assert first.weights is not None and first.weights.is_file()
    second = run(tmp_path)
    assert second.status == "finished"
    whole, again = (
        read_checkpoint(find_checkpoints(out)[-1]).tensors for out in (finished[0], tmp_path)
    )
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_nan_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    calls = [0]

    def stream(
        seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float
    ) -> PairBatch:
        calls[0] += 1
        batch = plane_pairs(seed, pairs=pairs, image_size=image_size, difficulty=difficulty)
        return (
            batch if calls[0] <= 3 else dataclasses.replace(batch, images=batch.images * torch.nan)
        )

    result = run(tmp_path, stream=stream)
    assert result.status == "diverged" and "nan" in result.reason and result.step == 4
    assert result.weights is None and result.checkpoint == find_checkpoints(tmp_path)[-1]
    assert result.checkpoint.name == "checkpoint-00000002"
    state = read_checkpoint(result.checkpoint)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.tensors.values())


def test_a_folder_of_another_run_is_refused(finished: tuple[Path, TrainResult]) -> None:
    with pytest.raises(InputError, match="learning_rate"):
        run(finished[0], dataclasses.replace(OPTIONS, learning_rate=1e-5))
    with pytest.raises(InputError, match="already holds a run"):
        train(OPTIONS, finished[0], stream=plane_pairs, device="cpu", resume=False)


def test_a_run_from_before_the_number_of_textures_was_an_option_goes_on(
    finished: tuple[Path, TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(path: Path) -> Checkpoint:
        checkpoint = read_checkpoint(path)
        for name in absent:
            del checkpoint.values["options"][name]
        return checkpoint

    monkeypatch.setattr(train_module, "read_checkpoint", older)
    absent = ["textures_per_style"]
    assert run(finished[0]).status == "finished"
    with pytest.raises(InputError, match="another 'textures_per_style'"):
        run(finished[0], dataclasses.replace(OPTIONS, textures_per_style=7))
    absent = ["loss"]
    with pytest.raises(InputError, match="another 'loss'"):
        run(finished[0])


def test_runs_are_refused_before_textures_are_painted(
    finished: tuple[Path, TrainResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint(*arguments: object, **options: object) -> PairStream:
        raise AssertionError("painted in vain")

    monkeypatch.setattr(train_module, "PairWorld", paint)
    with pytest.raises(InputError, match="weight_decay"):
        train(dataclasses.replace(OPTIONS, weight_decay=0.2), finished[0], device="cpu")


def test_the_last_checkpoint_outlives_an_interrupted_validation(tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError):
        run(tmp_path, stream=interrupted_at(6))  # six steps; the seventh batch is held out
    assert find_checkpoints(tmp_path)[-1].name == "checkpoint-00000006"
    # what is validated changes no weight: the run ends as it is, without
    silent = dataclasses.replace(OPTIONS, validation=ValidationOptions(every_steps=0))
    result = run(tmp_path, silent, stream=interrupted_at(0))
    assert (result.status, result.step) == ("finished", 6) and result.weights is not None


def test_training_can_start_from_weights(
    tmp_path: Path, finished: tuple[Path, TrainResult]
) -> None:
    weights = finished[1].weights
    frozen = dataclasses.replace(
        OPTIONS,
        initial_weights=str(weights),
        learning_rate=1e-12,
        validation=ValidationOptions(every_steps=0),
        phases=OPTIONS.phases[:1],
    )
    result = run(tmp_path, frozen)
    assert result.weights is not None and weights is not None
    start, end = read_weights(weights).state, read_weights(result.weights).state
    for name in start:
        torch.testing.assert_close(start[name], end[name], atol=1e-3, rtol=1e-3)
    other = dataclasses.replace(frozen, network=NetworkOptions())
    with pytest.raises(InputError, match="another network"):
        run(tmp_path / "other", other)


def test_every_run_and_process_has_textures_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = []

    def paint(device: torch.device, *, texture_seed: int, **options: object) -> PairStream:
        seeds.append(texture_seed)
        raise InterruptedRunError

    monkeypatch.setattr(train_module, "PairWorld", paint)
    for seed in range(3):
        for rank in range(8):
            processes = Processes(rank=rank, count=8, device=torch.device("cpu"))
            joined = partial(contextlib.nullcontext, processes)
            monkeypatch.setattr(train_module, "joined_processes", lambda device, j=joined: j())
            with pytest.raises(InterruptedRunError):
                train(dataclasses.replace(OPTIONS, seed=seed), tmp_path)
    assert len(set(seeds)) == 24


def test_it_learns() -> None:
    torch.manual_seed(0)
    batch = plane_pairs(0, pairs=1, image_size=(48, 32), difficulty=0.3)
    module = TrainingModule(SmallNetwork(OPTIONS.network.config()), OPTIONS.loss)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    losses = []
    for step in range(15):
        loss, _ = module(batch, 64, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert np.mean(losses[-3:]) < 0.75 * losses[0]


def test_checkpoints_are_cut_to_parts_and_whole_again(tmp_path: Path) -> None:
    tensors = {
        "large": torch.randn(70, 50),
        "half": torch.randn(33).half(),
        "count": torch.tensor(7.0),
        "empty": torch.zeros(0, 4),
    }
    checkpoint = Checkpoint(step=12, tensors=tensors, values={"seconds": 1.5})
    path = write_checkpoint(tmp_path, checkpoint, max_part_bytes=4000)
    assert path.name == "checkpoint-00000012"
    assert max(file.stat().st_size for file in path.glob("part-*")) <= 4000
    again = read_checkpoint(path)
    assert again.step == 12 and again.values == {"seconds": 1.5}
    assert again.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (
            torch.equal(again.tensors[name], tensor) and again.tensors[name].dtype == tensor.dtype
        )


def test_damaged_checkpoints_are_named(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, Checkpoint(step=1, tensors={"a": torch.zeros(9)}, values={}))
    part = path / "part-000.safetensors"
    content = part.read_bytes()
    part.write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match=r"part-000.*damaged"):
        read_checkpoint(path)
    part.unlink()
    with pytest.raises(InputError, match=r"lacks.*part-000"):
        read_checkpoint(path)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        read_checkpoint(path)
    with pytest.raises(InputError, match="no checkpoint folder"):
        read_checkpoint(tmp_path / "checkpoint-9")


def test_old_checkpoints_go_and_strangers_stay(tmp_path: Path) -> None:
    for step in (5, 40, 300):
        write_checkpoint(tmp_path, Checkpoint(step=step, tensors={"a": torch.zeros(1)}, values={}))
    (tmp_path / "checkpoint-mine").mkdir()
    remove_old_checkpoints(tmp_path, 2)
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "checkpoint-00000040",
        "checkpoint-00000300",
    ]
    assert (tmp_path / "checkpoint-mine").is_dir()


def test_learning_rate_warms_up_and_decays() -> None:
    options = dataclasses.replace(
        OPTIONS,
        phases=(PhaseOptions(steps=10), PhaseOptions(steps=10, learning_rate_scale=0.5)),
        learning_rate=1.0,
        warmup_steps=4,
        decay_steps=5,
    )
    rates = [options.learning_rate_at(step) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[9] == 1.0 and rates[10] == 0.5
    assert rates[15:] == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_clock_can_set_the_end() -> None:
    options = dataclasses.replace(OPTIONS, max_seconds=100.0, decay_seconds=40.0)
    factors = [options.learning_rate_factor(elapsed) for elapsed in (0, 60, 80, 100, 120)]
    assert factors == pytest.approx([1, 1, 0.5, 0, 0])
    assert OPTIONS.learning_rate_factor(1e9) == 1
    with pytest.raises(ValueError, match="needs max_seconds"):
        dataclasses.replace(OPTIONS, decay_seconds=40.0)


def test_every_step_draws_its_own_difficulty() -> None:
    drawn: list[float] = []

    def stream(
        seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float
    ) -> PairBatch:
        drawn.append(difficulty)
        return plane_pairs(seed, pairs=pairs, image_size=image_size, difficulty=difficulty)

    phase = PhaseOptions(image_size=(32, 32), pairs=1, difficulty=(0.4, 0.8), easing=0.5)
    trainer = Trainer(OPTIONS, stream)
    for step in range(40):
        trainer.render(phase, 0.5, step=step)
    trainer.render(phase, 0.5, step=3)
    assert 0.3 <= min(drawn) < 0.33 and 0.57 < max(drawn) <= 0.6  # half of 0.6, and 0.6
    assert drawn[-1] == drawn[3]  # resuming sees the same


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("train_*.yaml")), ids=lambda file: file.stem)
def test_shipped_configurations_are_valid(file: Path) -> None:
    options = build_options(TrainOptions, read_options_file(file))
    assert options.network == NetworkOptions()


def test_as_many_textures_are_painted_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint(device: torch.device, *, textures_per_style: int, **options: object) -> PairStream:
        assert textures_per_style == 3
        raise InterruptedRunError

    monkeypatch.setattr(train_module, "PairWorld", paint)
    with pytest.raises(InterruptedRunError):
        train(dataclasses.replace(OPTIONS, textures_per_style=3), tmp_path, device="cpu")
    with pytest.raises(ValueError, match="textures_per_style must be >= 1"):
        TrainOptions(textures_per_style=0)


def test_true_matches_score_on_worlds() -> None:
    """A network is not needed to see that the scoring is exact: score the truth, then noise."""
    batch = plane_pairs(6, pairs=1, image_size=(64, 48), difficulty=0.3)
    generator = torch.Generator().manual_seed(0)
    pixels0 = torch.rand(40, 2, generator=generator) * torch.tensor([50.0, 36.0]) + 6
    pixels0 = pixels0.round()  # corners of pixels, as cell centres are
    corners = (pixels0 - 1).long()[None]
    positions = [
        project(batch, 0, corners + torch.tensor([x, y]))[0] for x in (0, 1) for y in (0, 1)
    ]
    true1 = torch.stack(positions).mean(0)[0] + 0.5
    errors = _world_errors(batch, 0, pixels0, true1)
    finite = errors[torch.isfinite(errors)]
    assert len(finite) > 20 and float(finite.max()) < 0.05
    off = _world_errors(batch, 0, pixels0, true1 + torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(
        off[torch.isfinite(errors)], torch.full_like(finite, 5.0), atol=0.05, rtol=0
    )


def test_validation_of_worlds_is_complete(finished: tuple[Path, TrainResult]) -> None:
    assert finished[1].weights is not None
    network = read_weights(finished[1].weights).network()
    batch = plane_pairs(7, pairs=2, image_size=(48, 32))
    shares = validate_worlds(network, [batch], OPTIONS.validation)  # type: ignore[arg-type]
    assert 0 <= shares["within_1px"] <= shares["within_2px"] <= shares["within_5px"] <= 1
    assert 0 < shares["matches_per_pair"] <= OPTIONS.validation.max_matches


def test_epipolar_errors_by_hand() -> None:
    def photo(shift: float) -> PosedPhoto:
        cam_from_world = np.eye(4)
        cam_from_world[0, 3] = shift
        return PosedPhoto(
            image=np.zeros((8, 8, 3), np.uint8),
            K=np.array([[50.0, 0, 4], [0, 50, 4], [0, 0, 1]]),
            cam_from_world=cam_from_world,
        )

    pixels = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    moved = pixels + np.array([[1.5, 0.25], [-2.0, -1.0]], np.float32)
    # a sideways camera: epipolar lines are rows
    np.testing.assert_allclose(
        epipolar_errors(photo(0), photo(1), pixels, moved), [0.25, 1.0], rtol=1e-5
    )


@pytest.mark.shared
def test_posed_photos_are_cropped_with_their_cameras(shared: Path) -> None:
    photos = read_posed_photos(shared / "data" / "strecha" / "entry-P10", (512, 384))
    assert len(photos) == 10 and photos[0].image.shape == (384, 512, 3)
    # 1536x1024 covers 512x384 at 3/8 and loses columns on both sides
    K = photos[0].K
    np.testing.assert_allclose([K[0, 0], K[1, 1]], [1379.74 * 0.375, 1382.08 * 0.375], rtol=1e-4)
    np.testing.assert_allclose(K[:2, 2], [760.595 * 0.375 - 32, 503.655 * 0.375], rtol=1e-3)
