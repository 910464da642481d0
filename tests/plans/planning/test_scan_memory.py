from plans.planning.scan_memory import SLAB_BYTES, ram_bytes


def test_host_memory_grows_with_classes_and_voxels():
    small = ram_bytes(1, 2, (50, 50, 50), (100, 100, 100), (100, 100, 100))
    assert ram_bytes(1, 20, (50, 50, 50), (100, 100, 100), (100, 100, 100)) > small
    longer = ram_bytes(1, 2, (50, 50, 50), (200, 100, 100), (200, 100, 100))
    assert longer - small <= 100**3 * (4 + 8), "image and mask; the sums hold one patch along D"


def test_a_slab_leaves_the_sums_while_no_window_is_computed():
    """Only the larger of the two counts."""

    def need(windows):
        return ram_bytes(1, 40, (64, 160, 168), (275, 300, 300), (275, 300, 300), windows)

    slab = 1.5 * SLAB_BYTES
    assert need(0.9 * slab) == need(0)
    assert need(slab + 5e8) == need(0) + 5e8
