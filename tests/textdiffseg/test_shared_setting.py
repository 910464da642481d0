"""A setting of the process is restored, also after threads that overlap."""

import pytest

from textdiffseg.shared_setting import SharedSetting


def test_the_last_of_several_contexts_restores_what_the_first_one_found():
    setting = ["as before"]

    def write(value: str) -> None:
        setting[0] = value

    shared = SharedSetting(lambda: setting[0], write)
    first, second = shared.set_to("changed"), shared.set_to("changed")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert setting == ["changed"]
    second.__exit__(None, None, None)
    assert setting == ["as before"]
    with pytest.raises(RuntimeError), shared.set_to("changed"):
        raise RuntimeError
    assert setting == ["as before"]
