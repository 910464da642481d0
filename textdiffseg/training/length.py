"""The length of a run: how its epochs are divided between masks and sampler, and how they follow the machine's pace.

The sampler gets the share s of the time, at the end of the run. Its iteration takes c times that of the masks. After m
iterations of the masks it thus has m s / (1 - s) / c.
"""

from textdiffseg.folds.position import ScheduleStart, TrainingPosition


def split_stages(position: TrainingPosition) -> TrainingPosition:
    """The position with `denoiser_epoch`: `denoiser_share` of the time since `start` is left.

    In a run of few epochs the sampler's epoch is shorter than the others. It has none if the share is 0, or if the
    run has a single epoch. If a finished run becomes one epoch longer, only the sampler learns in that epoch. The
    masks have learned before, and samples must fit them.
    """
    length = position.epochs - position.start.epoch
    if position.denoiser_share == 0 or position.epochs < 2:
        return position.after(denoiser_epoch=None)
    if length < 2:
        return position.after(denoiser_epoch=position.start.epoch, denoiser_per_epoch=None)
    last = position.denoiser_share / position.denoiser_cost  # epochs for the sampler, per epoch without one
    share = last / (1 - position.denoiser_share + last)
    count = max(1, min(length - 1, round(share * length)))
    first = max(position.epoch + 1, position.epochs - count)
    per_epoch = round(_sampler_iterations(position, first) / count)
    per_epoch = max(1, min(position.iterations_per_epoch, per_epoch))
    return position.after(denoiser_epoch=first, denoiser_per_epoch=per_epoch)


def with_mask_epochs(position: TrainingPosition, epochs: int) -> TrainingPosition:
    """The position with `epochs` epochs for the masks, and further ones for the sampler's share of the time."""
    epochs = max(position.epoch + 1, epochs)
    if position.denoiser_share == 0:
        return position.after(epochs=epochs, denoiser_epoch=None)
    return _with_sampler(position, epochs, _sampler_iterations(position, epochs))


def with_new_end(position: TrainingPosition, **changes: object) -> TrainingPosition:
    """The position of a finished run with a new end: the learning rate warms up again and decays.

    The run ends with epochs of the sampler, if it has a share for it.
    """
    start = ScheduleStart(iteration=position.iteration, epoch=position.epoch, seconds=position.seconds)
    without = {"denoiser_epoch": None, "denoiser_per_epoch": None, "denoiser_seconds": 0.0}
    return split_stages(position.after(start=start, **without, **changes))


def follow_pace(position: TrainingPosition) -> TrainingPosition:
    """The position with a new number of epochs, which fill `limit_seconds` at the pace so far.

    Call it at the end of an epoch. A shared machine may become slower or faster. The learning rate follows the new
    length. The last epoch, in which the rate falls to 0, is never left out, and no epoch is added after it.
    """
    if position.limit_seconds is None:
        return position
    if position.denoiser_epoch is not None and position.epoch == position.denoiser_epoch:
        return _start_of_sampler(position)
    first, seconds = position.start.epoch, position.start.seconds
    if position.trains_sampler:
        first, seconds = position.denoiser_epoch or 0, position.denoiser_seconds
    pace = (position.epoch - first) / (position.seconds - seconds)
    if position.denoiser_epoch is None or position.trains_sampler:
        if position.epochs - position.epoch <= 1:
            return position
        left = position.limit_seconds - position.seconds
        return position.after(epochs=max(position.epoch + 1, position.epoch + round(left * pace)))
    if position.denoiser_epoch - position.epoch <= 1:
        return position
    of_masks = (position.limit_seconds - seconds) * (1 - position.denoiser_share)
    return with_mask_epochs(position, first + round(of_masks * pace))


def _start_of_sampler(position: TrainingPosition) -> TrainingPosition:
    """The position at the sampler's first epoch. It fills the time that is left, at its usual pace.

    But it gets between half and twice its share: the epochs of the masks may end early or late.
    """
    done = position.iteration - position.start.iteration
    left = (position.limit_seconds or 0) - position.seconds
    an_iteration = position.denoiser_cost * (position.seconds - position.start.seconds) / done
    usual = _sampler_iterations(position, position.epoch)
    iterations = min(max(left / an_iteration, usual / 2), 2 * usual)
    return _with_sampler(position, position.epoch, iterations).after(denoiser_seconds=position.seconds)


def _sampler_iterations(position: TrainingPosition, first: int) -> float:
    """The sampler's iterations if its share of the time begins with epoch `first`."""
    masks = (first - position.start.epoch) * position.iterations_per_epoch
    return masks * position.denoiser_share / (1 - position.denoiser_share) / position.denoiser_cost


def _with_sampler(position: TrainingPosition, first: int, iterations: float) -> TrainingPosition:
    """The position with so many iterations of the sampler from epoch `first` on, in epochs of equal length."""
    count = max(1, round(iterations / position.iterations_per_epoch))
    per_epoch = max(1, round(iterations / count))
    return position.after(epochs=first + count, denoiser_epoch=first, denoiser_per_epoch=per_epoch)
