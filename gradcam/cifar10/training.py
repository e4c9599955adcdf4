"""Train the CIFAR-10 network, from scratch or from the network that a run before has left.

The recipe is what fast CIFAR-10 training uses today: a whitening layer, orthogonalised momentum for the convolutions
(Muon, Keller Jordan 2024), AdamW for the rest, shifts, CutMix and cutout, label smoothing, and an exponential moving
average of the weights, which is what is evaluated and saved. Until the learning rate falls, windows are shown instead
of whole pictures, which takes 0.6 of the time. No picture is flipped, since the network cannot tell a picture from its
mirror image. One thing is ours: a quarter of the pictures lose single pixels. Deleting pixels is how the maps are
tested, and what it shows the network should not be new to it.

With teachers, the network starts from the weights of the first, which may be narrower, and learns, beside the labels,
what they answer to the same spoilt pictures: a born-again network (Furlanello et al. 2018) that keeps what it knew.

The weights in weights/ (see its manifest): accuracy 93.26 % on the 10,000 test pictures, the same with test-time
flips; four runs on 2 cores of an AMD EPYC that other work shared, bfloat16; Python 3.11.7, torch 2.14.1. The first,
seed 0, 24 epochs of whole pictures in 93 minutes (92.23 %, commit b3eb071), taught the second, seed 0, 22 epochs in
84 minutes (92.92 %, commit 6dd6bc7). That taught the third, seed 1, 32 epochs in 107 minutes (93.10 %, commit
0461fef), together with the two networks before the first (91.8 and 92.3 % with test-time flips), which the code of
commit 86c7f6f can read. These three had widths of 96, 384 and 384; the fourth started wider, as the third, and learned
from it and the second: seed 2, 22 epochs in 90 minutes. Each run can be repeated with the code of its commit, and the
weights that it names from the history. In the last two, the convolutions were computed in an equal form that takes a
fifth less time for a thousand pictures (sums and differences of twins, and of left and right neighbours). It rounds
differently, and is not in the code: for a single picture it is slower.

The pictures were JPEG files of quality 75 with halved colour resolution, 0.9 kB each, not the originals. That costs
several points: airbench94 (Jordan 2024), whose ten epochs reach 94.0 % on the originals with test-time flips and
shifts, was rebuilt to find out, and reached 90.0 % on 5,000 of the training copies, learning from the others.

With glibc told to keep its memory (GLIBC_TUNABLES: mmap_max=0 and a high trim_threshold) a step took 2.1 s instead of
2.5, measured on a network of two thirds the width.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..checkpoints import check_fit, read_tensors
from ..errors import reason
from ..files import replacing, sha256
from .data import Split
from .network import CLASSES, Cifar10Net, network_for, normalise, start_as


class Interrupted(Exception):
    """A signal stopped the training; its checkpoint continues it."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result: the same recipe, data and machine give the same bits."""

    epochs: int = 24
    seed: int = 0
    batch_size: int = 1000
    teachers: tuple[str, ...] = ()  # weights files: it starts from the first, and learns what one of them answers
    taught: float = 0.8  # share of the target that is the teacher's answer
    muon_lr: float = 0.1  # of filter banks rescaled after every step, to filters of norm 1 on average
    muon_momentum: float = 0.6
    adam_lr: float = 0.01
    adam_weight_decay: float = 0.01
    warm_up: int = 1  # epochs in which the learning rates rise
    cool_down: float = 0.4  # share of the steps, the last ones, in which they fall to nothing
    label_smoothing: float = 0.1
    crop: int = 24  # side of the window, in pixels, until the learning rates fall; then the whole picture is shown
    shift: int = 4  # pixels at most, the border reflected
    mixed: float = 0.5  # share of the pictures that get a square of another picture, and that share of its label
    speckled: float = 0.25  # share of the pictures that lose single pixels, up to a quarter of them
    cutout: int = 8  # side of the square, in pixels, that the other pictures lose
    averaging: float = 0.98  # decay of the weights' moving average, per step


@dataclass(frozen=True)
class Progress:
    """What is reported after every step."""

    step: int  # steps done
    steps: int  # steps in all
    loss: float
    seconds: float  # in all, those before an interruption included


