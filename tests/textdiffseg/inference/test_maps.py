"""Maps that arrive slab by slab."""

import numpy as np
import pytest

from textdiffseg.inference.maps import Maps


def test_a_full_disk_names_the_folder_of_the_outputs(tmp_path, full_disk):
    folder = tmp_path / ".case.tmp"
    folder.mkdir()
    with full_disk(), pytest.raises(OSError) as error:  # noqa: PT011
        Maps((2, 3, 4), folder).add("entropy", 0, np.zeros((2, 3, 4)))
    assert error.value.filename == str(tmp_path)
