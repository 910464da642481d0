import pytest

from textdiffseg.progress import Cancelled, ProgressEvent, share_of, share_of_case, step_reporter


def test_a_pass_is_a_share_of_the_whole():
    steps = []
    second = share_of(lambda *step: steps.append(step), before=0.25, share=0.5)
    second(0, 8)
    second(8, 8)
    assert steps == [(2, 8), (6, 8)], "the whole has as many steps as the pass"
    of_cases = share_of(lambda *step: steps.append(step), before=0.25, share=0.5, total=4)
    of_cases(4, 8)
    assert steps[-1] == (2, 4)
    assert share_of(None, 0, 1) is None


def test_the_steps_of_all_cases_are_the_cases():
    steps = []
    share_of_case(lambda *step: steps.append(step), 2, 5)(4, 8)
    assert steps == [(2.5, 5)]
    assert share_of_case(None, 0, 5) is None


def test_steps_are_events_and_may_be_stopped():
    events, forecasts, stop = [], [], []
    report = step_reporter(
        events.append,
        lambda: bool(stop),
        "Predict {done}",
        "case",
        "Predict {done} of {total}.",
        detail="a",
        forecast=lambda *step: forecasts.append(step),
    )
    report(1.5, 3)
    assert events == [ProgressEvent("Predict {done}", 1.5, 3, "case", "a")]
    assert forecasts == [(1.5, 3)]
    stop.append(True)
    with pytest.raises(Cancelled, match=r"^Predict 2 of 3\.$"):
        report(2.5, 3.0)
