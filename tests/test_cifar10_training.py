"""Training: augmentation against a slow oracle, runs that are interrupted, checkpoints that do not fit."""

import errno
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from gradcam.cifar10 import training
from gradcam.cifar10.data import Split
from gradcam.cifar10.network import MEAN, STD, WIDTHS, Cifar10Net, normalise
from gradcam.cifar10.training import Interrupted, Progress, Recipe, Training, augment, train
from gradcam.errors import ModelError

RECIPE = Recipe(epochs=2, batch_size=10)  # on 30 pictures three steps an epoch
CPU = torch.device("cpu")


def ignore(_: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def data() -> Split:
    """Thirty pictures that are easy to tell apart: each class has a grey of its own, under some noise."""
    labels = torch.arange(30) % 10
    noise = torch.randint(0, 20, (30, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    return (labels[:, None, None, None] * 25 + noise).to(torch.uint8), labels


@pytest.fixture(scope="module")
def whole_run(data: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[Progress], Path]:
    """A run that nothing interrupts: the weights it ends with, what it reports, and its checkpoint."""
    checkpoint = tmp_path_factory.mktemp("whole") / "checkpoint.pt"
    reports: list[Progress] = []
    network = train(data, RECIPE, checkpoint, CPU, reports.append)
    assert not network.training
    return network.state_dict(), reports, checkpoint


def test_the_loss_falls(whole_run: tuple[dict[str, Tensor], list[Progress], Path]) -> None:
    _, reports, _ = whole_run
    assert [(report.step, report.steps) for report in reports] == [(step, 6) for step in range(1, 7)]
    assert reports[0].loss == pytest.approx(np.log(10), abs=0.5)  # an untrained network knows nothing
    assert reports[-1].loss < reports[0].loss - 0.3
    assert [report.seconds for report in reports] == sorted(report.seconds for report in reports)


@pytest.mark.parametrize(
    ("number", "last"), [(signal.SIGINT, 2), (signal.SIGTERM, 3)], ids=["within an epoch", "after one"]
)
def test_an_interrupted_run_ends_bit_for_bit_where_a_whole_one_does(
    data: Split,
    whole_run: tuple[dict[str, Tensor], list[Progress], Path],
    tmp_path: Path,
    number: signal.Signals,
    last: int,
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if progress.step == last and len(reports) == last:
            signal.raise_signal(number)

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=rf"^stopped after step {last} of 6; saved to .*checkpoint\.pt$"):
        train(data, RECIPE, checkpoint, CPU, report)
    assert signal.getsignal(number) is handler
    torch.manual_seed(12345)  # whatever else happens meanwhile does not matter
    resumed = train(data, RECIPE, checkpoint, CPU, report).state_dict()

    expected, whole_reports, _ = whole_run
    assert [(r.step, r.loss) for r in reports] == [(r.step, r.loss) for r in whole_reports]
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name


def test_a_finished_run_is_not_run_again(
    data: Split, whole_run: tuple[dict[str, Tensor], list[Progress], Path]
) -> None:
    expected, _, checkpoint = whole_run
    reports: list[Progress] = []
    again = train(data, RECIPE, checkpoint, CPU, reports.append).state_dict()
    assert reports == []
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_another_seed_gives_another_network(
    data: Split, whole_run: tuple[dict[str, Tensor], list[Progress], Path]
) -> None:
    first = Training(data, RECIPE, CPU)
    second = Training(data, replace(RECIPE, seed=1), CPU)
    assert not torch.equal(first.network.head.weight, second.network.head.weight)
    assert first.advance() == whole_run[1][0].loss != second.advance()


@pytest.mark.parametrize("change", [{"epochs": 3}, {"seed": 1}, {"cutout": 0}, {"muon_lr": 0.2}])
def test_the_checkpoint_of_another_recipe_is_refused(
    data: Split, whole_run: tuple[dict[str, Tensor], list[Progress], Path], change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.pt belongs to another run .*; give the settings it was started"):
        train(data, replace(RECIPE, **change), whole_run[2], CPU, ignore)


def test_the_checkpoint_of_other_data_is_refused(
    data: Split, whole_run: tuple[dict[str, Tensor], list[Progress], Path]
) -> None:
    with pytest.raises(ValueError, match=r"belongs to another run \(other settings, teachers or number of pictures\)"):
        train((data[0][:20], data[1][:20]), RECIPE, whole_run[2], CPU, ignore)


def test_teachers_are_known_by_what_they_hold(data: Split, tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in paths:
        safetensors.torch.save_file(Cifar10Net((8, 16, 24)).state_dict(), path)
    run = Training(data, replace(RECIPE, teachers=(str(paths[0]),)), CPU)
    run.step = 3
    run.save(tmp_path / "checkpoint.pt")
    moved = paths[0].rename(tmp_path / "moved.safetensors")
    again = Training(data, replace(RECIPE, teachers=(str(moved),)), CPU)
    again.resume(tmp_path / "checkpoint.pt")
    assert again.step == 3
    paths[1].rename(paths[0])
    other = Training(data, replace(RECIPE, teachers=(str(paths[0]),)), CPU)
    with pytest.raises(ValueError, match=r"belongs to another run \(other settings, teachers or number"):
        other.resume(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("damage", [lambda content: content[:5000], lambda _: b"nothing of the kind", lambda _: b""])
def test_a_damaged_checkpoint_is_told(
    data: Split,
    whole_run: tuple[dict[str, Tensor], list[Progress], Path],
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(damage(whole_run[2].read_bytes()))
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt is damaged or no checkpoint of this training \(.+\); remove it"
    ):
        train(data, RECIPE, checkpoint, CPU, ignore)


def test_somebody_elses_checkpoint_is_told(data: Split, tmp_path: Path) -> None:
    for content in ({"model": torch.zeros(1)}, [1, 2]):
        torch.save(content, tmp_path / "checkpoint.pt")
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged or no checkpoint of this training"):
            train(data, RECIPE, tmp_path / "checkpoint.pt", CPU, ignore)


def test_too_few_pictures_are_told(data: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^30 pictures do not fill one batch of 1000\.$"):
        train(data, Recipe(), tmp_path / "checkpoint.pt", CPU, ignore)


@pytest.mark.parametrize("failing", ["torch.save", "os.replace"])
def test_a_full_disk_leaves_the_checkpoint_before(
    data: Split,
    whole_run: tuple[dict[str, Tensor], list[Progress], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(whole_run[2].read_bytes())
    run = Training(data, RECIPE, CPU)
    run.resume(checkpoint)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(
        OSError, match=r"checkpoint\.pt could not be written \(No space left on device\); what was there"
    ):
        run.save(checkpoint)
    assert checkpoint.read_bytes() == whole_run[2].read_bytes()
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_checkpoint_that_breaks_off_in_the_middle_leaves_the_one_before(
    data: Split, whole_run: tuple[dict[str, Tensor], list[Progress], Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(whole_run[2].read_bytes())
    run = Training(data, RECIPE, CPU)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt could not be written \(.+\); what was there before"):
            run.save(checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.read_bytes() == whole_run[2].read_bytes()
    assert list(tmp_path.iterdir()) == [checkpoint]


def slow_augment(pictures: Tensor, side: int, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One picture at a time, from the description: a window (the border reflected), a square of another, or blanks."""
    count, _, whole, _ = pictures.shape
    moves = torch.randint(2 * recipe.shift + 1, (2, count, 1), generator=generator)[:, :, 0].tolist()
    way, share = torch.rand(2, count, generator=generator).tolist()
    centres = torch.randint(side, (2, count, 1), generator=generator)[:, :, 0].tolist()
    chances = torch.rand(count, side, side, generator=generator)
    border = (recipe.shift, recipe.shift)
    moved = []
    for i, picture in enumerate(pictures.numpy()):
        wide = np.pad(picture, ((0, 0), border, border), mode="reflect")
        top, left = ((whole - side) // 2 + move[i] for move in moves)
        moved.append(wide[:, top : top + side, left : left + side])
    out, own = [], []
    for i in range(count):
        picture, kept = moved[i].copy(), side * side
        edge = round(share[i] ** 0.5 * side) if way[i] < recipe.mixed else recipe.cutout
        top, left = (centres[axis][i] - edge // 2 for axis in (0, 1))
        for y in range(side):
            for x in range(side):
                in_square = top <= y < top + edge and left <= x < left + edge
                if way[i] < recipe.mixed:
                    if in_square:
                        picture[:, y, x] = moved[i - 1][:, y, x]
                        kept -= 1
                elif chances[i, y, x] < share[i] / 4 if way[i] >= 1 - recipe.speckled else in_square:
                    picture[:, y, x] = 0
        out.append(torch.from_numpy(picture))
        own.append(kept / (side * side))
    return torch.stack(out), torch.tensor(own)


@pytest.mark.parametrize("side", [32, 24])
@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(shift=2, cutout=5, speckled=0), Recipe(cutout=0, mixed=0), Recipe(mixed=1, speckled=0)]
)
def test_augmentation_is_what_a_slow_loop_makes(recipe: Recipe, side: int) -> None:
    pictures = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    given = [torch.Generator().manual_seed(2) for _ in range(2)]
    found, own = augment(pictures, side, recipe, given[0])
    expected, expected_own = slow_augment(pictures, side, recipe, given[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(own, expected_own, rtol=0, atol=1e-6)


@pytest.fixture
def teachers(tmp_path: Path) -> list[tuple[Cifar10Net, str]]:
    """Two networks that were never trained but have opinions, and the files of their weights."""
    made = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        network, path = Cifar10Net().eval(), tmp_path / f"teacher{seed}.safetensors"
        network.head.weight.data *= 100  # an untrained network believes in all classes alike: no label would matter
        safetensors.torch.save_file(network.state_dict(), path)
        made.append((network, str(path)))
    return made


@dataclass(frozen=True)
class Lesson:
    """What one training step showed: to the network, and to the teacher it asked."""

    pictures: Tensor
    own: Tensor
    labels: Tensor
    teacher: int | None
    moved: Tensor


def lesson(run: Training, monkeypatch: pytest.MonkeyPatch) -> tuple[float, Lesson]:
    """Take one step; return its loss and what was seen in it."""
    batch: list[Tensor] = []
    asked: list[tuple[int | None, Tensor]] = []

    def watch(pictures: Tensor, side: int, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        batch.extend(augment(pictures, side, recipe, generator))
        means = (pictures * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).flatten(1).mean(1)
        batch.append((means * 255 / 25 - 10 / 25).round().long())  # of each class there is one grey
        return batch[0], batch[1]

    def listen(teacher: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, given: asked.append((teacher, given[0]))

    hooks = [network.register_forward_pre_hook(listen(i)) for i, network in enumerate(run.teachers)]
    with monkeypatch.context() as patch:
        patch.setattr(training, "augment", watch)
        loss = run.advance()
    for hook in hooks:
        hook.remove()
    ((teacher, moved),) = asked or [(None, batch[0])]
    return loss, Lesson(*batch, teacher, moved)


def test_a_taught_network_starts_as_its_first_teacher(data: Split, teachers: list[tuple[Cifar10Net, str]]) -> None:
    run = Training(data, replace(RECIPE, teachers=tuple(path for _, path in teachers)), CPU)
    for name, tensor in teachers[0][0].state_dict().items():
        assert torch.equal(run.network.state_dict()[name], tensor), name
        assert torch.equal(run.average.module.state_dict()[name], tensor), name
    run.advance()
    for mine, (given, _) in zip(run.teachers, teachers, strict=True):
        assert all(torch.equal(mine.state_dict()[name], tensor) for name, tensor in given.state_dict().items())
    assert not torch.equal(run.network.head.weight, teachers[0][0].head.weight)


def test_a_narrower_teacher_is_read_and_a_wider_network_starts_with_its_answers(data: Split, tmp_path: Path) -> None:
    torch.manual_seed(9)
    teacher, path = Cifar10Net((8, 16, 24)).eval(), tmp_path / "narrow.safetensors"
    safetensors.torch.save_file(teacher.state_dict(), path)
    run = Training(data, replace(RECIPE, teachers=(str(path),)), CPU)
    pictures = normalise(data[0][:4])
    expected = teacher(pictures)
    torch.testing.assert_close(run.teachers[0](pictures), expected, rtol=0, atol=0)
    for network in (run.network, run.average.module):
        torch.testing.assert_close(network.eval()(pictures), expected, rtol=0, atol=1e-5)

    safetensors.torch.save_file(Cifar10Net((8, 16, WIDTHS[-1] + 2)).state_dict(), path)
    with pytest.raises(ModelError, match="cannot start as its first teacher, which is wider"):
        Training(data, replace(RECIPE, teachers=(str(path),)), CPU)


@pytest.mark.parametrize("taught", [0, Recipe.taught])
def test_the_loss_weighs_both_labels_by_the_area_they_have_and_a_teachers_answer(
    data: Split, teachers: list[tuple[Cifar10Net, str]], monkeypatch: pytest.MonkeyPatch, taught: float
) -> None:
    student = teachers[0][0]
    run = Training(data, replace(RECIPE, teachers=tuple(path for _, path in teachers) if taught else ()), CPU)
    run.network.load_state_dict(student.state_dict())
    found, seen = lesson(run, monkeypatch)
    assert (seen.teacher is None) == (not taught)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        answers = teachers[seen.teacher or 0][0](seen.moved).double().softmax(1)
        pictures = seen.pictures.to(memory_format=torch.channels_last)
        chances = student.train()(pictures).double().log_softmax(1)
    total = 0.0
    for i in range(RECIPE.batch_size):
        target = torch.full((10,), RECIPE.label_smoothing / 10, dtype=torch.float64)
        target[seen.labels[i]] += (1 - RECIPE.label_smoothing) * seen.own[i].item()
        target[seen.labels[i - 1]] += (1 - RECIPE.label_smoothing) * (1 - seen.own[i].item())
        target = (1 - taught) * target + taught * answers[i]
        total -= (target * chances[i]).sum().item()
    assert found == pytest.approx(total / RECIPE.batch_size, rel=0.01)  # bfloat16
    assert 0 < seen.own.min() < 1


def test_all_teachers_are_asked_about_the_pictures_up_to_a_pixel_off(
    data: Split, teachers: list[tuple[Cifar10Net, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Training(data, replace(RECIPE, teachers=tuple(path for _, path in teachers)), CPU)
    asked, rows, columns = set(), set(), set()
    for _ in range(12):
        _, seen = lesson(run, monkeypatch)
        padded = np.pad(seen.pictures.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        side = seen.pictures.shape[-1]
        ((row, column),) = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if np.array_equal(padded[:, :, row : row + side, column : column + side], seen.moved.numpy())
        ]
        asked.add(seen.teacher)
        rows.add(row)
        columns.add(column)
    assert asked == {0, 1}
    assert rows == columns == {0, 1, 2}


def test_a_teacher_that_is_none_is_told(data: Split, teachers: list[tuple[Cifar10Net, str]], tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(ModelError, match=r"^There is no checkpoint .*other\.safetensors\.$"):
        Training(data, replace(RECIPE, teachers=(str(path),)), CPU)
    path.write_bytes(Path(teachers[0][1]).read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"other\.safetensors cannot be read as a checkpoint"):
        Training(data, replace(RECIPE, teachers=(str(path),)), CPU)
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit cifar10, with \d+ tensors"):
        Training(data, replace(RECIPE, teachers=(str(path),)), CPU)


def test_the_learning_rate_rises_stays_and_falls_to_nothing(data: Split) -> None:
    """Three steps an epoch, ten epochs: it rises over 3 steps, and falls over the last 12 of 30."""
    run = Training(data, Recipe(epochs=10, batch_size=10), CPU)
    (muon, _), (schedule, _) = run.optimizers, run.schedules
    rates = []
    for _ in range(30):
        rates.append(muon.param_groups[0]["lr"] / run.recipe.muon_lr)
        muon.step()
        schedule.step()
    expected = [1 / 3, 2 / 3] + [1.0] * 17 + [1 - k / 12 for k in range(1, 12)]
    assert rates == pytest.approx(expected)
    assert muon.param_groups[0]["lr"] == 0


def test_every_epoch_shows_each_picture_once_and_never_alike(data: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    noise: set[int] = set()
    sides: list[int] = []
    pictures = data[0].float().flatten(1).mean(1)

    def watch(batch: Tensor, side: int, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise.add(generator.initial_seed())
        sides.append(side)
        means = (batch * std[:, None, None] + mean[:, None, None]).flatten(1).mean(1) * 255
        seen.extend(int((pictures - value).abs().argmin()) for value in means)
        return batch, torch.ones(len(batch))

    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    monkeypatch.setattr(training, "augment", watch)
    monkeypatch.setattr(Cifar10Net, "forward", _cheap)
    run = Training(data, RECIPE, CPU)
    for _ in range(run.steps):
        run.advance()
    first, second = seen[:30], seen[30:]
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second != sorted(second)
    assert len(noise) == run.steps
    assert sides == [24] * 4 + [32] * 2  # the rate falls over 40 % of the six steps


def _cheap(network: Cifar10Net, x: Tensor) -> Tensor:
    """Logits that depend on every parameter, without the network's work."""
    total: Tensor | float = sum(p.float().sum() for p in network.parameters())
    return network.head(x.new_zeros(len(x), WIDTHS[-1] // 2)) + 0 * total


def test_what_is_returned_is_the_moving_average_of_weights_and_buffers(
    data: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow loop: the weights of the first step, then 0.98 of what there was and 0.02 of each step's."""
    steps: list[dict[str, Tensor]] = []
    advance = Training.advance

    def watched(run: Training) -> float:
        loss = advance(run)
        steps.append({name: tensor.double() for name, tensor in run.network.state_dict().items()})
        return loss

    monkeypatch.setattr(Training, "advance", watched)
    found = train(data, replace(RECIPE, epochs=1), tmp_path / "checkpoint.pt", CPU, ignore).state_dict()
    first, *rest = steps
    assert len(rest) == 2
    for name, expected in first.items():
        for step in rest:
            expected = 0.98 * expected + 0.02 * step[name]
        if found[name].is_floating_point():
            torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6, msg=name)
    assert any((rest[-1][name] - tensor).abs().max() > 0.01 for name, tensor in found.items() if "running" in name)