def augment(pictures: Tensor, side: int, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(B, 3, H, H) normalised -> (B, 3, side, side), spoilt in one of three ways; (B,) share of each that is left.

    Each is cut to a window that lies, at random, up to `recipe.shift` pixels off its middle. Some then get a square of
    the picture before them in the batch (CutMix, Yun et al. 2019); the share left is what is still their own. The
    others lose a square (cutout, DeVries & Taylor 2017) or single pixels: theirs is 1.
    """
    count, device = len(pictures), pictures.device
    each = torch.arange(count, device=device)[:, None, None]
    line = torch.arange(side, device=device)

    start = torch.randint(2 * recipe.shift + 1, (2, count, 1), generator=generator).to(device)
    start += (pictures.shape[-1] - side) // 2
    padded = F.pad(pictures, [recipe.shift] * 4, mode="reflect").permute(0, 2, 3, 1)
    shifted = padded[each, (start[0] + line)[:, :, None], (start[1] + line)[:, None, :]].permute(0, 3, 1, 2)

    way, share = torch.rand(2, count, 1, 1, generator=generator).to(device)
    mixed, speckled = way < recipe.mixed, way >= 1 - recipe.speckled
    edge = torch.where(mixed[:, :, 0], (share[:, :, 0].sqrt() * side).round().long(), recipe.cutout)
    corner = torch.randint(side, (2, count, 1), generator=generator).to(device) - edge // 2
    in_rows, in_columns = ((line >= first) & (line < first + edge) for first in corner)
    square = in_rows[:, :, None] & in_columns[:, None, :]
    speckles = torch.rand(count, side, side, generator=generator).to(device) < share / 4

    foreign = square & mixed
    blank = torch.where(speckled, speckles, square & ~mixed)
    spoilt = torch.where(foreign[:, None], shifted.roll(1, 0), shifted).masked_fill(blank[:, None], 0.0)
    return spoilt, 1 - foreign.float().mean((1, 2))


class Training:
    """One training run: its networks, optimisers and position, all of which a checkpoint holds."""

    def __init__(self, data: Split, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.pictures, self.labels = (part.to(device) for part in data)
        self.batches = len(self.labels) // recipe.batch_size
        if self.batches == 0:
            raise ValueError(f"{len(self.labels)} pictures do not fill one batch of {recipe.batch_size}.")
        self.steps, self.step, self.seconds = recipe.epochs * self.batches, 0, 0.0

        torch.manual_seed(recipe.seed)
        self.network = Cifar10Net().to(device)
        self.teachers = [_trained(Path(file)).to(device) for file in recipe.teachers]
        settings = asdict(recipe) | {"teachers": tuple(sha256(Path(file)) for file in recipe.teachers)}
        self.identity = {"recipe": settings, "pictures": len(self.labels)}  # of the run, whoever continues it
        if self.teachers:
            start_as(self.network, self.teachers[0])
        else:
            self.network.whitening.fit(normalise(self.pictures[:5000]))
        self.average = AveragedModel(
            self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.averaging), use_buffers=True
        )
        # Muon takes matrices only: it updates each filter bank through a flat view of the same memory.
        self.filters = [p for p in self.network.parameters() if p.ndim == 4 and p.requires_grad]
        self.matrices = [nn.Parameter(p.detach().flatten(1)) for p in self.filters]
        others = [p for p in self.network.parameters() if p.ndim != 4 and p.requires_grad]
        self.optimizers = (
            torch.optim.Muon(self.matrices, lr=recipe.muon_lr, momentum=recipe.muon_momentum, weight_decay=0.0),
            torch.optim.AdamW(others, lr=recipe.adam_lr, weight_decay=recipe.adam_weight_decay),
        )
        self.schedules = tuple(LambdaLR(optimizer, self._rate) for optimizer in self.optimizers)

    def _rate(self, step: int) -> float:
        """The learning rate of `step` as a share of the highest: it rises, stays, and falls to nothing at the end.

        While it stays, nothing depends on the number of epochs: a longer run begins as a shorter one does.
        """
        rise = (step + 1) / (self.recipe.warm_up * self.batches)
        return min(1.0, rise, self._fall(step))

    def _fall(self, step: int) -> float:
        """The steps left as a share of those in which the learning rate falls: above 1 until it does."""
        return (self.steps - step) / (self.recipe.cool_down * self.steps)

    def advance(self) -> float:
        """Take one step; return its loss. Randomness depends on (seed, step) only, so a resumed run repeats it."""
        started = time.monotonic()
        recipe = self.recipe
        epoch, batch = divmod(self.step, self.batches)
        shuffle = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        noise = torch.Generator().manual_seed(recipe.seed * 1_000_003 + 500_000 + self.step)

        order = torch.randperm(len(self.labels), generator=shuffle)
        chosen = order[batch * recipe.batch_size :][: recipe.batch_size].to(self.device)
        labels = self.labels[chosen]
        side = self.pictures.shape[-1] if self._fall(self.step) < 1 else recipe.crop
        pictures, own = augment(normalise(self.pictures[chosen]), side, recipe, noise)
        pictures = pictures.to(memory_format=torch.channels_last)

        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = F.cross_entropy(self.network(pictures), self._targets(pictures, labels, own, noise))
        self.network.zero_grad()
        loss.backward()
        for matrix, filters in zip(self.matrices, self.filters, strict=True):
            assert filters.grad is not None
            matrix.grad = filters.grad.flatten(1)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
        self._rescale_filters()
        self.average.update_parameters(self.network)
        self.step += 1
        loss_value = loss.item()
        self.seconds += time.monotonic() - started
        return loss_value

    @torch.no_grad()
    def _targets(self, pictures: Tensor, labels: Tensor, own: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 10) probabilities to learn: the labels by the area they have, smoothed, and what a teacher answers.

        A teacher chosen at random answers, to the pictures moved at random by a pixel at most. So what is learned in
        the long run is the mean of the answers of all teachers to all places, for the price of one answer.
        """
        true = F.one_hot(labels, len(CLASSES)).float()
        mixed = own[:, None] * true + (1 - own[:, None]) * true.roll(1, 0)
        smooth = mixed * (1 - self.recipe.label_smoothing) + self.recipe.label_smoothing / len(CLASSES)
        if not self.teachers:
            return smooth
        teacher = self.teachers[int(torch.randint(len(self.teachers), (), generator=generator))]
        row, column = torch.randint(3, (2,), generator=generator).tolist()
        side = pictures.shape[-1]
        moved = F.pad(pictures, [1] * 4, mode="reflect")[:, :, row : row + side, column : column + side]
        moved = moved.contiguous(memory_format=torch.channels_last)
        return smooth.lerp(teacher(moved).float().softmax(1), self.recipe.taught)

    @torch.no_grad()
    def _rescale_filters(self) -> None:
        """Keep each filter bank's norm.

        Normalisation follows, so only its direction matters, and Muon's steps (of fixed length) would otherwise grow
        it and with it shrink the effective learning rate.
        """
        for matrix in self.matrices:
            matrix.mul_(len(matrix) ** 0.5 / matrix.norm())

    def save(self, path: Path) -> None:
        """Write the checkpoint; a checkpoint that is already there is replaced only by a whole one."""
        state: dict[str, Any] = self.identity | {"step": self.step, "seconds": self.seconds}
        state["network"] = self.network.state_dict()
        state["average"] = self.average.state_dict()
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        state["schedules"] = [schedule.state_dict() for schedule in self.schedules]
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint. Raises ValueError when it is damaged, or of another recipe or data set."""
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            same = all(state[key] == value for key, value in self.identity.items())
        except Exception as error:  # on a damaged file torch raises nearly anything
            raise ValueError(
                f"{path} is damaged or no checkpoint of this training ({reason(error)}); "
                "remove it, or give another --run folder."
            ) from error
        if not same:
            raise ValueError(
                f"{path} belongs to another run (other settings, teachers or number of pictures); "
                "give the settings it was started with, or another --run folder."
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


def _trained(path: Path) -> Cifar10Net:
    """The network whose weights `path` holds, in evaluation mode. Raises ModelError when they are not such weights."""
    tensors = read_tensors(path)
    network = network_for(tensors).eval()
    check_fit(tensors, network, "cifar10", path)
    network.load_state_dict(tensors)
    return network


def train(
    data: Split, recipe: Recipe, checkpoint: Path, device: torch.device, report: Callable[[Progress], None]
) -> Cifar10Net:
    """Train to the end and return the averaged network, in evaluation mode.

    Continues from `checkpoint` when it exists, and writes it after every epoch and when SIGINT or SIGTERM
    arrives; then Interrupted is raised, and the same call later ends where an uninterrupted one would have.
    """
    training = Training(data, recipe, device)
    if checkpoint.exists():
        training.resume(checkpoint)
    with _stop_signals() as stopped:
        while training.step < training.steps:
            loss = training.advance()
            report(Progress(training.step, training.steps, loss, training.seconds))
            if stopped or training.step % training.batches == 0:
                training.save(checkpoint)
            if stopped:
                raise Interrupted(f"stopped after step {training.step} of {training.steps}; saved to {checkpoint}")
    network = training.average.module
    assert isinstance(network, Cifar10Net)
    return network.eval()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them, so that the step under way is finished and saved."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
