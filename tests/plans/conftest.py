"""Fingerprints from given numbers."""

import pytest

from plans.fingerprint import CaseFingerprint, Fingerprint, LabelFingerprint


def build_fingerprint(
    shape, spacing, cases=20, thickness=(10.0,), channels=1, cropped=None, samples=((1.0, 2.0, 3.0, 4.0),)
) -> Fingerprint:
    """`shape` and `spacing` are those of all cases, or lists with one entry per case."""
    shapes = shape if isinstance(shape, list) else [shape] * cases
    spacings = spacing if isinstance(spacing, list) else [spacing] * len(shapes)
    labels = tuple(
        LabelFingerprint(label=number, voxels=100, volume_mm3=100, thickness_mm=mm, extent_mm=(mm, mm, mm))
        for number, mm in enumerate(thickness, start=1)
    )
    return Fingerprint(
        dataset="Dataset001_Test",
        cases=tuple(
            CaseFingerprint(
                case=f"case_{index}",
                shape=one,
                spacing=mm,
                cropped_shape=cropped or one,
                intensities=(samples * channels)[:channels],
                labels=labels,
                content_hash=str(index),
            )
            for index, (one, mm) in enumerate(zip(shapes, spacings, strict=True))
        ),
    )


@pytest.fixture(scope="session")
def make_fingerprint():
    """`build_fingerprint`, for tests that cannot import their neighbours."""
    return build_fingerprint
